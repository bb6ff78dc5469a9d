"""Which form of a conversation a template takes without losing a part of it.

A template is a program; what it refuses and what it drops is found by trying. The trial is a *shadow* of
the conversation: the same roles, calls and results, with a word of its own in every place, so that
a lost place shows. The plainest form that keeps every word wins. Equal outlines give equal forms, so an
agent's next turn is written as its last one was, and its prefix stays.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import combinations, product
from typing import Any

from stepwell.engines.llamacpp.chat.messages import Message
from stepwell.engines.llamacpp.chat.repairs import (
    Repair,
    calls_in_words,
    folded_system,
    in_words,
    late_system_as_user,
    merged_roles,
    named_results,
    one_call_a_turn,
    short_ids,
    text_arguments,
    text_before_calls,
    told,
    user_first,
    without_empty,
)

_REPAIRS: dict[str, Repair] = {
    "short ids": short_ids,
    "arguments as text": text_arguments,
    "one call a turn": one_call_a_turn,
    "named results": named_results,
    "text before calls": text_before_calls,
    "no empty turns": without_empty,
    "late system as user": late_system_as_user,
    "roles merged": merged_roles,
    "system folded": folded_system,
    "user first": user_first,
}
"""In the order of preference."""
_ORDER = (
    "no empty turns", "text before calls", "late system as user", "system folded", "roles merged",
    "one call a turn", "short ids", "named results", "arguments as text", "user first",
)  # fmt: skip
"""In the order in which they are applied. Roles are merged after whatever makes neighbours."""
_AS_PYTHON = re.compile(r"'zq[0-9]+k[0-9]+a': ")
_COUNTS = ((0, 1, 2), (3, 4))
"""How many repairs at once: a few in every way of speaking before many in one."""
_MOST_TRIALS = 600


@dataclass(frozen=True, slots=True)
class Form:
    """What is done to a conversation before the template sees it."""

    repairs: frozenset[str] = frozenset()
    words: str = ""
    """``calls``: calls are written as text; ``all``: results too; empty: neither."""
    told: bool = False
    """The tools are explained in the system message."""
    no_tools: str = "none"
    """What the template gets when there are no tools: ``none``, ``list`` or ``undefined``."""

    @property
    def empty(self) -> list[Any] | None:
        return [] if self.no_tools == "list" else None

    def apply(
        self, messages: list[Message], tools: list[dict[str, Any]], template: str
    ) -> tuple[list[Message], list[dict[str, Any]]]:
        if self.words == "all":
            messages = in_words(messages, template)
        elif self.words == "calls":
            messages = [calls_in_words(message, template) for message in messages]
        if self.told:
            messages, tools = told(messages, tools), []
        for name in _ORDER:
            if name in self.repairs:
                messages = _REPAIRS[name](messages)
        return messages, tools


Attempt = Callable[[Form, list[Message], list[dict[str, Any]]], str | Exception]
Outline = tuple[Any, ...]


def outline(messages: Sequence[Message], tools: Sequence[dict[str, Any]]) -> Outline:
    """All that decides which form is needed: (has tools, (role, has text, calls, answers)...)."""
    places = {
        call["id"]: (number, index)
        for number, message in enumerate(messages)
        for index, call in enumerate(message.get("tool_calls") or ())
    }
    return (
        bool(tools),
        *(
            (
                message["role"],
                bool(message["content"].strip()),
                tuple(bool(call["function"]["arguments"]) for call in message.get("tool_calls") or ()),
                places.get(message.get("tool_call_id", "")),
            )
            for message in messages
        ),
    )


def _shadow(outline: Outline) -> tuple[list[Message], list[dict[str, Any]], list[list[str]]]:
    """(messages, tools, for every place the words that must be found)."""
    messages: list[Message] = []
    places: list[list[str]] = []
    for number, (role, has_text, calls, answers) in enumerate(outline[1:]):
        message: Message = {"role": role, "content": f"zq{number}w" if has_text else ""}
        words = [message["content"]] if has_text else []
        if calls:
            message["tool_calls"] = [_shadow_call(number, i, given) for i, given in enumerate(calls)]
            words += [f"zq{number}f{i}n" for i in range(len(calls))]
            words += [f"zq{number}v{i}a" for i, given in enumerate(calls) if given]
        if role == "tool":
            message["tool_call_id"] = "call_zq{}x{}i".format(*(answers or ("none", number)))
        messages.append(message)
        places.append(words)
    tools = [_shadow_tool()] if outline[0] else []
    return messages, tools, [*places, ["zqtooln"] if tools else []]


def _shadow_call(number: int, index: int, given: bool) -> dict[str, Any]:
    arguments = {f"zq{number}k{index}a": f"zq{number}v{index}a"} if given else {}
    function = {"name": f"zq{number}f{index}n", "arguments": arguments}
    return {"id": f"call_zq{number}x{index}i", "type": "function", "function": function}


def _shadow_tool() -> dict[str, Any]:
    parameters = {"type": "object", "properties": {"zqp": {"type": "string"}}, "required": ["zqp"]}
    function = {"name": "zqtooln", "description": "zqtoold", "parameters": parameters}
    return {"type": "function", "function": function}


USUAL: Outline = (
    True,
    ("system", True, (), None),
    ("user", True, (), None),
    ("assistant", False, (True, True), None),
    ("tool", True, (), (2, 0)),
    ("tool", True, (), (2, 1)),
    ("assistant", True, (), None),
    ("user", True, (), None),
)
"""An agent's conversation: its form is tried early for others, so that they are written alike."""


def find_form(outline: Outline, template: str, attempt: Attempt, usual: Form | None = None) -> Form:
    """The plainest form in which nothing is lost. Raises ``ValueError`` when there is none."""
    messages, tools, places = _shadow(outline)
    refusal: Exception | None = None
    for trial, form in enumerate(_forms(outline, template, usual)):
        if trial >= _MOST_TRIALS:
            break
        text = attempt(form, messages, tools)
        if isinstance(text, Exception):
            refusal = refusal or text
        elif not _lost(text, places):
            return form
    if refusal is not None:
        raise ValueError(str(refusal)) from refusal
    raise ValueError("it would leave out a part of the conversation")


def _lost(text: str, places: list[list[str]]) -> bool:
    """Whether a word is missing, or an object was written as Python writes it."""
    return _AS_PYTHON.search(text) is not None or any(word not in text for words in places for word in words)


def _forms(outline: Outline, template: str, usual: Form | None) -> Iterator[Form]:
    """From the plainest on: fewer repairs first, and words only where nothing else will do."""
    repairs = [name for name in _REPAIRS if _concerns(name, outline)]
    spoken = list(_spoken(outline, template))
    if usual is not None:
        yield spoken[0]
        yield replace(usual, no_tools=spoken[0].no_tools)
    for counts in _COUNTS:
        for form, count in product(spoken, counts):
            for chosen in combinations(repairs, count):
                yield replace(form, repairs=frozenset(chosen))


def _spoken(outline: Outline, template: str) -> Iterator[Form]:
    """How tools, calls and results reach the template."""
    knows = "tools" in template
    no_tools = ("none", "list", "undefined") if knows and not outline[0] else ("none",)
    has_calls = any(calls or role == "tool" for role, _, calls, _ in outline[1:])
    yield from (Form(no_tools=empty, told=not knows and outline[0]) for empty in no_tools)
    if knows and outline[0]:
        yield Form(told=True)
    if has_calls:
        yield from (Form(words="calls", no_tools=empty, told=not knows) for empty in no_tools if knows)
        yield from (Form(words="all", no_tools=empty, told=not knows) for empty in no_tools)
    yield Form(words="all", told=True, no_tools=no_tools[-1])


def _concerns(name: str, outline: Outline) -> bool:
    """Whether a repair could change anything in a conversation of this outline."""
    roles = [role for role, *_ in outline[1:]]
    calls = [calls for _, _, calls, _ in outline[1:]]
    match name:
        case "short ids" | "named results":
            return any(calls) or "tool" in roles
        case "arguments as text" | "text before calls":
            return any(calls)
        case "one call a turn":
            return any(len(made) > 1 for made in calls)
        case "no empty turns":
            return any(role == "assistant" and not (text or made) for role, text, made, _ in outline[1:])
        case "late system as user":
            return "system" in roles[1:]
        case "system folded":
            return "system" in roles or bool(outline[0])
    return True
