"""How long threads spin is measured in processes of their own, and set before llama.cpp is loaded."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.cli import run
from stepwell.engines.llamacpp.openmp import SPINS, VARIABLE

LOADED = f"import stepwell.engines.llamacpp, os; print(os.environ.get('{VARIABLE}'))"


@pytest.mark.model
def test_the_command(tmp_path: Path, smollm2_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    file = tmp_path / "waiting.json"
    words = ["bench", "waiting", "--quick", "--model", str(smollm2_path), "--spins", "1000", "--beside", "1"]
    # One thread waits for none. On busy cores two take minutes: that is what the command is there to measure.
    assert run([*words, "--threads", "1", "--json", str(file)]) == 0
    rows = json.loads(file.read_text())["results"]["rows"]
    assert [(row["spins"], row["sequences"]) for row in rows] == [
        (spins, sequences) for sequences in (1, 8) for spins in ("the library's own", "1000")
    ]
    assert all(row["alone_ms"] > 0 and row["beside_ms"] > 0 for row in rows)


def test_spins_that_are_no_numbers_are_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["bench", "waiting", "--spins", "many"]) == 2
    assert "--spins 'many': times round the loop are whole numbers" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("given", "then"),
    [({}, str(SPINS)), ({VARIABLE: "7"}, "7"), ({"OMP_WAIT_POLICY": "active"}, "None")],
)
def test_it_is_set_unless_somebody_has_said_otherwise(given: dict[str, str], then: str) -> None:
    own = {name: value for name, value in os.environ.items() if name not in (VARIABLE, "OMP_WAIT_POLICY")}
    done = subprocess.run(
        [sys.executable, "-c", LOADED], env=own | given, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == then
