"""The measurement of the access log at small size: one line a turn, and a share that is a share."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell import cli


def test_it_measures_what_it_says(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "found.json"
    assert cli.run(["bench", "access-log", "--quick", "--agents", "3", "--json", str(file)]) in (0, 1)
    assert "us of CPU a line" in capsys.readouterr().out
    found = json.loads(file.read_text("utf-8"))
    assert found["samples"][0]["lines"] == 3
    assert 0 < found["results"]["share_of_wall_time"] < 1
