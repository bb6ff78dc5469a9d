"""smolagents: a guide who manages a surveyor.

    OPENAI_BASE_URL=http://127.0.0.1:8000/v1 OPENAI_API_KEY=none python guide_smolagents.py gemma3

The argument is the name of a model (see /v1/models).
"""

from __future__ import annotations

import sys

from smolagents import OpenAIModel, ToolCallingAgent, tool

from stepwell.integrations.smolagents import tell


@tool
def depth(well: str) -> str:
    """How deep a stepwell is.

    Args:
        well: Its name.
    """
    return "about 30 metres"


model = OpenAIModel(sys.argv[1])
surveyor = ToolCallingAgent([depth], model, name="surveyor", description="Measures wells.", max_steps=4)
guide = ToolCallingAgent([], model, name="guide", managed_agents=[surveyor], max_steps=4)
tell(guide)
print(guide.run("How deep is Chand Baori?"))
