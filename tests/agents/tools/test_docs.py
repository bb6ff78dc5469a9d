"""What docs/tools.md shows runs as it stands, and says what its comments say."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.agents.tools import Limits
from stepwell.agents.tools.registry import BUILDERS

DOCUMENT = (Path(__file__).parents[3] / "docs" / "tools.md").read_text("utf-8")
EXAMPLES = re.findall(r"```python\n(.*?)```", DOCUMENT, re.DOTALL)


def needed(example: str) -> list[str]:
    return [
        package for package in ("duckdb", "mcp") if {"duckdb": '"sql"', "mcp": "mcp."}[package] in example
    ]


@pytest.mark.parametrize("example", EXAMPLES, ids=["function", "names", "sandbox", "mcp"])
def test_the_examples_run(example: str, tmp_path: Path) -> None:
    for package in needed(example):
        pytest.importorskip(package)
    script = tmp_path / "example.py"
    script.write_text(example, "utf-8")
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script)],
        capture_output=True, text=True, cwd=tmp_path, check=False, timeout=120,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for promised in re.findall(r"print\(.*\)  # (.*)", example):
        for part in promised.split("..."):
            assert part.strip() in done.stdout


def test_every_tool_and_every_limit_is_in_the_document() -> None:
    assert all(f"| `{name}` |" in DOCUMENT for name in BUILDERS)
    assert all(f"`{name}`" in DOCUMENT for name in Limits.__dataclass_fields__)
