"""On three wires: a client puts together from a stream what it gets in one piece, wherever it is cut."""

from __future__ import annotations

import json
from itertools import pairwise
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic_core import from_json

from stepwell.basics.per_tier import NOTHING
from stepwell.engines.base import SamplingParams
from stepwell.loop.requests import Admitted, Delta, Finished, Output, TokenInfo
from stepwell.policy.types import Caller
from stepwell.server.anthropic.answer import MessageShape
from stepwell.server.backends.bridge import Arrival
from stepwell.server.chat.answer import ChatShape
from stepwell.server.generation.constraints import FREE
from stepwell.server.generation.tools import build_tools
from stepwell.server.generation.turns import Ask, Progress
from stepwell.server.responses.answer import ResponseShape
from stepwell.server.responses.request import ResponseRequest
from stepwell.server.settings import ServerSettings
from stepwell.server.wire.schema import ChatRequest, Function
from tests.server.fakes import INFO, MODEL, FakeText, call

CITY = {"type": "object", "properties": {"city": {"type": "string"}, "days": {"type": "integer"}}}
TOOLS = build_tools(
    [Function(name="weather", parameters=CITY), Function(name="now")], None, FREE, ServerSettings()
)
ELEMENTS = "<function=weather><parameter=city>\n5\n</parameter><parameter=days>3</parameter></function>"
PIECES = [
    "<think>\nHm, é.\n</think>\n\n", "It is ", "warm.\n", call("weather", city="Rome"), call("now"), ELEMENTS,
    "<tool_call>", '{"name": "weather", "arguments": {"city": "Ro', call("unknown"), "[1, 2]",
    "\n", "```json\n",
]  # fmt: skip
ANSWERS = [
    "Plain.",
    "<think>Hm.</think>Yes.",
    "<think>Hm.</think>I look." + call("weather", city="Rome") + call("now"),
    "<think>never closed",
    "I see " + ELEMENTS,
    "",
]


def shape_of(wire: str, opening: str) -> Any:
    service: Any = SimpleNamespace(text_model=FakeText(INFO), now_s=lambda: 7.0, books=None)
    ask = Ask(SamplingParams(), (), 64, 64, 4096, Caller("local"))
    if wire == "chat":
        asked = {"model": MODEL, "messages": [{"role": "user", "content": "hi"}]}
        wanted = ChatRequest.model_validate(
            {**asked, "stream": True, "stream_options": {"include_usage": True}}
        )
        shape: Any = ChatShape(service, wanted, ask, TOOLS, 1, {})
    elif wire == "responses":
        shape = ResponseShape(
            service, ResponseRequest.model_validate({"model": MODEL, "input": "hi"}), ask, TOOLS
        )
    else:
        shape = MessageShape(service, ask, TOOLS, MODEL, "req", False, shows_thinking=True)
    shape.opening = opening
    return shape


def outputs(text: str, cuts: list[int]) -> list[Output]:
    places = [0, *sorted(min(cut, len(text)) for cut in cuts), len(text)]
    pieces = [text[start:end] for start, end in pairwise(places)]
    deltas = [Delta(piece, tuple(map(TokenInfo, piece.encode()))) for piece in pieces]
    n = len(text.encode())
    return [Admitted(0, NOTHING, 1), *deltas, Finished("stop", None, 9, n, 0, 1, 2, 0)]


def streamed(wire: str, text: str, cuts: list[int], opening: str) -> list[dict[str, Any]]:
    shape = shape_of(wire, opening)
    events = list(shape.begin())
    for output in outputs(text, cuts):
        events += shape.take(Arrival(0, output))
    return [*events, *shape.end()]


def whole(wire: str, text: str, opening: str) -> dict[str, Any]:
    shape, progress = shape_of(wire, opening), Progress()
    for output in outputs(text, []):
        progress.take(output)
    answer = shape.whole([progress])
    assert isinstance(answer, dict)
    return answer


def chat_message(chunks: list[dict[str, Any]]) -> dict[str, Any]:
    message: dict[str, Any] = {"content": "", "reasoning_content": "", "tool_calls": []}
    for chunk in chunks:
        for delta in (choice["delta"] for choice in chunk["choices"]):
            message["content"] += delta.get("content", "")
            message["reasoning_content"] += delta.get("reasoning_content", "")
            for one in delta.get("tool_calls", ()):
                if one["index"] == len(message["tool_calls"]):
                    message["tool_calls"].append({"name": one["function"]["name"], "arguments": ""})
                message["tool_calls"][one["index"]]["arguments"] += one["function"].get("arguments", "")
    return message | {"usage": chunks[-1]["usage"]["completion_tokens_details"]}


def chat_whole(answer: dict[str, Any]) -> dict[str, Any]:
    message = answer["choices"][0]["message"]
    return {
        "content": message["content"] or "",
        "reasoning_content": message.get("reasoning_content", ""),
        "tool_calls": [dict(one["function"]) for one in message.get("tool_calls", ())],
        "usage": answer["usage"]["completion_tokens_details"],
    }


def blocks(events: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """As the official client puts them together."""
    made: list[dict[str, Any]] = []
    for event in events:
        if event["type"] == "content_block_start":
            assert event["index"] == len(made)
            made.append({**event["content_block"], "json": ""})
        elif event["type"] == "content_block_delta":
            delta, block = event["delta"], made[event["index"]]
            assert event["index"] == len(made) - 1
            for name in ("text", "thinking", "signature"):
                block[name] = block.get(name, "") + delta.get(name, "")
            block["json"] += delta.get("partial_json", "")
    return [flat(one, from_json(one["json"], allow_partial=True) if one["json"] else {}) for one in made]


def flat(block: dict[str, Any], given: Any) -> dict[str, Any]:
    names = {"text": ("text",), "thinking": ("thinking", "signature"), "tool_use": ("name",)}[block["type"]]
    inputs = {"input": given} if block["type"] == "tool_use" else {}
    return {"type": block["type"], **{name: block[name] for name in names}, **inputs}


def said(events: list[dict[str, Any]]) -> list[tuple[str, str]]:
    """What the deltas of a Responses stream say, and what each item says when it is done."""
    pieces: dict[int, str] = {}
    done: dict[int, dict[str, Any]] = {}
    for event in events:
        if event["type"].endswith(".delta"):
            pieces[event["output_index"]] = pieces.get(event["output_index"], "") + event["delta"]
        elif event["type"] == "response.output_item.done":
            done[event["output_index"]] = event["item"]
    assert [text_of(done[at]) for at in sorted(done)] == [pieces.get(at, "") for at in sorted(done)]
    return [(done[at]["type"], pieces.get(at, "")) for at in sorted(done)]


def text_of(item: dict[str, Any]) -> str:
    return str(item["arguments"] if item["type"] == "function_call" else item["content"][0]["text"])


def check(text: str, cuts: list[int], opening: str) -> None:
    assert chat_message(streamed("chat", text, cuts, opening)) == chat_whole(whole("chat", text, opening))
    events = streamed("responses", text, cuts, opening)
    answer = whole("responses", text, opening)
    assert said(events) == [(item["type"], text_of(item)) for item in answer["output"]]
    assert events[-1]["response"]["usage"] == answer["usage"]
    assert [event["sequence_number"] for event in events] == list(range(len(events)))
    message = whole("messages", text, opening)
    merged = blocks(streamed("messages", text, cuts, opening))
    assert in_order(merged) == [flat(one, one.get("input")) for one in message["content"]]


def in_order(made: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Whole answers put the blocks of one kind together: thinking, text, calls."""
    found = []
    for kind, name in (("thinking", "thinking"), ("text", "text")):
        if of_kind := [one for one in made if one["type"] == kind]:
            joined = "".join(one[name] for one in of_kind)
            found.append({**of_kind[-1], name: joined})
    return [*found, *(one for one in made if one["type"] == "tool_use")]


@pytest.mark.parametrize("text", ANSWERS)
@pytest.mark.parametrize("opening", ["", "<think>"])
def test_every_cut_of_usual_answers(text: str, opening: str) -> None:
    for cut in range(len(text) + 1):
        check(text, [cut], opening)
    check(text, list(range(len(text))), opening)


@settings(max_examples=40, deadline=None)
@given(
    st.lists(st.sampled_from(PIECES), max_size=5),
    st.lists(st.integers(0, 300), max_size=5),
    st.sampled_from(["", "<think>"]),
)
def test_any_mixture(pieces: list[str], cuts: list[int], opening: str) -> None:
    check("".join(pieces), cuts, opening)


def test_reasoning_is_counted_in_tokens_up_to_the_mark_that_ends_it() -> None:
    details = whole("chat", "<think>Hm.</think>Yes.", "")["usage"]["completion_tokens_details"]
    assert details == {"reasoning_tokens": len("Hm.</think>")}
    usage = whole("responses", "Hm.</think>Yes.", "<think>")["usage"]["output_tokens_details"]
    assert usage == {"reasoning_tokens": len("Hm.</think>")}
    assert whole("messages", "Yes.", "")["usage"]["output_tokens_details"] == {"thinking_tokens": 0}


def test_values_without_quotes_become_what_the_schema_says() -> None:
    (made,) = chat_whole(whole("chat", ELEMENTS, ""))["tool_calls"]
    assert json.loads(made["arguments"]) == {"city": "5", "days": 3}


def test_arguments_are_sent_while_they_are_written() -> None:
    half = '<tool_call>{"name": "weather", "arguments": {"city": "Ro'
    for wire, kind in (("responses", "function_call_arguments.delta"), ("messages", "content_block_delta")):
        shape = shape_of(wire, "")
        shape.begin()
        shape.take(Arrival(0, Admitted(0, NOTHING, 1)))
        events = shape.take(Arrival(0, Delta(half, ())))
        assert [event["type"].removeprefix("response.") for event in events][-1] == kind
