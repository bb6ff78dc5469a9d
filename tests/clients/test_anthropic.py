"""The unmodified ``anthropic`` package against ``/v1/messages``."""

from __future__ import annotations

from typing import Any

import anthropic
import pytest

from tests.server.fakes import MODEL, FakeDriver, call, says, serving

ASK: Any = {"model": MODEL, "max_tokens": 1024, "messages": [{"role": "user", "content": "hi"}]}
TOOLS: Any = [
    {"name": "weather", "input_schema": {"type": "object", "properties": {"city": {"type": "string"}}}}
]


def client(server: Any) -> anthropic.Anthropic:
    return anthropic.Anthropic(base_url=server.base_url, api_key="none", max_retries=0)


def test_a_message() -> None:
    with serving(FakeDriver(says("Hello."), cached=(3, 0, 0))) as server, client(server) as one:
        message = one.messages.create(**ASK)
    assert message.content[0].text == "Hello."  # type: ignore[union-attr]
    assert message.usage.cache_read_input_tokens == 3
    assert message.stop_reason == "end_turn"


def test_a_stream_is_put_together_by_the_client() -> None:
    said = "Let me see. " + call("weather", city="Rome")
    with serving(FakeDriver(says(said))) as server, client(server) as one:
        with one.messages.stream(**ASK, tools=TOOLS) as stream:
            text = "".join(stream.text_stream)
            message = stream.get_final_message()
        whole = one.messages.create(**ASK, tools=TOOLS)
    assert text.rstrip() == "Let me see."
    assert message.stop_reason == whole.stop_reason == "tool_use"
    assert message.content[-1].input == whole.content[-1].input == {"city": "Rome"}  # type: ignore[union-attr]


def test_counting() -> None:
    driver = FakeDriver(says("ok"))
    with serving(driver) as server, client(server) as one:
        counted = one.messages.count_tokens(model=MODEL, messages=ASK["messages"])
        one.messages.create(**ASK)
    assert counted.input_tokens == len(driver.submitted[0].prompt)


def test_errors_are_the_clients_own() -> None:
    with serving(FakeDriver(says("ok"))) as server, client(server) as one:
        with pytest.raises(anthropic.NotFoundError, match="does not exist"):
            one.messages.create(**{**ASK, "model": "other"})
        with pytest.raises(anthropic.BadRequestError, match="prompt is too long"):
            one.messages.create(**{**ASK, "messages": [{"role": "user", "content": "x" * 9_000}]})
