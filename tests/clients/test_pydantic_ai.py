"""pydantic-ai: an agent with a tool and structured output, over chat and Responses."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest
from pydantic import BaseModel

from tests.server.fakes import MODEL, FakeDriver, call, serving

pytest.importorskip("pydantic_ai")

from pydantic_ai import Agent, NativeOutput
from pydantic_ai.models.openai import OpenAIChatModel, OpenAIResponsesModel
from pydantic_ai.providers.openai import OpenAIProvider


class Well(BaseModel):
    name: str
    steps: int


MODELS = [OpenAIChatModel, OpenAIResponsesModel]


def run(agent: Agent[Any, Any], *, stream: bool = False) -> Any:
    async def whole() -> Any:
        async with agent:
            if not stream:
                return (await agent.run("Which well is the deepest?")).output
            async with agent.run_stream("Which well is the deepest?") as result:
                return await result.get_output()

    return asyncio.run(whole())


def model_of(model_class: Any, base_url: str) -> Any:
    return model_class(MODEL, provider=OpenAIProvider(base_url=base_url + "/v1", api_key="none"))


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("model_class", MODELS)
def test_a_tool_is_called_and_its_result_used(model_class: Any, stream: bool) -> None:
    def script(prompt: str, generation: Any) -> list[str]:
        return ["Chand Baori."] if "tool: 30" in prompt else [call("depth", name="Chand Baori")]

    asked: list[str] = []
    with serving(FakeDriver(script)) as server:
        agent = Agent(model_of(model_class, server.base_url))

        @agent.tool_plain
        def depth(name: str) -> int:
            asked.append(name)
            return 30

        assert run(agent, stream=stream) == "Chand Baori."
    assert asked == ["Chand Baori"]


@pytest.mark.parametrize("model_class", MODELS)
def test_structured_output_through_a_required_tool(model_class: Any) -> None:
    """Its default: an output tool that must be called, which here means a grammar."""

    def script(prompt: str, generation: Any) -> list[str]:
        schema = json.loads(generation.sampling.json_schema)
        name = schema["properties"]["name"]["const"]
        return [json.dumps({"name": name, "arguments": {"name": "Rani ki Vav", "steps": 7}})]

    with serving(FakeDriver(script)) as server:
        agent = Agent(model_of(model_class, server.base_url), output_type=Well)
        assert run(agent) == Well(name="Rani ki Vav", steps=7)


@pytest.mark.parametrize("model_class", MODELS)
def test_structured_output_through_the_answer_format(model_class: Any) -> None:
    driver = FakeDriver(lambda prompt, generation: ['{"name": "Rani ki Vav", "steps": 7}'])
    with serving(driver) as server:
        agent = Agent(
            model_of(model_class, server.base_url),
            output_type=NativeOutput(Well),
            model_settings={"extra_headers": {"X-Session-ID": "w", "X-Parent-Session-ID": "p"}},
        )
        assert run(agent) == Well(name="Rani ki Vav", steps=7)
    assert (driver.submitted[0].caller.agent, driver.submitted[0].caller.parent_agent) == ("w", "p")
    assert "steps" in json.loads(driver.submitted[0].sampling.json_schema or "")["properties"]
