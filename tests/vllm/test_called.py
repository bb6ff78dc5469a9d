"""The tool that an answer of vLLM calls, in every dialect, whole and in pieces."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.types import Hint, Wait
from stepwell.server.generation.tool_kinds import tool_kind
from stepwell.vllm.called import MOST_ARGUMENT_CHARS, MOST_CALLS, Called
from tests.vllm.counting import CountingEngine, fronted

CALLS = [("crawl", '{"url": "x"}'), ("bash", '{"command": "pytest -q"}')]


def pieces(text: str) -> list[str]:
    return [text[at : at + 5] for at in range(0, len(text), 5)]


def chat(calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    said = [{"index": n, "function": {"name": name, "arguments": a}} for n, (name, a) in enumerate(calls)]
    return [{"choices": [{"index": 0, "message": {"role": "assistant", "tool_calls": said}}]}]


def chat_events(calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"delta": {"role": "assistant"}}]
    for n, (name, arguments) in enumerate(calls):
        found.append({"delta": {"tool_calls": [{"index": n, "function": {"name": name, "arguments": ""}}]}})
        found += [
            {"delta": {"tool_calls": [{"index": n, "function": {"arguments": one}}]}}
            for one in pieces(arguments)
        ]
    return [{"choices": [{"index": 0, **one}]} for one in found]


def messages(calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    blocks = [{"type": "tool_use", "name": name, "input": json.loads(a)} for name, a in calls]
    return [{"type": "message", "content": [{"type": "text", "text": "so"}, *blocks]}]


def messages_events(calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = [{"type": "message_start", "message": {"content": []}}]
    for n, (name, arguments) in enumerate(calls):
        block = {"type": "tool_use", "name": name, "input": {}}
        found.append({"type": "content_block_start", "index": n, "content_block": block})
        found += [
            {
                "type": "content_block_delta",
                "index": n,
                "delta": {"type": "input_json_delta", "partial_json": one},
            }
            for one in pieces(arguments)
        ]
    return found


def response(calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    items = [{"type": "function_call", "name": name, "arguments": a} for name, a in calls]
    return [{"object": "response", "output": [{"type": "message"}, *items]}]


def response_events(calls: list[tuple[str, str]]) -> list[dict[str, Any]]:
    (whole,) = response(calls)
    begun = {"type": "response.created", "response": {"object": "response", "output": []}}
    return [begun, {"type": "response.completed", "response": whole}]


DIALECTS = [chat, chat_events, messages, messages_events, response, response_events]


@pytest.mark.parametrize("dialect", DIALECTS)
@pytest.mark.parametrize("calls", [CALLS, CALLS[:1], []])
def test_calls_are_named_as_everywhere(dialect: Any, calls: list[tuple[str, str]]) -> None:
    called = Called()
    for said in dialect(calls):
        called.hear(said)
    assert called.shows
    assert called.kind() == tool_kind(calls)
    assert len(called.calls) == len(calls)


def test_a_plain_completion_shows_nothing() -> None:
    called = Called()
    called.hear({"choices": [{"index": 0, "text": "a"}]})
    assert not called.shows


def test_what_is_kept_of_an_answer_is_bounded() -> None:
    called = Called()
    for said in chat_events([(f"t{n}", "x" * 40) for n in range(MOST_CALLS + 9)]):
        called.hear(said)
    assert len(called.calls) == MOST_CALLS
    for _ in range(3):
        called.hear(chat([("t0", "y" * MOST_ARGUMENT_CHARS)])[0])
    assert (
        sum(len(piece) for call in called.calls.values() for piece in call.pieces) < 2 * MOST_ARGUMENT_CHARS
    )


FIELDS = (
    *("choices", "message", "delta", "tool_calls", "function", "name", "arguments", "index", "type"),
    *("content", "content_block", "input", "output", "response", "object", "partial_json"),
)
KINDS = ("message", "tool_use", "function_call", "content_block_start", "response")
ANY = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(FIELDS), inner | st.sampled_from(KINDS), max_size=4)
    ),
    max_leaves=20,
)


@given(st.lists(st.dictionaries(st.sampled_from(FIELDS), ANY | st.sampled_from(KINDS)), max_size=4))
def test_nothing_that_an_engine_says_is_an_error(events: list[dict[str, Any]]) -> None:
    called = Called()
    for said in events:
        called.hear(said)
    assert len(called.calls) <= MOST_CALLS and (called.calls or called.kind() == "")


class CallingEngine(CountingEngine):
    """Every answer is a call."""

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        if request.url.path != "/v1/chat/completions":
            return await super().handle_async_request(request)
        self.bodies.append(json.loads(await request.aread()))
        usage = {"usage": {"prompt_tokens": 5, "completion_tokens": 2}}
        if self.bodies[-1].get("stream"):

            async def events() -> AsyncIterator[bytes]:
                for said in chat_events(CALLS):
                    yield b"data: " + json.dumps(said | usage).encode() + b"\n\n"

            return httpx2.Response(200, headers={"content-type": "text/event-stream"}, content=events())
        return httpx2.Response(200, json=chat(CALLS)[0] | usage)


@pytest.mark.parametrize("stream", [False, True])
def test_the_engine_is_told_which_tool_an_agent_waits_for(stream: bool, tmp_path: Path) -> None:
    told: list[tuple[str, str, Hint]] = []

    async def ask() -> None:
        engine = CallingEngine()
        async with asyncio.timeout(300), fronted(tmp_path, engine=engine) as one:
            one.loop.tell_hint = lambda tenant, agent, hint: told.append((tenant, agent, hint))
            headers = {"authorization": "Bearer acme-key", "x-session-id": "s", "x-agent-id": "a"}
            body: dict[str, Any] = {"model": "m", "messages": [], "max_tokens": 5, "stream": stream}
            path = "/v1/chat/completions"
            assert (await one.client.post(path, json=body, headers=headers)).status_code == 200
            said = body | {"agent_hint": {"next": "tool", "tool": "ls", "expected_ms": 9}}
            assert (await one.client.post(path, json=said, headers=headers)).status_code == 200
            assert engine.bodies[1]["kv_transfer_params"]["tool"] == "ls"

    asyncio.run(ask())
    assert told == [("acme", "s/a", Hint(Wait.TOOL, tool=tool_kind(CALLS)))], "the second one said it itself"
