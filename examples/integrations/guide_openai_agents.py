"""OpenAI's Agents SDK: a guide who asks a surveyor.

    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none python guide_openai_agents.py gemma3

The argument is the name of a model (see /v1/models).
"""

from __future__ import annotations

import asyncio
import sys

from openai import AsyncOpenAI

from agents import Agent, OpenAIChatCompletionsModel, Runner, function_tool, set_trace_processors
from stepwell.integrations.openai_agents import StepwellTracing


@function_tool
def depth(well: str) -> str:
    """How deep a stepwell is."""
    return "about 30 metres"


async def main(model_name: str) -> None:
    set_trace_processors([StepwellTracing()])
    async with AsyncOpenAI() as client:
        model = OpenAIChatCompletionsModel(model_name, client)
        surveyor = Agent(name="surveyor", instructions="You measure wells.", tools=[depth], model=model)
        ask = surveyor.as_tool("ask_surveyor", "Ask the surveyor.")
        guide = Agent(name="guide", instructions="You show visitors around.", tools=[ask], model=model)
        print((await Runner.run(guide, "How deep is Chand Baori?")).final_output)


asyncio.run(main(sys.argv[1]))
