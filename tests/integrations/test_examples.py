"""The programs of examples/integrations, as they are, in processes of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.integrations.scenes import scripted_node
from tests.server.fakes import MODEL, call

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "examples" / "integrations").glob("*.py"))


def script(prompt: str) -> str:
    task = prompt.rpartition("New task:")[2]
    if "You're a helpful agent named" in task:
        return call("final_answer", answer="30")
    if "ask_surveyor" in prompt:
        field = "question" if '"question"' in prompt else "input"
        return "30" if "tool: 30" in prompt else call("ask_surveyor", **{field: "?"})
    if '"surveyor"' in prompt or "surveyor:" in prompt:
        return call("final_answer", answer="30") if "Observation" in task else call("surveyor", task="?")
    return "30" if "about 30" in prompt else call("depth", well="x")


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.stem)
def test_it_runs_and_the_server_knows_its_guide(example: Path) -> None:
    pytest.importorskip(example.stem.removeprefix("guide_").replace("openai_agents", "agents"))
    keep = {name: value for name, value in os.environ.items() if not name.upper().endswith("_PROXY")}
    with scripted_node(script) as node:
        done = subprocess.run(
            [sys.executable, str(example), MODEL],
            env={**keep, "OPENAI_BASE_URL": node.url, "OPENAI_API_KEY": "none"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        assert done.stdout.rstrip().endswith("30")
        node.waits("guide", "done")
        if "langgraph" not in example.stem:
            assert node.named("surveyor").parent_agent == node.named("guide").agent
