"""OpenBB 6091, 7224 and 7474: an ill site answers 200 with a web page, and the parser dies."""

from __future__ import annotations

from pathlib import Path

import pytest

from stepwell.review.folder import replies_of
from stepwell.review.verifier import verify
from tests.review.sample import facts, page, raw
from tests.review.site import Site, fetch

PAGES = [
    b"<!DOCTYPE html><html><body>Down for maintenance</body></html>",
    b"\xef\xbb\xbf\n<!doctype HTML>\n<HTML></HTML>",
    b'<?xml version="1.0"?><!-- edge --><html xmlns="http://www.w3.org/1999/xhtml"></html>',
]


@pytest.mark.parametrize("web_page", PAGES)
def test_it_is_refused_by_name_and_the_rest_is_written(web_page: bytes) -> None:
    changed: dict[str, bytes | None] = dict.fromkeys(
        ("treasury-curve-202512.xml", "fred-DFEDTARL.json", "cboe-VIX.csv"), web_page
    )
    found, refused = facts(changed)
    assert len(refused) == 3
    assert all("a web page instead of data; the reply begins" in one for one in refused)
    assert found["w.SPX.change"].value is not None
    assert verify(page("en", changed)).faults == []


def test_the_last_good_copy_stays(site: str, tmp_path: Path) -> None:
    Site.answers[:] = [(200, raw()["cboe-VIX.csv"], {}), (200, PAGES[0], {})]
    assert fetch(site, tmp_path, "cboe", []) == [""]
    assert "a web page instead of data" in fetch(site, tmp_path, "cboe", [], again=True)[0]
    assert [reply.data for reply in replies_of(tmp_path)] == [raw()["cboe-VIX.csv"]]
