"""Fetching, from a server on loopback that answers as the real sites do on good days and bad ones."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from stepwell.review.digest import source
from stepwell.review.fetch import TRIES, Fetcher
from stepwell.review.folder import INDEX, replies_of
from tests.review.sample import WEEK, raw
from tests.review.site import Site, fetch


def test_what_was_fetched_is_read_again(site: str, tmp_path: Path) -> None:
    Site.answers[:] = [(200, raw()["cboe-VIX.csv"], {})]
    assert fetch(site, tmp_path, "cboe", []) == [""]
    (reply,) = replies_of(tmp_path)
    assert (reply.source, reply.data, reply.made) == ("cboe", raw()["cboe-VIX.csv"], False)


def test_429_waits_as_long_as_the_site_asks_for_and_not_for_ever(site: str, tmp_path: Path) -> None:
    Site.answers[:] = [
        (429, b"", {"Retry-After": "7"}),
        (429, b"", {"Retry-After": "86400"}),
        (200, raw()["cboe-VIX.csv"], {}),
    ]
    waits: list[float] = []
    assert fetch(site, tmp_path, "cboe", waits) == [""]
    assert waits == [7.0, 60.0]


def test_tries_are_few(site: str, tmp_path: Path) -> None:
    Site.answers[:] = [(503, b"", {})]
    (error,) = fetch(site, tmp_path, "cboe", [])
    assert "cboe answered 503" in error
    assert len(Site.asked) == TRIES
    assert not (tmp_path / INDEX).exists()


def test_a_web_page_with_200_is_not_kept(site: str, tmp_path: Path) -> None:
    Site.answers[:] = [(200, b"<html>maintenance</html>", {})]
    errors = fetch(site, tmp_path, "nyfed", [])
    assert all("a web page instead of data; the reply begins '<html>maintenance" in error for error in errors)
    assert not list(tmp_path.iterdir())


def test_a_key_is_sent_and_never_written_or_told(
    site: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FRED_API_KEY", "s3cret")
    Site.answers[:] = [(200, raw()["fred-SOFR.json"], {})]
    errors = fetch(site, tmp_path, "fred", [])
    assert [one for one in errors if not one]
    assert all("there are no dates of releases" in one for one in errors if one)
    assert all("api_key=s3cret" in path and "realtime_start=2025" in path for path in Site.asked)
    assert "s3cret" not in (tmp_path / INDEX).read_text()
    Site.answers[:] = [(400, b"", {})]
    assert "s3cret" not in str(fetch(site, tmp_path, "fred", []))


def test_a_source_without_its_key_says_which(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("FRED_API_KEY", raising=False)
    assert fetch("http://127.0.0.1:9", tmp_path, "fred", []) == ["fred: set FRED_API_KEY to ask this source"]


def test_a_site_that_is_not_reached_is_one_error_and_is_left_alone(tmp_path: Path) -> None:
    waits: list[float] = []
    (error,) = fetch("http://127.0.0.1:9", tmp_path, "nyfed", waits)
    assert error.startswith("nyfed was not reached (")
    assert len(waits) == TRIES - 1


def test_what_was_kept_after_the_week_is_not_asked_for_again(site: str, tmp_path: Path) -> None:
    Site.answers[:] = [(200, raw()["cboe-VIX.csv"], {})]
    for _ in range(2):
        assert fetch(site, tmp_path, "cboe", []) == [""]
    assert len(Site.asked) == 1
    fetcher = Fetcher(tmp_path, date(2025, 12, 14), {"cboe": site}, again=True)
    with fetcher.client:
        assert [one.asked for one in fetcher.fetch(WEEK, source("cboe"))] == [True]
    (tmp_path / "cboe-VIX.csv").write_bytes(b"damaged")
    assert fetch(site, tmp_path, "cboe", []) == [""]
    assert len(Site.asked) == 3
    assert (tmp_path / "cboe-VIX.csv").read_bytes() == raw()["cboe-VIX.csv"]


def test_what_was_kept_before_the_week_had_ended_is_asked_for_again(site: str, tmp_path: Path) -> None:
    Site.answers[:] = [(200, raw()["cboe-VIX.csv"], {})]
    fetcher = Fetcher(tmp_path, date(2025, 12, 12), {"cboe": site})
    with fetcher.client:
        assert [one.asked for _ in range(2) for one in fetcher.fetch(WEEK, source("cboe"))] == [True, True]
