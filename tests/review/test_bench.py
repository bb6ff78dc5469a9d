"""``stepwell bench review``: its made weeks, and a judge that can say no."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.bench.review.arms import Told, plain
from stepwell.bench.review.judge import Judged, judge
from stepwell.bench.review.review import kept_weeks
from stepwell.bench.review.weeks import KINDS, made_week
from stepwell.errors import BadInput
from stepwell.review.digest import digest
from stepwell.review.writer import from_templates
from tests.review.sample import facts

FOUND, _ = facts()
TEXT = plain(FOUND, from_templates(FOUND))


@pytest.mark.parametrize("seed", range(len(KINDS)))
def test_a_made_week_is_the_same_again_and_holds_what_it_says(seed: int) -> None:
    made = made_week(seed)
    assert made.files == made_week(seed).files
    assert made.kind == KINDS[seed]
    found, refused = digest(made.week, made.replies())
    assert {conflict.kind for conflict in found.conflicts} == made.unfit
    assert len(refused) == (3 if made.kind == "missing" else 0)


def test_the_judge_finds_nothing_wrong_in_ours() -> None:
    judged = judge(TEXT, FOUND)
    assert (judged.wrong_numbers, judged.wrong_directions, judged.wrong_dates) == (0, 0, 0)
    assert judged.said == judged.must >= 17
    assert judged.directions >= 7
    assert judged.dates >= 5


@pytest.mark.parametrize(
    ("before", "after", "what"),
    [
        ("1.62%", "1.63%", "wrong_numbers"),
        ("$40 billion", "$41 billion", "wrong_numbers"),
        ("S&P 500 lost", "S&P 500 gained", "wrong_directions"),
        ("10-year Treasury yield rose", "10-year Treasury yield declined", "wrong_directions"),
        ("January 1, 2026", "January 2, 2026", "wrong_dates"),
        ("Friday, May 15", "Thursday, May 15", "wrong_dates"),
        ("September 10, 2025", "September 10, 2024", "wrong_dates"),
    ],
)
def test_the_judge_finds_what_is_wrong(before: str, after: str, what: str) -> None:
    assert before in TEXT
    assert getattr(judge(TEXT.replace(before, after), FOUND), what) == 1


def test_what_is_not_said_is_not_recalled() -> None:
    judged = judge(TEXT.partition("A tenant of Fermi")[0], FOUND)
    assert judged.said < judged.must


def test_the_bench_runs(tmp_path: Path) -> None:
    file = tmp_path / "review.json"
    assert cli.run(["bench", "review", "--weeks", "1", "--mutate", "12", "--json", str(file)]) == 0
    results = json.loads(file.read_text())["results"]
    arms = {(row["model"], row["arm"], row["level"]): row for row in results["arms"]}
    assert {row["faults"] for (_, arm, _), row in arms.items() if arm == "ours"} == {0}
    assert arms["scripted", "table in the prompt", ""]["numbers"] > 30
    assert set(results["not_found_of_single_changes"].values()) == {0}
    assert results["contradictions"] == {"held": 5, "found": 5, "not_held": 0}


def test_weeks_are_kept(tmp_path: Path) -> None:
    file, key = tmp_path / "weeks.jsonl", ("smollm2", "ours", "choose", "sample")
    told = Told(Judged(numbers=3, must=2, said=1), tokens=7)
    kept_weeks(file).keep(key, told)
    assert kept_weeks(file).known == {key: told}
    kept_weeks(file).keep(("smollm2", "ours", "write", "sample"), told)
    assert len(file.read_text().splitlines()) == 2
    with file.open("a") as more:
        more.write('{"model": "cut of')
    assert len(kept_weeks(file).known) == len(file.read_text().splitlines()) == 2
    file.write_text("{}\n")
    with pytest.raises(BadInput, match="line 1"):
        kept_weeks(file)
