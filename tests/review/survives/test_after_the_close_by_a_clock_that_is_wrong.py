"""finagg 64, edgartools 557, datamule 115: a time that ends in Z is New York's for some filers."""

from __future__ import annotations

import json
from datetime import date

from stepwell.review.digest import digest
from stepwell.review.outline import sentences
from stepwell.review.sources.base import Reply
from tests.review.sample import WEEK


def filed(accepted: str) -> dict[str, object]:
    recent = {
        "accessionNumber": ["0001-25-000001"],
        "filingDate": ["2025-12-10"],
        "acceptanceDateTime": [accepted],
        "form": ["8-K"],
        "items": ["2.02"],
    }
    data = json.dumps({"cik": "1341439", "filings": {"recent": recent}}).encode()
    found, _ = digest(WEEK, [Reply("edgar", "edgar-0001341439.json", data, date(2025, 12, 12))])
    return {cell.id: cell.value for cell in found.under("edgar.")}


def test_the_time_of_a_filing_changes_no_fact() -> None:
    at_noon, at_night = filed("2025-12-10T12:00:00.000Z"), filed("2025-12-10T23:59:00.000Z")
    assert at_noon == at_night == {"edgar.Oracle.8-K.0001-25-000001": date(2025, 12, 10)}


def test_no_sentence_speaks_of_before_or_after_the_close() -> None:
    words = [piece for one in sentences() for way in one.variants.values() for text in way for piece in text]
    text = " ".join(piece for piece in words if isinstance(piece, str)).lower()
    assert not [phrase for phrase in ("after the close", "before the open", "盘后", "盘前") if phrase in text]
