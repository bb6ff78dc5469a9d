"""The marks that families write around reasoning and calls, and where an answer goes on from a prompt.

A family is known by the marks in its template, never by its name. Facts about the formats: the
templates themselves, and the parsers of llama.cpp (common/chat.cpp) and vLLM (tool_parsers).
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache


@dataclass(frozen=True, slots=True)
class ReasoningMarks:
    """What opens and closes reasoning in an answer."""

    opening: str
    closing: str


REASONING = (
    ReasoningMarks("<think>", "</think>"),
    ReasoningMarks("<seed:think>", "</seed:think>"),
    ReasoningMarks("<mm:think>", "</mm:think>"),
    ReasoningMarks("[THINK]", "[/THINK]"),
    ReasoningMarks("<|START_THINKING|>", "<|END_THINKING|>"),
    ReasoningMarks("<|channel>thought\n", "<channel|>"),
    ReasoningMarks("<|inner_prefix|>", "<|inner_suffix|>"),
    ReasoningMarks("<|think|>", "<|end|>"),
    ReasoningMarks("<think:opensource>", "</think:opensource>"),
)
SEAMS = ("<|start|>assistant", "<|begin|>assistant", ">>>")
"""Generation prompts that end in the middle of a turn's head."""

JSON_CALLS = {
    "<tool_calls>": ("</tool_calls>",),
    "<|tool_call|>": ("<|/tool_call|>",),
    "<TOOLCALL>": ("</TOOLCALL>",),
    "<|START_ACTION|>": ("<|END_ACTION|>",),
    "<|python_tag|>": ("<|eom_id|>",),
    "<|function_call|>": ("<|message_sep|>",),
    "function call<|role_sep|>\n": ("<|message_sep|>",),
}
"""Marks that JSON follows: an object with name and arguments, several, or a list; and what closes them."""

NESTED_MARK = "]<]minimax[>["
"""Stands before every element of MiniMax M3's calls."""
OTHER_CALLS = (
    "<tool_call>",
    "<function=",
    "[TOOL_CALLS]",
    "<start_function_call>",
    "<|tool_call>",
    "<｜tool▁call▁begin｜>",
    "<|tool_call_begin|>",
    "<|tool_call_start|>",
    "<|tools_prefix|>",
    "<|tool_call:begin|>",
    '<invoke name="',
    '<｜DSML｜invoke name="',
    '<atem:invoke name="',
    "commentary to=functions.",
    NESTED_MARK + '<invoke name="',
    "<tool_call:opensource>",
)
SILENT = (
    "<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_end|>",
    "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁end｜>",
    "<seed:tool_call>", "</seed:tool_call>", "<minimax:tool_call>", "</minimax:tool_call>",
    "<｜DSML｜tool_calls>", "</｜DSML｜tool_calls>", "<｜DSML｜function_calls>", "</｜DSML｜function_calls>",
    "<atem:function_calls>", "</atem:function_calls>", "<|tool_calls|>", "<|tool_call:end|>",
    "<|START_RESPONSE|>", "<|END_RESPONSE|>", "<|START_TEXT|>", "<|END_TEXT|>", "<|tools_suffix|>",
    "<|eom_id|>", "[BEGIN FINAL RESPONSE]", "[END FINAL RESPONSE]", "<end_function_call>", "<tool_call|>",
    NESTED_MARK, NESTED_MARK + "<tool_call>", NESTED_MARK + "</tool_call>",
    "<tool_calls:opensource>", "</tool_calls:opensource>",
    "<|eom|>", "<|eot|>", "<|call|>", "<|return|>", "<|end|>", "<|content|>",
)  # fmt: skip
"""Marks that only frame what is said."""
HEADS = ("<|channel|>", "<|start|>", "<|begin|>")
"""Marks that begin the head of a message inside an answer (harmony and its kin)."""
_HEAD_PARTS: tuple[str, ...] = (
    "<|message|>",
    "<|constrain|>",
    "[CALL_ID]",
    "[ARGS]",
    '<|"|>',
    "<｜tool▁sep｜>",
)
_HEAD_PARTS += ("<|tool_call_argument_begin|>", "<|tool_call:name|>", "<|tool_call:args|>")

ALL_MARKS = frozenset(
    {
        *(mark for kind in REASONING for mark in (kind.opening.rstrip(), kind.closing)),
        *JSON_CALLS,
        *(closing for closings in JSON_CALLS.values() for closing in closings),
        *OTHER_CALLS,
        *SILENT,
        *HEADS,
        *_HEAD_PARTS,
        "<|channel>",
        "<|role_sep|>",
        "<｜DSML｜",
        "｜DSML｜",
        "<escape>",
        *(f"<{end}{part}:opensource>" for end in ("", "/") for part in ("tool_call", "arg_key", "arg_value")),
        "<tool_sep:opensource>",
    }
)
"""Control tokens that are kept in an answer's text, because the reader needs them."""

_SET = re.compile(r"""\{%-?\s*set\s+(\w+)\s*=\s*(['"])([^'"{}%\n]{1,64})\2""")
_MADE = re.compile(r"""(['"])([^'"\n]{0,64}\{\}[^'"\n]{0,64})\1\.format\(\s*(\w+)\s*\)""")
_PUT_BEFORE = re.compile(r"""(\w{1,64})[ ]{0,8}[~+][ ]{0,8}(['"])([^'"\n]{1,64})\2""")


@lru_cache(maxsize=64)
def with_made_marks(template: str) -> str:
    """The template, and the marks that it puts together: ``'<think{}>'.format(x)`` (Hy3),
    ``x ~ '<tool_call>'`` (MiniMax M3)."""
    set_to = {found[1]: found[3] for found in _SET.finditer(template)}
    made = [one[2].replace("{}", set_to[one[3]]) for one in _MADE.finditer(template) if one[3] in set_to]
    made += [set_to[one[1]] + one[3] for one in _PUT_BEFORE.finditer(template) if one[1] in set_to]
    return "\n".join([template, *dict.fromkeys(made)]) if made else template
