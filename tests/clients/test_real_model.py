"""The same clients against a real model: SmolLM2 with 135 M parameters, forced by grammars where it
must be right. One server for all of them."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import pytest
from pydantic import BaseModel, Field

from stepwell.launch.assemble import build
from stepwell.server.run import BackgroundServer
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import KvSettings, Settings

openai = pytest.importorskip("openai")
pytestmark = pytest.mark.model

QUESTION = [{"role": "user", "content": "What is the capital of France? Answer in one word."}]


@pytest.fixture(scope="module")
def server(smollm2_path: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[BackgroundServer]:
    settings = Settings(
        engine=EngineSettings(model="smollm2", device_kv_tokens=2048),
        kv=KvSettings(host_kv=1 << 28, disk_kv=0, disk_dir=tmp_path_factory.mktemp("kv")),
    )
    node = build(settings)
    node.driver.start()
    try:
        with BackgroundServer(node.driver, node.text) as running:
            yield running
    finally:
        node.stop(5.0)


@pytest.fixture(scope="module")
def model(server: BackgroundServer) -> str:
    return server.service.text_model.name


@pytest.fixture
def api(server: BackgroundServer) -> Iterator[Any]:
    with openai.OpenAI(base_url=server.base_url + "/v1", api_key="none", max_retries=0) as client:
        yield client


def test_whole_and_streamed_answers_are_the_same(api: Any, model: str) -> None:
    options = {"model": model, "messages": QUESTION, "temperature": 0, "max_tokens": 16}
    whole = api.chat.completions.create(**options)
    streamed = api.chat.completions.create(**options, stream=True, stream_options={"include_usage": True})
    chunks = list(streamed)
    text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
    assert "Paris" in whole.choices[0].message.content
    assert text == whole.choices[0].message.content
    assert whole.usage.prompt_tokens == chunks[-1].usage.prompt_tokens
    assert chunks[-1].usage.prompt_tokens_details.cached_tokens > 0


def test_a_seed_repeats_and_choices_differ(api: Any, model: str) -> None:
    options = {"model": model, "messages": QUESTION, "max_tokens": 12, "temperature": 1.5, "seed": 3, "n": 3}
    first, second = (api.chat.completions.create(**options) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert texts == [choice.message.content for choice in second.choices]
    assert len(set(texts)) > 1


def test_stop_strings_and_logprobs(api: Any, model: str) -> None:
    answer = api.completions.create(
        model=model, prompt="One, two, three, four,", temperature=0, max_tokens=20, stop=" seven", logprobs=2
    )
    choice = answer.choices[0]
    assert (choice.finish_reason, "seven" in choice.text) == ("stop", False)
    assert choice.text.startswith(" five, six")
    best = [max(top.values()) for top in choice.logprobs.top_logprobs]
    assert choice.logprobs.token_logprobs == pytest.approx(best)


class City(BaseModel):
    name: str = Field(max_length=12)
    continent: Literal["Europe", "Asia"]


def test_structured_output(api: Any, model: str) -> None:
    answer = api.chat.completions.parse(
        model=model, messages=QUESTION, response_format=City, temperature=0, max_tokens=60
    )
    assert isinstance(answer.choices[0].message.parsed, City)


def test_a_required_tool(api: Any, model: str) -> None:
    place = {
        "type": "object",
        "properties": {"city": {"type": "string", "maxLength": 12}},
        "required": ["city"],
    }
    parameters = {
        "properties": {"at": {"$ref": "#/$defs/place"}},
        "required": ["at"],
        "$defs": {"place": place},
    }
    tools = [
        {"type": "function", "function": {"name": name, "parameters": {"type": "object", **parameters}}}
        for name in ("weather", "clock")
    ]
    answer = api.chat.completions.create(
        model=model, messages=QUESTION, tools=tools, tool_choice="required", temperature=0, max_tokens=60
    )
    (call,) = answer.choices[0].message.tool_calls
    assert call.function.name in ("weather", "clock")
    assert isinstance(json.loads(call.function.arguments)["at"]["city"], str)


def test_responses_continue(api: Any, model: str) -> None:
    first = api.responses.create(model=model, input="Say hello.", max_output_tokens=8, temperature=0)
    second = api.responses.create(
        model=model, input="Again.", previous_response_id=first.id, max_output_tokens=8, temperature=0
    )
    assert second.usage.input_tokens_details.cached_tokens >= 16
    assert second.output_text


@pytest.mark.parametrize(
    "body",
    [
        {"grammar": "root ::= nobody"},
        {"grammar": "((("},
        {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "banana"}}}},
        {"logit_bias": {"999999": 1}},
        {"messages": QUESTION * 400},
    ],
)
def test_what_the_model_cannot_do_is_a_bad_request(api: Any, model: str, body: dict[str, Any]) -> None:
    with pytest.raises(openai.BadRequestError):
        api.chat.completions.create(model=model, messages=QUESTION, max_tokens=4, extra_body=body)


def test_pydantic_ai(server: BackgroundServer, model: str) -> None:
    pytest.importorskip("pydantic_ai")
    from pydantic_ai import Agent
    from pydantic_ai.models.openai import OpenAIChatModel
    from pydantic_ai.providers.openai import OpenAIProvider

    provider = OpenAIProvider(base_url=server.base_url + "/v1", api_key="none")
    agent = Agent(
        OpenAIChatModel(model, provider=provider), output_type=City, model_settings={"max_tokens": 80}
    )

    async def run() -> City:
        async with agent:
            return (await agent.run("Name the capital of France.")).output

    assert isinstance(asyncio.run(run()), City)


def test_agents_sdk(server: BackgroundServer, model: str) -> None:
    agents = pytest.importorskip("agents")

    async def run() -> Any:
        async with openai.AsyncOpenAI(base_url=server.base_url + "/v1", api_key="none") as client:
            agent = agents.Agent(
                name="geographer",
                output_type=City,
                model=agents.OpenAIResponsesModel(model, client),
                model_settings=agents.ModelSettings(max_tokens=80),
            )
            return (await agents.Runner.run(agent, "Name the capital of France.")).final_output

    assert isinstance(asyncio.run(run()), City)
