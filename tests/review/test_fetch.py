"""Fetching, from a server on loopback that answers as the real sites do on good days and bad ones."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.review.fetch import TRIES
from stepwell.review.folder import INDEX, replies_of
from tests.review.sample import raw
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


def test_a_site_that_is_away_is_one_error_each(tmp_path: Path) -> None:
    errors = fetch("http://127.0.0.1:9", tmp_path, "nyfed", [])
    assert len(errors) == 5
    assert all(errors)
