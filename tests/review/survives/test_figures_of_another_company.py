"""TradingAgents-CN 230 and 176: figures of another company; analysts who contradict each other."""

from __future__ import annotations

import json
import re
from datetime import date

from stepwell.review.digest import digest
from stepwell.review.sources.base import Reply
from tests.review.sample import WEEK, facts, page


def filings(cik: str) -> Reply:
    recent = {
        "accessionNumber": ["0001-25-000001"],
        "filingDate": ["2025-12-10"],
        "form": ["8-K"],
        "items": ["2.02"],
    }
    body = {"cik": cik, "filings": {"recent": recent, "files": []}}
    return Reply("edgar", "edgar-0001341439.json", json.dumps(body).encode(), date(2025, 12, 12))


def test_filings_of_another_company_are_refused() -> None:
    found, refused = digest(WEEK, [filings("0000320193")])
    assert "the filings are those of the company 0000320193, not of 0001341439" in refused[0]
    assert not list(found.under("edgar."))
    found, refused = digest(WEEK, [filings("1341439")])
    assert not refused
    assert len(list(found.under("edgar.Oracle."))) == 1


def test_two_sources_that_contradict_each_other_are_printed_as_such() -> None:
    other = {"prices-SPX.other.csv": b"Date,Close\n2025-12-12,6906.84\n"}
    assert ["idx.SPX.close.2025-12-12", "idx.SPX.close.2025-12-12~2"] in [
        list(one.cells) for one in facts(other)[0].conflicts
    ]
    text = page("en", other).decode()
    assert "6,906.84 (closing levels of SPX)" in re.sub(r"<[^>]+>", "", text)
    assert "6,906.84" in text
