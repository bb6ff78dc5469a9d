"""The measurement of watchers at small size: they read while the work is done, and both ways do the same."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell import cli


def test_it_measures_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    command = ["bench", "watchers", "--quick", "--agents", "3", "--watchers", "2", "--json", str(file)]
    assert cli.run(command) in (0, 1)  # how large the share is says nothing at this size
    assert "2 watchers" in capsys.readouterr().out
    alone, watched = json.loads(file.read_text("utf-8"))["samples"]
    assert (alone["watchers"], alone["bytes_read"]) == (0, 0)
    assert watched["watchers"] == 2 and watched["bytes_read"] > 0
    assert alone["steps"] > 0 and watched["step_s"] > 0
