"""The soak benchmark runs, and its slopes tell what grows from what does not."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from stepwell.bench.chaos.growth import ProcessSample, slope
from stepwell.cli import run

pytest.importorskip("scipy", reason="the extra 'soak' is not installed")
MIB = 2**20


def _held(per_hour_bytes: float, seed: int) -> list[ProcessSample]:
    """An hour of a process that fills its caches first, is never quiet, and has a peak now and then."""
    dice = random.Random(seed)
    samples = []
    for number in range(240):
        at_s = number * 15.0
        filled = 80 * MIB * min(1.0, at_s / 900)
        noise = dice.gauss(0, 2 * MIB) + (50 * MIB if dice.random() < 0.02 else 0)
        memory = int(200 * MIB + filled + noise + per_hour_bytes * at_s / 3_600)
        samples.append(ProcessSample(at_s, memory, 40, 12, 0))
    return samples


@pytest.mark.parametrize("seed", range(5))
def test_a_leak_shows_and_a_warm_up_does_not(seed: int) -> None:
    flat, leak = (slope(_held(grows, seed), "memory_bytes") for grows in (0, 20 * MIB))
    assert flat.low < 8 * MIB < leak.low
    assert flat.low < 0 < flat.high + 1 * MIB
    assert leak.low < 20 * MIB < leak.high + 1 * MIB
    assert slope(_held(0, seed), "descriptors").per_hour == 0


def test_too_short_a_run_has_no_slope() -> None:
    with pytest.raises(ValueError, match="too few for a slope"):
        slope(_held(0, 1)[:12], "threads")


def test_six_seconds(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Too short to say what grows; everything else that a run of hours does is done."""
    file = tmp_path / "soak.json"
    run(["bench", "soak", "--minutes", "0.1", "--json", str(file)])
    report = json.loads(file.read_text("utf-8"))
    results = report["results"]
    assert results["answered"] > 0 and results["steps_decided_again"] > 100
    assert set(results["slopes_per_hour"]) in (set(), {"memory_bytes", "descriptors", "threads"})
    reached = {one["target"]: one["reached"] for one in report["verdicts"]}
    assert reached["recordings that are decided differently"], report["notes"]
    assert reached["KV on disk at most"]
    assert reached["things that should not have happened (as bench chaos counts them)"], report["notes"]
    assert capsys.readouterr().out.splitlines()[-1].startswith("soak: ")
