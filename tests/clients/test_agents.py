"""OpenAI's Agents SDK: handoffs, tools and structured output over both of its model classes."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import BaseModel

from tests.server.fakes import MODEL, FakeDriver, call, serving

agents = pytest.importorskip("agents")
openai = pytest.importorskip("openai")

MODELS = ["OpenAIChatCompletionsModel", "OpenAIResponsesModel"]


class Verdict(BaseModel):
    good: bool


def script(prompt: str, generation: Any) -> list[str]:
    """A planner that hands over to a worker, which calls a tool and then answers."""
    if "You are the planner" in prompt:
        return [call("transfer_to_worker")]
    if "You are the worker" in prompt and "it has 3500 steps" in prompt:
        return ["3500."]
    if "You are the worker" in prompt:
        return [call("count_steps", well="Chand Baori")]
    return ['{"good": true}']


@agents.function_tool
def count_steps(well: str) -> str:
    """How many steps a well has."""
    assert well == "Chand Baori"
    return "it has 3500 steps"


@pytest.mark.parametrize("model_class", MODELS)
@pytest.mark.parametrize("stream", [False, True])
def test_two_agents_a_handoff_and_a_tool(model_class: str, stream: bool) -> None:
    driver = FakeDriver(script)

    async def run(base_url: str) -> tuple[str, str]:
        async with openai.AsyncOpenAI(base_url=base_url + "/v1", api_key="none", max_retries=0) as api:
            model = getattr(agents, model_class)(MODEL, api)
            headers = {"X-Session-ID": "run-42"}
            worker = agents.Agent(
                name="worker",
                instructions="You are the worker.",
                tools=[count_steps],
                model=model,
                model_settings=agents.ModelSettings(
                    extra_headers={**headers, "X-Agent": "worker", "X-Parent-Agent": "planner"}
                ),
            )
            planner = agents.Agent(
                name="planner",
                instructions="You are the planner.",
                handoffs=[worker],
                model=model,
                model_settings=agents.ModelSettings(extra_headers={**headers, "X-Agent": "planner"}),
            )
            question = "How many steps has Chand Baori?"
            if not stream:
                result = await agents.Runner.run(planner, question)
                return result.final_output, result.last_agent.name
            streamed = agents.Runner.run_streamed(planner, question)
            async for _ in streamed.stream_events():
                pass
            return streamed.final_output, streamed.last_agent.name

    with serving(driver) as server:
        assert asyncio.run(run(server.base_url)) == ("3500.", "worker")
    assert [g.caller.agent for g in driver.submitted] == ["run-42/planner", "run-42/worker", "run-42/worker"]
    assert {g.caller.session for g in driver.submitted} == {"run-42"}
    assert driver.submitted[-1].caller.parent_agent == "run-42/planner"


@pytest.mark.parametrize("model_class", MODELS)
def test_structured_output_and_service_tier(model_class: str) -> None:
    driver = FakeDriver(script)

    async def run(base_url: str) -> Any:
        async with openai.AsyncOpenAI(base_url=base_url + "/v1", api_key="none", max_retries=0) as api:
            critic = agents.Agent(
                name="critic",
                instructions="Judge.",
                output_type=Verdict,
                model=getattr(agents, model_class)(MODEL, api),
                model_settings=agents.ModelSettings(
                    metadata={"session_id": "s", "agent_id": "critic"},
                    extra_args={"service_tier": "flex"},
                    temperature=0.0,
                ),
            )
            return (await agents.Runner.run(critic, "Is it good?")).final_output

    with serving(driver) as server:
        assert asyncio.run(run(server.base_url)) == Verdict(good=True)
    (asked,) = driver.submitted
    assert (asked.caller.service_tier, asked.caller.agent) == ("flex", "s/critic")
    assert asked.sampling.temperature == 0.0
    assert asked.sampling.json_schema is not None
