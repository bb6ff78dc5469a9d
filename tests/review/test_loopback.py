"""Every source that is asked over HTTP, from a server on loopback: good days and bad ones."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from stepwell.review.digest import SOURCES, digest, source
from stepwell.review.fetch import TRIES
from stepwell.review.folder import replies_of
from tests.review.sample import WEEK, raw
from tests.review.site import Site, fetch

ASKED = [one.name for one in SOURCES if one.base_url]
KEYS = {one.secret for one in SOURCES if one.secret}


@pytest.fixture(autouse=True)
def keys(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in KEYS:
        monkeypatch.setenv(name, "someone@example.org")


def answers(name: str, change: Callable[[bytes], bytes]) -> list[str]:
    """Have the site answer each request of a source with the sample's reply, changed; which those are. What
    the sample does not have is gone (404)."""
    wanted = [request.name for request in source(name).requests(WEEK)]
    Site.answers[:] = [
        (200, change(raw()[one]), {}) if one in raw() else (404, b"no such series", {}) for one in wanted
    ]
    return [one for one in wanted if one in raw()]


def cut(data: bytes) -> bytes:
    return data.rstrip()[: len(data) // 2].rpartition(b",")[0]


@pytest.mark.parametrize("name", ASKED)
def test_a_good_day_is_kept_and_read(name: str, site: str, tmp_path: Path) -> None:
    kept = answers(name, bytes)
    errors = [one for one in fetch(site, tmp_path, name, []) if one]
    assert all("404" in one for one in errors)
    replies = list(replies_of(tmp_path))
    assert {one.name: one.data for one in replies} == {one: raw()[one] for one in kept}
    found, refused = digest(WEEK, replies)
    assert not refused
    published = [cell for cell in found.cells.values() if cell.value is not None and cell.place is not None]
    assert {cell.source for cell in published} - {"names"}


@pytest.mark.parametrize(
    "change", [lambda data: b"<html>be right back</html>", cut], ids=["a web page", "cut short"]
)
@pytest.mark.parametrize("name", ASKED)
def test_a_bad_day_keeps_nothing_and_says_so(
    name: str, change: Callable[[bytes], bytes], site: str, tmp_path: Path
) -> None:
    answers(name, change)
    errors = fetch(site, tmp_path, name, [])
    assert all(errors)
    assert all("the reply begins" in one or "404" in one for one in errors)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", ASKED)
def test_a_site_that_asks_to_wait_is_asked_again_and_not_for_ever(
    name: str, site: str, tmp_path: Path
) -> None:
    answers(name, bytes)
    Site.answers.insert(0, (429, b"", {"Retry-After": "3"}))
    waits: list[float] = []
    errors = fetch(site, tmp_path, name, waits)
    assert 3.0 in waits
    assert errors and not any("429" in one for one in errors)
    assert len(Site.asked) > len(errors)
    Site.answers[:] = [(429, b"", {"Retry-After": "3"})]
    Site.asked.clear()
    errors = fetch(site, tmp_path / "other", name, [])
    assert errors and all("429" in one for one in errors)
    assert len(errors) < len(Site.asked) <= TRIES * len(errors)
