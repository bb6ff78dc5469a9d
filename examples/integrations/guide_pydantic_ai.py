"""pydantic-ai: a guide whose tool runs a surveyor.

    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none python guide_pydantic_ai.py gemma3

The argument is the name of a model (see /v1/models).
"""

from __future__ import annotations

import asyncio
import sys

from pydantic_ai import Agent
from pydantic_ai.models.openai import OpenAIChatModel

from stepwell.integrations.pydantic_ai import Stepwell


async def main(model_name: str) -> None:
    model, stepwell = OpenAIChatModel(model_name), Stepwell()
    surveyor = Agent(model, name="surveyor", instructions="You measure wells.", capabilities=[stepwell])
    guide = Agent(model, name="guide", instructions="You show visitors around.", capabilities=[stepwell])

    @surveyor.tool_plain
    def depth(well: str) -> str:
        """How deep a stepwell is."""
        return "about 30 metres"

    @guide.tool_plain
    async def ask_surveyor(question: str) -> str:
        """Ask the surveyor."""
        return (await surveyor.run(question)).output

    async with guide:
        print((await guide.run("How deep is Chand Baori?")).output)


asyncio.run(main(sys.argv[1]))
