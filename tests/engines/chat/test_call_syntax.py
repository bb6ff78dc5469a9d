"""A template's syntax of calls is found by letting it write one, and a grammar demands it."""

from __future__ import annotations

import json
from dataclasses import asdict
from functools import cache
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("llguidance")

from llguidance import LLMatcher

from stepwell.engines.base import ID, CallSyntax, SamplingParams
from stepwell.engines.llamacpp.call_grammar import of_calls
from stepwell.engines.llamacpp.chat import ChatTemplate
from stepwell.engines.llamacpp.chat.call_syntax import call_syntax
from stepwell.engines.llamacpp.chat.marks import ControlMarks
from stepwell.engines.llamacpp.chat.reader import MarkReader
from stepwell.engines.llamacpp.grammar import grammar_of
from stepwell.engines.llamacpp.vocabulary import bytes_tokenizer

TURN = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content }}"
END = "<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
EACH = "{% for c in m.tool_calls or [] %}"
NAME, ARGUMENTS = "{{ c.function.name }}", "{{ c.function.arguments | tojson }}"
FURTHER = "{% if not loop.first %}"
HERMES = (
    TURN
    + EACH
    + FURTHER
    + '{{ "\\n" }}{% endif %}<tool_call>\n{"name": "'
    + NAME
    + '", "arguments": '
    + ARGUMENTS
    + "}\n</tool_call>{% endfor %}"
    + END
)
MISTRAL = (
    TURN
    + "{% if m.tool_calls %}[TOOL_CALLS]["
    + EACH
    + FURTHER
    + ', {% endif %}{"name": "'
    + NAME
    + '", "arguments": '
    + ARGUMENTS
    + ', "id": "{{ c.id }}"}{% endfor %}]{% endif %}'
    + END
)
NAMED = TURN + EACH + "[TOOL_CALLS]" + NAME + "[ARGS]" + ARGUMENTS + "{% endfor %}" + END
THINKING = HERMES.replace("assistant\n{% endif %}", "assistant\n<think>\n{% endif %}").replace(
    "{{ m.content }}", "{% if m.role == 'assistant' %}<think>\n\n</think>\n\n{% endif %}{{ m.content }}"
)
ONE_A_TURN = (
    TURN
    + EACH
    + FURTHER
    + '<|im_end|>\n<|im_start|>assistant\n{% endif %}{"name": "'
    + NAME
    + '", "parameters": '
    + ARGUMENTS
    + "}{% endfor %}"
    + END
)
ELEMENTS = (
    TURN
    + EACH
    + "<tool_call>\n<function="
    + NAME
    + ">\n{% for k, v in c.function.arguments | items %}<parameter={{ k }}>\n{{ v }}\n</parameter>"
    + "{% endfor %}</function>\n</tool_call>{% endfor %}"
    + END
)
MARKS = ("<|im_start|>", "<|im_end|>", "[TOOL_CALLS]", "[ARGS]", "<think>", "</think>")


@cache
def found(template: str) -> CallSyntax | None:
    chat = ChatTemplate(template, "", "<|im_end|>", ControlMarks(MARKS, template))
    return call_syntax(chat.render, template, ["<|im_end|>"])


HERMES_SYNTAX = CallSyntax(
    ('<tool_call>\n{"name": "',),
    ('", "arguments": ',),
    ("}\n</tool_call>",),
    ('}\n</tool_call>\n<tool_call>\n{"name": "',),
)


def test_each_familys_own_syntax_is_found() -> None:
    assert found(HERMES) == HERMES_SYNTAX
    assert found(NAMED) == CallSyntax(("[TOOL_CALLS]",), ("[ARGS]",), (), ("[TOOL_CALLS]",))
    mistral = found(MISTRAL)
    assert mistral is not None
    assert mistral.after == (', "id": "', ID, '"}]')
    assert mistral.between == (', "id": "', ID, '"}, {"name": "')


def test_a_prompt_that_opens_reasoning_is_gone_straight_past() -> None:
    thinking = found(THINKING)
    assert thinking is not None and thinking.straight
    assert thinking.before == HERMES_SYNTAX.before


def test_two_calls_with_the_end_of_a_turn_between_them_are_not_demanded_in_one() -> None:
    one = found(ONE_A_TURN)
    assert one is not None
    assert (one.before, one.between) == (('{"name": "',), None)


def test_arguments_that_are_no_json_have_no_syntax_here() -> None:
    assert found(ELEMENTS) is None


def test_a_template_that_knows_no_calls_has_the_syntax_that_the_server_tells_its_model() -> None:
    assert found(TURN + END) == HERMES_SYNTAX


# --- the grammar ------------------------------------------------------------------------------

TOOLS: dict[str, Any] = {
    "weather": {
        "type": "object",
        "properties": {"city": {"type": "string"}, "days": {"type": "integer"}},
        "required": ["city"],
        "additionalProperties": False,
    },
    "stop": {"type": "object", "properties": {}, "additionalProperties": False},
}
_TOKENIZER = bytes_tokenizer()


def demanded(syntax: CallSyntax, most: int = 3, tools: dict[str, Any] = TOOLS) -> SamplingParams:
    return SamplingParams(calls=json.dumps({"syntax": asdict(syntax), "tools": tools, "most": most}))


def takes(sampling: SamplingParams, text: str) -> bool:
    """Whether the whole text is an answer."""
    matcher = LLMatcher(_TOKENIZER, grammar_of(sampling), log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    tokens = [*text.encode(), 256]
    return bool(matcher.validate_tokens(tokens) == len(tokens))


def written(syntax: CallSyntax, calls: list[tuple[str, dict[str, Any]]]) -> str:
    pieces = [*syntax.before]
    for number, (name, arguments) in enumerate(calls):
        pieces += (syntax.between or ()) if number else ()
        pieces += [name, *syntax.middle, json.dumps(arguments)]
    return "".join("abcdef123" if piece == ID else piece for piece in (*pieces, *syntax.after))


words = st.text(st.characters(codec="utf-8", exclude_categories=["Cs", "Cc"]), max_size=20)
one_call = st.one_of(
    st.just(("stop", {})),
    words.map(lambda city: ("weather", {"city": city})),
    st.tuples(words, st.integers(-99, 99)).map(lambda two: ("weather", {"city": two[0], "days": two[1]})),
)


@settings(max_examples=25, deadline=None)
@given(st.lists(one_call, min_size=1, max_size=3), st.sampled_from([HERMES, MISTRAL, NAMED, THINKING]))
def test_what_the_grammar_takes_is_read_as_the_same_calls(calls: list[Any], template: str) -> None:
    syntax = found(template)
    assert syntax is not None
    text = written(syntax, calls)
    if "\\u" not in text:  # spelled otherwise than the grammar writes it
        assert takes(demanded(syntax), text)
    reader = MarkReader(TOOLS, template)
    read: list[list[str]] = []
    for part in (*reader.add(text), *reader.finish()):
        if part.kind == "call":
            read.append([part.text, ""])
        elif part.kind == "arguments":
            read[part.call][1] += part.text
    assert [(name, json.loads(arguments)) for name, arguments in read] == calls


@pytest.mark.parametrize(
    "calls",
    [
        [("other", {})],
        [("weather", {})],
        [("weather", {"city": 5})],
        [("stop", {"city": "Rome"})],
        [("stop", {})] * 4,
    ],
)
def test_other_calls_are_not_taken(calls: list[Any]) -> None:
    assert not takes(demanded(HERMES_SYNTAX), written(HERMES_SYNTAX, calls))


def test_neither_words_nor_nothing_are_an_answer() -> None:
    assert not takes(demanded(HERMES_SYNTAX), "")
    assert not takes(demanded(HERMES_SYNTAX), "Sure! " + written(HERMES_SYNTAX, [("stop", {})]))
    two = written(HERMES_SYNTAX, [("stop", {}), ("stop", {})])
    assert takes(demanded(HERMES_SYNTAX), two)
    assert not takes(demanded(HERMES_SYNTAX, most=1), two)


def test_marks_of_the_vocabulary_are_demanded_as_tokens() -> None:
    """Where ``<tool_call>`` is one token, its letters one by one are not what the model was taught."""
    calls = demanded(HERMES_SYNTAX, 1).calls or ""
    grammar = of_calls(calls, {}, {"<tool_call>": 7, "</tool_call>": 8, "<tool": 9})
    matcher = LLMatcher(_TOKENIZER, grammar, log_level=0)
    assert not matcher.is_error()
    body = '\n{"name": "stop", "arguments": {}}\n'
    assert matcher.validate_tokens([7, *body.encode(), 8]) == len(body) + 2
    assert matcher.validate_tokens(list(b"<tool_call>")) == 0


def test_a_schema_that_cannot_be_used_is_named() -> None:
    tools = {
        "bad": {"type": "object", "properties": {"x": {"not": {"type": "string"}, "unevaluatedItems": 3}}}
    }
    with pytest.raises(ValueError, match=r"JSON schema of the tool 'bad'"):
        grammar_of(demanded(HERMES_SYNTAX, tools=tools))
