"""Switches of the chat template go from the request to the template."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from stepwell.engines.base import RenderedChat
from stepwell.server.generation.prompts import chat_prompt
from stepwell.server.generation.tools import ToolSet
from stepwell.server.wire.schema import ChatRequest
from tests.server.fakes import INFO, FakeText


class Listening(FakeText):
    options: Mapping[str, Any] | None = None

    def render_chat(
        self,
        messages: Sequence[dict[str, Any]],
        tools: Sequence[dict[str, Any]] | None = None,
        *,
        add_generation_prompt: bool = True,
        options: Mapping[str, Any] | None = None,
    ) -> RenderedChat:
        self.options = options
        return super().render_chat(messages, tools, add_generation_prompt=add_generation_prompt)


def test_the_switches_of_a_request_reach_the_template() -> None:
    wanted = ChatRequest.model_validate(
        {
            "model": "m",
            "messages": [{"role": "user", "content": "hi"}],
            "enable_thinking": True,
            "reasoning_effort": "low",
            "chat_template_kwargs": {"enable_thinking": False, "date": "2026-01-31"},
        }
    )
    text = Listening(INFO)
    messages = [{"role": "user", "content": "hi"}]
    chat_prompt(text, messages, ToolSet(), "messages", wanted.template_options)
    assert text.options == {"enable_thinking": False, "reasoning_effort": "low", "date": "2026-01-31"}
