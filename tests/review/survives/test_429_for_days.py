"""yfinance 2422 and 2568, FinRobot 61: a site answers 429 for days; the program asks on and on, or dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell import cli
from stepwell.review.fetch import LONGEST_WAIT_S, TRIES
from tests.review.sample import raw
from tests.review.site import Site, fetch


def test_it_is_asked_a_few_times_with_growing_waits(site: str, tmp_path: Path) -> None:
    Site.answers[:] = [(429, b"Too Many Requests", {"Retry-After": "172800"})]
    waits: list[float] = []
    (error,) = fetch(site, tmp_path, "cboe", waits)
    assert "cboe answered 429" in error
    assert len(Site.asked) == TRIES
    assert waits == [LONGEST_WAIT_S] * (TRIES - 1)


def test_the_review_is_written_from_what_there_is(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prices-SPX.csv").write_bytes(raw()["prices-SPX.csv"])
    flags = ["--from", str(tmp_path), "--out", str(tmp_path / "out"), "--lang", "en"]
    assert cli.run(["review", "write", *flags]) == 0
    assert " 0 untraced or wrong" in capsys.readouterr().out
