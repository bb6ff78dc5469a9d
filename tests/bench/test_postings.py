"""``stepwell bench postings``: what it writes is what a ledger takes, and real books are not touched."""

from __future__ import annotations

import json
import random
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.bench.ledger.postings import PostingsCase, steps, verdicts
from tests.ledger.conftest import postgres_server, postgres_url  # noqa: F401 - fixtures


def test_a_quick_run_measures_every_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    words = ["bench", "postings", "--quick", "--postings", "400", "--batches", "4,64", "--dir", str(tmp_path)]
    assert cli.run([*words, "--json", str(out)]) == 0
    found = json.loads(out.read_text("utf-8"))
    assert [case["postings_per_batch"] for case in found["results"]["cases"]] == [4, 64]
    assert all(case["postings_per_s"] > 0 for case in found["results"]["cases"])
    assert found["results"]["sqlite_bytes_per_posting"] > 20
    assert [len(sample["batch_us"]) for sample in found["samples"]] == [3 * 100, 3 * 6]
    assert [path.name for path in tmp_path.iterdir()] == ["out.json"]
    assert "100,000 postings a second" in capsys.readouterr().out


def test_a_step_has_as_many_postings_as_was_asked_for() -> None:
    made = steps(random.Random(3), 16, 170)
    assert [len(batch.postings) for batch in made] == [16] * 10
    assert [batch.number for batch in made] == list(range(1, 11))
    assert all(posting.amount > 0 and posting.debit != posting.credit for b in made for posting in b.postings)


def test_the_target_is_held_against_the_median_of_large_steps() -> None:
    slow, fast = (
        PostingsCase("SQLite", 64, [90_000, 99_000, 300_000]),
        PostingsCase("SQLite", 256, [1, 120_000, 130_000]),
    )
    small, fleet = PostingsCase("SQLite", 8, [9_000]), PostingsCase("PostgreSQL", 256, [9_000])
    assert [verdict.reached for verdict in verdicts([slow, fast, small, fleet])] == [False, True]


@pytest.mark.parametrize("text", ["", "0", "-4", "4x", "1000000", "²"])
def test_sizes_that_cannot_be_measured_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "postings", f"--batches={text}"]) == 2
    assert "postings per engine step are whole numbers from 1 to 100,000" in capsys.readouterr().err


def test_a_url_that_is_none_is_said_before_anything_is_measured(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "postings", "--quick", "--postgres", "books.db"]) == 2
    assert "round" not in capsys.readouterr().err


def test_books_of_others_are_not_added_to(
    postgres_url: str,  # noqa: F811
    capsys: pytest.CaptureFixture[str],
) -> None:
    from stepwell.ledger.stores.open import open_store
    from tests.ledger.entries import RUN

    words = [
        "bench",
        "postings",
        "--quick",
        "--postings",
        "64",
        "--batches",
        "64",
        "--postgres",
        postgres_url,
    ]
    for _ in range(2):
        assert cli.run(words) == 0
    assert "PostgreSQL" in capsys.readouterr().out
    store = open_store(postgres_url)
    assert store.rows("SELECT COUNT(*) FROM postings") == [(2 * 3 * 64,)]
    store.begin(RUN)
    assert cli.run(words) == 2
    assert "there are books in that database" in capsys.readouterr().err
    assert store.rows("SELECT COUNT(*) FROM postings") == [(2 * 3 * 64,)]
    store.close()
