"""The tool of planner.toml: one plan as it is and with inputs changed, by the commands a person would type.

Its answer is the crew's answer, so no figure in it is a model's: the model chooses only plan and inputs, and
the command that gives the same figures again stands below.
"""

from __future__ import annotations

import json
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Literal

from stepwell.agents.tools import ToolError, tool

HERE = Path(__file__).resolve().parent
PLANS = HERE.parent / "plans"
SECONDS = 300


@tool(idempotent=True, timeout_s=SECONDS, expected_ms=5_000)
def what_if(
    plan: Literal["capacity", "price", "hardware", "storage", "contract"], of: str, inputs: list[str]
) -> str:
    """Answers a question about cost: what a plan comes to as it is, and with inputs changed.

    Args:
        plan: capacity, price, hardware, storage or contract
        of: a part (h200), parts with commas for hardware, users for storage, an example's name for contract
        inputs: what changes, as KEY=VALUE; x2 doubles, +6 adds
    """
    file = PLANS / f"{of}.toml"
    subject = str(file) if plan == "contract" and file.parent == PLANS and file.is_file() else of
    words = ["plan", plan, subject, *(["--draws", "0"] if plan == "contract" else [])]
    changed = [*words, "--what-if", *inputs] if inputs else words
    lines = [f"As it is: {_answer(words)}"]
    if inputs:
        lines.append(f"With {', '.join(inputs)}: {_answer(changed)}")
    return "\n".join([*lines, f"By: {shlex.join(['stepwell', *changed])}"])


def _answer(words: list[str]) -> str:
    """The command's own sentence. Raises ``ToolError`` with its own, too."""
    command = [sys.executable, "-m", "stepwell", *words, "--json", "-"]
    done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    if done.returncode:
        said = done.stderr.strip().splitlines() or ["it gave no reason"]
        raise ToolError(said[-1].removeprefix("stepwell: "))
    return str(json.loads(done.stdout)["answer"])
