"""Anthropic's dialect: what other servers got wrong, each as a test."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.loop.requests import Rejected
from stepwell.policy.types import Wait
from stepwell.server.anthropic.answer import _object
from stepwell.server.anthropic.request import chat_body, marks_cache
from stepwell.server.errors import ApiError
from tests.server.fakes import MODEL, FakeDriver, call, says, serving
from tests.server.wire import events, http, post

ASK = {"model": MODEL, "max_tokens": 1024, "messages": [{"role": "user", "content": "hi"}]}
WEATHER = {
    "name": "weather",
    "description": "Says the weather.",
    "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}},
}
BILLING = {"type": "text", "text": "x-anthropic-billing-header: cc_version=2; cch=00a1b2;"}


def text(value: str, **more: Any) -> dict[str, Any]:
    return {"type": "text", "text": value, **more}


def roles(body: Mapping[str, Any]) -> list[tuple[str, str]]:
    return [(one["role"], one["content"]) for one in chat_body(body)["messages"]]


def test_a_message_whole() -> None:
    driver = FakeDriver(says("Hello."), cached=(2, 1, 0))
    with serving(driver) as server:
        answer = post(server, "/v1/messages", ASK).json()
    assert answer["id"].startswith("msg_")
    assert answer["content"] == [text("Hello.")]
    assert (answer["stop_reason"], answer["stop_sequence"]) == ("end_turn", None)
    usage = answer["usage"]
    assert usage["cache_read_input_tokens"] == 3
    assert usage["input_tokens"] + 3 == len(driver.submitted[0].prompt)
    assert usage["output_tokens"] == 6


@pytest.mark.parametrize("marked", [False, True])
def test_usage_is_a_partition_and_the_same_streamed(marked: bool) -> None:
    block = text("hi", cache_control={"type": "ephemeral"}) if marked else text("hi")
    body = {**ASK, "messages": [{"role": "user", "content": [block]}]}
    driver = FakeDriver(says("Hello."), cached=(1, 1, 1))
    with serving(driver) as server:
        whole = post(server, "/v1/messages", body).json()["usage"]
        streamed = events(post(server, "/v1/messages", {**body, "stream": True}))
    parts = ("input_tokens", "cache_creation_input_tokens", "cache_read_input_tokens")
    assert sum(whole[part] for part in parts) == len(driver.submitted[0].prompt)
    assert (whole["cache_creation_input_tokens"] > 0) == marked
    start, end = streamed[0]["message"]["usage"], streamed[-2]["usage"]
    assert [start[part] for part in parts] == [whole[part] for part in parts] == [end[part] for part in parts]
    assert (start["output_tokens"], end["output_tokens"]) == (0, whole["output_tokens"])


def test_a_stream_has_the_events_in_their_order() -> None:
    with serving(FakeDriver(says("Hel", "lo."))) as server:
        response = post(server, "/v1/messages", {**ASK, "stream": True})
    kinds = [event["type"] for event in events(response)]
    assert kinds[:2] == ["message_start", "content_block_start"]
    assert set(kinds[2:-3]) == {"content_block_delta"}
    assert kinds[-3:] == ["content_block_stop", "message_delta", "message_stop"]
    named = [line[7:] for line in response.text.splitlines() if line.startswith("event: ")]
    assert named == kinds
    assert "[DONE]" not in response.text


def test_the_input_of_a_tool_is_the_same_streamed_and_never_lost() -> None:
    body = {**ASK, "tools": [WEATHER]}
    said = "Let me see. " + call("weather", city="Zürich " * 30)
    with serving(FakeDriver(says(said))) as server:
        whole = post(server, "/v1/messages", body).json()
        streamed = events(post(server, "/v1/messages", {**body, "stream": True}))
    assert whole["stop_reason"] == "tool_use"
    assert [block["type"] for block in whole["content"]] == ["text", "tool_use"]
    pieces = [
        e["delta"]["partial_json"] for e in streamed if e.get("delta", {}).get("type") == "input_json_delta"
    ]
    assert json.loads("".join(pieces)) == whole["content"][1]["input"] == {"city": "Zürich " * 30}
    started = [event["content_block"] for event in streamed if event["type"] == "content_block_start"]
    assert [block["type"] for block in started] == ["text", "tool_use"]
    assert started[1]["input"] == {}
    assert [e["index"] for e in streamed if e["type"] == "content_block_stop"] == [0, 1]


def test_a_call_alone_opens_no_empty_block_of_text() -> None:
    with serving(FakeDriver(says(call("weather", city="Rome")))) as server:
        streamed = events(post(server, "/v1/messages", {**ASK, "tools": [WEATHER], "stream": True}))
    started = [event["content_block"]["type"] for event in streamed if event["type"] == "content_block_start"]
    assert started == ["tool_use"]


def test_an_answer_that_calls_waits_for_a_tool() -> None:
    driver = FakeDriver(says(call("weather", city="Rome")))
    with serving(driver) as server:
        post(server, "/v1/messages", {**ASK, "tools": [WEATHER]})
    assert [hint.wait for *_, hint in driver.hinted] == [Wait.TOOL]


def test_the_billing_header_that_changes_costs_no_prefix() -> None:
    def body(mark: str) -> dict[str, Any]:
        return {**ASK, "system": [{**BILLING, "text": BILLING["text"] + mark}, text("You help.")]}

    driver = FakeDriver(says("ok"))
    with serving(driver) as server:
        for mark in ("1", "2"):
            post(server, "/v1/messages", body(mark))
    assert driver.submitted[0].prompt == driver.submitted[1].prompt
    assert roles(body("1"))[0] == ("system", "You help.")


def test_a_system_message_is_folded_in_at_its_place() -> None:
    turns = [
        {"role": "user", "content": "one"},
        {"role": "assistant", "content": "two"},
        {"role": "system", "content": [text("12 tokens left")]},
        {"role": "user", "content": "three"},
    ]
    before = roles({**ASK, "messages": turns[:2]})
    after = roles({**ASK, "messages": turns})
    assert after[: len(before)] == before
    assert after[2:] == [("user", "<system-reminder>\n12 tokens left\n</system-reminder>\nthree")]


def test_a_system_message_at_the_end_is_not_lost() -> None:
    turns = [{"role": "user", "content": "one"}, {"role": "system", "content": "be quick"}]
    assert roles({**ASK, "messages": turns})[-1] == (
        "user",
        "<system-reminder>\nbe quick\n</system-reminder>",
    )


def test_parallel_results_come_back_in_order_and_errors_say_so() -> None:
    turns = [
        {"role": "user", "content": "weather?"},
        {
            "role": "assistant",
            "content": [
                {"type": "thinking", "thinking": "hm", "signature": "x"},
                text("Let me see."),
                {"type": "tool_use", "id": "toolu_1", "name": "weather", "input": {"city": "Rome"}},
                {"type": "tool_use", "id": "toolu_2", "name": "weather", "input": {"city": "Oslo"}},
            ],
        },
        {
            "role": "user",
            "content": [
                {"type": "tool_result", "tool_use_id": "toolu_1", "content": [text("25 degrees")]},
                {
                    "type": "tool_result",
                    "tool_use_id": "toolu_2",
                    "content": "no such city",
                    "is_error": True,
                },
                text("Go on."),
            ],
        },
    ]
    found = chat_body({**ASK, "messages": turns, "tools": [WEATHER]})["messages"]
    assert [one["role"] for one in found] == ["user", "assistant", "tool", "tool", "user"]
    assert [c["function"]["arguments"] for c in found[1]["tool_calls"]] == [
        '{"city": "Rome"}',
        '{"city": "Oslo"}',
    ]
    assert [(one["tool_call_id"], one["content"]) for one in found[2:4]] == [
        ("toolu_1", "25 degrees"),
        ("toolu_2", "Error: no such city"),
    ]


@pytest.mark.parametrize(
    ("extra", "expected"),
    [
        ({"tool_choice": {"type": "any"}}, "required"),
        ({"tool_choice": {"type": "none"}}, "none"),
        (
            {"tool_choice": {"type": "tool", "name": "weather"}},
            {"type": "function", "function": {"name": "weather"}},
        ),
    ],
)
def test_the_choice_of_a_tool(extra: Mapping[str, Any], expected: Any) -> None:
    assert chat_body({**ASK, "tools": [WEATHER], **extra})["tool_choice"] == expected


def test_tools_of_anthropics_own_servers_are_passed_over() -> None:
    tools = [{"type": "web_search_20250305", "name": "web_search"}, WEATHER]
    assert [one["function"]["name"] for one in chat_body({**ASK, "tools": tools})["tools"]] == ["weather"]


def test_stop_sequences_and_the_limit_are_told_apart() -> None:
    def script(prompt: str, generation: Any) -> Any:
        return ("one",)

    with serving(FakeDriver(script)) as server:
        answer = post(server, "/v1/messages", {**ASK, "stop_sequences": ["END"]}).json()
    assert answer["stop_reason"] == "end_turn"


def test_counted_tokens_are_those_of_the_call() -> None:
    body = {**ASK, "system": [BILLING, text("You help.")], "tools": [WEATHER]}
    driver = FakeDriver(says("ok"))
    with serving(driver) as server:
        counted = post(server, "/v1/messages/count_tokens", body).json()
        post(server, "/v1/messages", body)
    assert counted == {"input_tokens": len(driver.submitted[0].prompt)}


def test_a_prompt_that_is_too_long_says_so_in_words_that_clients_know() -> None:
    body = {**ASK, "messages": [{"role": "user", "content": "x" * 5_000}]}
    with serving(FakeDriver(says("ok"))) as server:
        response = post(server, "/v1/messages", body)
    error = response.json()
    assert response.status_code == 400
    assert error["type"] == "error"
    assert error["error"]["type"] == "invalid_request_error"
    assert error["error"]["message"].startswith("prompt is too long: 50")
    assert error["error"]["message"].endswith("> 4095 maximum")
    assert error["request_id"] == response.headers["request-id"]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({**ASK, "model": "other"}, 404, "not_found_error"),
        ({"model": MODEL, "messages": ASK["messages"]}, 400, "max_tokens"),
        ({**ASK, "messages": [{"role": "robot", "content": "x"}]}, 400, "messages[0].role"),
        ({**ASK, "messages": "x"}, 400, "messages"),
        ({**ASK, "messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, 400, "image"),
        ({**ASK, "messages": [{"role": "user", "content": [3]}]}, 400, "messages[0].content[0]"),
        ({**ASK, "tools": [{"input_schema": {}}]}, 400, "tools[0].name"),
        ({**ASK, "temperature": "0.7"}, 400, "temperature"),
        ({**ASK, "tool_choice": {"type": "many"}, "tools": [WEATHER]}, 400, "tool_choice.type"),
    ],
)
def test_bad_input_is_an_error_of_the_dialect(body: Any, status: int, said: str) -> None:
    with serving(FakeDriver(says("ok"))) as server:
        response = post(server, "/v1/messages", body)
    assert response.status_code == status
    error = response.json()
    assert set(error) == {"type", "error", "request_id"}
    assert said in json.dumps(error["error"])


def test_overload_is_529_and_an_error_in_a_stream_is_an_event() -> None:
    overloaded = Rejected("server_overloaded", "Too many.", 1_000)
    with serving(FakeDriver(says(overloaded))) as server:
        response = post(server, "/v1/messages", {**ASK, "stream": True})
    assert response.status_code == 529
    assert response.json()["error"]["type"] == "overloaded_error"
    assert response.headers["retry-after"] == "1"
    with serving(FakeDriver(says("Hel", overloaded))) as server:
        streamed = events(post(server, "/v1/messages", {**ASK, "stream": True}))
    assert streamed[-1]["type"] == "error"


def test_wrong_methods_and_keys_are_told_in_the_dialect() -> None:
    with serving(FakeDriver(says("ok"))) as server, http(server) as client:
        assert client.get("/v1/messages").json()["type"] == "error"


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)
NAMES = (
    "messages",
    "system",
    "tools",
    "tool_choice",
    "output_config",
    "max_tokens",
    "metadata",
    "service_tier",
)


@given(st.dictionaries(st.sampled_from(NAMES), json_values, max_size=6))
def test_no_body_breaks_the_translation(body: dict[str, Any]) -> None:
    marks_cache(body)
    with suppress(ApiError):  # anything else fails the test
        assert isinstance(chat_body(body)["messages"], list)


@given(st.lists(st.sampled_from(["user", "assistant", "system"]), max_size=8))
def test_no_message_is_lost_whatever_the_order(order: list[str]) -> None:
    turns = [{"role": role, "content": f"say-{number}"} for number, role in enumerate(order)]
    rendered = "\n".join(content for _, content in roles({**ASK, "messages": turns}))
    assert [f"say-{n}" in rendered for n in range(len(order))] == [True] * len(order)


@pytest.mark.parametrize(
    ("written", "given"),
    [
        ('{"a": 1e999, "b": [-1e400, 1.5]}', {"a": None, "b": [None, 1.5]}),
        ('{"a": [1, 2', {"a": [1, 2]}),
        ("[1e999]", {"arguments": [None]}),
        ('{"a" 1}', {"arguments": '{"a" 1}'}),
        ("", {}),
    ],
)
def test_an_input_is_an_object_that_can_be_sent(written: str, given: dict[str, Any]) -> None:
    found = _object(written)
    assert found == given
    json.dumps(found, allow_nan=False)
