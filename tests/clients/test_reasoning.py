"""Reasoning beside answers and calls: the official clients read it, stream or not, and send it back."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import anthropic
import pytest

from stepwell.engines.base import Thinking, ThinkingBudget
from tests.server.fakes import INFO, MODEL, FakeDriver, FakeText, call, says, serving

openai = pytest.importorskip("openai")

USER: Any = [{"role": "user", "content": "Weather?"}]
CITY = {"type": "object", "properties": {"city": {"type": "string"}}}
CHAT_TOOL: Any = {"type": "function", "function": {"name": "weather", "parameters": CITY}}
TOOL: Any = {"type": "function", "name": "weather", "parameters": CITY, "strict": False}
CLAUDE: Any = {"model": MODEL, "max_tokens": 2048, "messages": USER}
CLAUDE_TOOLS: Any = [{"name": "weather", "input_schema": CITY}]
SAID = "I should look.\n</think>\n\nLet me see.\n" + call("weather", city="Pune")


MARKS = Thinking("", "</think>", "\n</think>\n\n")


class Thinks(FakeText):
    """Its prompts end in ``<think>``, and it writes down what it is given to render."""

    opening = "<think>"

    def __init__(self) -> None:
        super().__init__(INFO)
        self.rendered: list[list[dict[str, Any]]] = []
        self.options: list[Any] = []

    def render_chat(self, messages: Any, *args: Any, **options: Any) -> Any:
        self.rendered.append(list(messages))
        self.options.append(options.get("options"))
        rendered = super().render_chat(messages, *args, **options)
        return replace(rendered, text=rendered.text + "<think>", straight="</think>", thinking=MARKS)


def chat_client(server: Any) -> Any:
    return openai.OpenAI(base_url=server.base_url + "/v1", api_key="none", max_retries=0)


def test_chat() -> None:
    text = Thinks()
    with serving(FakeDriver(says(SAID)), text) as server, chat_client(server) as api:
        ask: Any = {"model": MODEL, "messages": USER, "tools": [CHAT_TOOL]}
        answer = api.chat.completions.create(**ask)
        with api.chat.completions.stream(**ask) as stream:
            final = stream.get_final_completion().choices[0].message
        message = answer.choices[0].message
        result = {"role": "tool", "tool_call_id": message.tool_calls[0].id, "content": "41"}
        api.chat.completions.create(**{**ask, "messages": [*USER, message.to_dict(), result]})
    assert message.reasoning_content == final.reasoning_content == "I should look."
    assert message.content == final.content == "Let me see."
    assert message.tool_calls[0].function.arguments == final.tool_calls[0].function.arguments
    assert answer.usage.completion_tokens_details.reasoning_tokens == len("I should look.\n</think>")
    assert text.rendered[-1][1]["reasoning_content"] == "I should look."


def test_responses() -> None:
    text = Thinks()
    with serving(FakeDriver(says(SAID)), text) as server, chat_client(server) as api:
        ask: Any = {"model": MODEL, "input": "Weather?", "tools": [TOOL], "reasoning": {"effort": "low"}}
        answer = api.responses.create(**ask)
        with api.responses.stream(**ask) as stream:
            kinds = [event.type for event in stream]
            final = stream.get_final_response()
        output = {"type": "function_call_output", "call_id": answer.output[-1].call_id, "output": "41"}
        api.responses.create(**{**ask, "input": [output], "previous_response_id": answer.id})
        sent: Any = [{"role": "user", "content": "Weather?"}, *(item.to_dict() for item in answer.output)]
        api.responses.create(**{**ask, "input": [*sent, output], "store": False})
    for one in (answer, final):
        assert [item.type for item in one.output] == ["reasoning", "message", "function_call"]
        assert one.output[0].content[0].text == "I should look."
        assert (one.output_text, one.output[2].arguments) == ("Let me see.", '{"city": "Pune"}')
        assert one.usage.output_tokens_details.reasoning_tokens == len("I should look.\n</think>")
    assert {"response.reasoning_text.delta", "response.reasoning_text.done"} <= set(kinds)
    assert answer.reasoning.effort == "low"
    assert text.options[0] == {"reasoning_effort": "low"}
    for messages in text.rendered[-2:]:
        assert messages[1]["reasoning_content"] == "I should look."
        assert messages[1]["tool_calls"][0]["function"]["name"] == "weather"


def test_messages() -> None:
    text = Thinks()
    thinking: Any = {"type": "enabled", "budget_tokens": 1024}
    with (
        serving(FakeDriver(says(SAID)), text) as server,
        anthropic.Anthropic(base_url=server.base_url, api_key="none", max_retries=0) as api,
    ):
        whole = api.messages.create(**CLAUDE, tools=CLAUDE_TOOLS, thinking=thinking)
        with api.messages.stream(**CLAUDE, tools=CLAUDE_TOOLS, thinking=thinking) as stream:
            final = stream.get_final_message()
        plain = api.messages.create(**CLAUDE, tools=CLAUDE_TOOLS)
        result: Any = {"type": "tool_result", "tool_use_id": whole.content[2].id, "content": "41"}  # type: ignore[union-attr]
        turns = [
            *USER,
            {"role": "assistant", "content": whole.content},
            {"role": "user", "content": [result]},
        ]
        api.messages.create(**{**CLAUDE, "messages": turns}, tools=CLAUDE_TOOLS, thinking=thinking)
    for one in (whole, final):
        first, second, third = one.content
        assert (first.type, second.type, third.type) == ("thinking", "text", "tool_use")
        assert first.thinking == "I should look."
        assert first.signature.startswith("stepwell:")
        assert (second.text, third.input) == ("Let me see.", {"city": "Pune"})
    assert [block.type for block in plain.content] == ["text", "tool_use"]
    assert whole.usage.output_tokens_details.thinking_tokens == len("I should look.\n</think>")  # type: ignore[union-attr]
    assert text.rendered[-1][1]["reasoning_content"] == "I should look."
    assert text.options[0] == {"enable_thinking": True}


def test_a_budget_of_reasoning_reaches_the_model() -> None:
    driver, text = FakeDriver(says(SAID)), Thinks()
    with (
        serving(driver, text) as server,
        chat_client(server) as api,
        anthropic.Anthropic(base_url=server.base_url, api_key="none", max_retries=0) as claude,
    ):
        ask: Any = {"model": MODEL, "messages": USER}
        api.chat.completions.create(**ask, extra_body={"reasoning_budget": 7})
        api.chat.completions.create(**ask, extra_body={"reasoning": {"max_tokens": 8}})
        api.responses.create(model=MODEL, input="hi", extra_body={"reasoning": {"max_tokens": 9}})
        claude.messages.create(**CLAUDE, thinking={"type": "enabled", "budget_tokens": 1024})
        api.chat.completions.create(**ask)
    budgets = [one.sampling.thinking for one in driver.submitted]
    assert budgets == [*(ThinkingBudget(MARKS, n) for n in (7, 8, 9, 1024)), None]


def test_no_reasoning_where_none_is_wanted_or_a_constraint_begins() -> None:
    driver, text = FakeDriver(says('{"a": 1}')), Thinks()
    json_object: Any = {"type": "json_object"}
    with serving(driver, text) as server, chat_client(server) as api:
        ask: Any = {"model": MODEL, "messages": USER}
        api.chat.completions.create(**ask, extra_body={"reasoning_budget": 0})
        answer = api.chat.completions.create(**ask, response_format=json_object)
        api.responses.create(model=MODEL, input="hi", text={"format": json_object})
    assert all(prompt.endswith("<think></think>") for prompt in driver.prompts)
    assert answer.choices[0].message.content == '{"a": 1}'
    assert text.options[0] == {"enable_thinking": False}


def test_an_answer_that_is_begun_is_continued() -> None:
    driver, text = FakeDriver(says(" steps.")), Thinks()
    begun: Any = [*USER, {"role": "assistant", "content": "A well with"}]
    with (
        serving(driver, text) as server,
        chat_client(server) as api,
        anthropic.Anthropic(base_url=server.base_url, api_key="none", max_retries=0) as claude,
    ):
        answer = api.chat.completions.create(model=MODEL, messages=begun)
        message = claude.messages.create(**{**CLAUDE, "messages": begun})
        api.chat.completions.create(model=MODEL, messages=begun, extra_body={"continue_final_message": False})
    assert answer.choices[0].message.content == message.content[0].text == " steps."  # type: ignore[union-attr]
    assert [prompt.partition("assistant: ")[2] for prompt in driver.prompts[:2]] == [
        "<think></think>A well with"
    ] * 2
    assert driver.prompts[2].endswith("assistant: A well with\nassistant: <think>")


def test_a_coding_agent_may_offer_tools_that_do_not_exist_here() -> None:
    driver, text = FakeDriver(says("Yes.")), Thinks()
    others: Any = [
        {"type": "custom", "name": "apply_patch", "format": {"type": "grammar"}},
        {"type": "local_shell"},
        {"type": "web_search"},
        TOOL,
        {"type": "something new", "tools": []},
    ]
    with serving(driver, text) as server, chat_client(server) as api:
        answer = api.responses.create(model=MODEL, input="hi", tools=others)
        alone = api.responses.create(model=MODEL, input="hi", tools=others[:3])
    assert [tool.name for tool in answer.tools] == ["weather"]
    assert alone.tools == []
    assert "tools: weather\n" in driver.prompts[0]
