"""The compatibility table of docs/api.md is that of the tests there are and the versions that are pinned."""

from __future__ import annotations

import subprocess
import sys
from importlib.metadata import version
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
SCRIPT = ROOT / "scripts" / "compatibility.py"


def test_the_table_is_up_to_date() -> None:
    check = subprocess.run([sys.executable, SCRIPT, "--check"], capture_output=True, text=True)
    assert check.returncode == 0, check.stderr


@pytest.mark.parametrize("package", ["openai", "anthropic", "google-genai", "openai-agents", "smolagents"])
def test_what_runs_here_is_what_the_table_says(package: str) -> None:
    pins = (ROOT / "constraints.txt").read_text().splitlines()
    assert f"{package}=={version(package)}" in pins
