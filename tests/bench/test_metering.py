"""What keeping books takes is timed where it happens, and only there."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell.bench.ledger.metering import MeteringKept, MeteringRounds, _live, _null
from stepwell.bench.turns import TurnsWork
from stepwell.cli import run
from stepwell.console.progress import ticker
from stepwell.ledger.stores.open import open_store

SMALL = TurnsWork(agents=6, turns=2, prompt_tokens=40, added_tokens=5, output_tokens=4, device_kv_tokens=1024)


def test_the_figures_are_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Not whether they are good: this machine may be busy."""
    file = tmp_path / "m.json"
    assert run(["bench", "metering", "--quick", "--model", "null", "--json", str(file)]) == 0
    result = json.loads(file.read_text("utf-8"))
    figures = result["results"]
    assert 0 < figures["share_of_wall_time"] < 1
    assert figures["postings_per_s"] > 0
    assert len(figures["with_s"]) == len(figures["without_s"]) == len(result["samples"]) == 2
    assert "metering: " in capsys.readouterr().out


def test_what_is_counted_is_what_was_written(tmp_path: Path) -> None:
    with ticker() as progress:
        (kept,) = _null(tmp_path, SMALL, 1, progress).kept
    store = open_store(str(tmp_path / "null" / "0.db"), create=False)
    written = int(store.rows("SELECT COUNT(*) FROM postings")[0][0])
    store.close()
    # What is posted when the run is closed (all storage) comes after the stopwatch.
    assert 0.5 * written < kept.postings < written
    assert 0 < kept.keeper_s < kept.wall_s <= kept.written_s
    assert kept.steps >= 8 and kept.transactions >= 8


def test_books_are_kept_in_every_other_run(tmp_path: Path) -> None:
    with ticker() as progress:
        found = _live(tmp_path, SMALL, "null", None, 2, progress)
    assert {path.name for path in tmp_path.glob("live/*.db")} == {"0.db", "1.db"}
    assert len(found.ratios) == 2 and all(kept.postings for kept in found.kept)


def test_the_rate_counts_the_time_that_the_loop_gives_and_the_wait_at_the_end() -> None:
    kept = MeteringKept(wall_s=10, keeper_s=1, writer_cpu_s=0.5, written_s=11, postings=300_000)
    assert kept.per_s == 150_000
    assert kept.share == 0.15
    rounds = MeteringRounds(without_s=[8, 9, 10], with_s=[11, 12, 11], kept=[kept] * 3)
    assert (rounds.per_s, rounds.per_s_by_wall_time) == (150_000, 150_000)
    assert MeteringRounds([2], [1], [kept]).per_s_by_wall_time == float("inf")
