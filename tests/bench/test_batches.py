"""A batch on a server that is killed twice: every line once in the output and once in the books."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell import cli


def test_kills_lose_nothing_and_double_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    small = ["--lines", "120", "--prefixes", "4", "--prefix-words", "20"]
    assert cli.run(["bench", "batches", "--quick", *small, "--json", str(out)]) == 0
    found = json.loads(out.read_text("utf-8"))
    killed, plain = found["results"]["arms"]
    assert killed["killed_at"]  # twice, unless the batch ended between two looks
    assert not plain["killed_at"]
    assert killed["answers"] == killed["distinct"] == plain["answers"] == 120
    assert [verdict["reached"] for verdict in found["verdicts"][:2]] == [True, True]
    for arm in (killed, plain):
        assert arm["charged_microusd"] == arm["answered_microusd"] > 0
        assert 0 < arm["computed_tokens"] < arm["prompt_tokens"]
    assert "ordered, killed twice" in capsys.readouterr().out
