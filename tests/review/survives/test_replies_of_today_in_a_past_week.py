"""TradingAgents 1220: a source that answers with today's state is put into the report of a past week."""

from __future__ import annotations

import json
from datetime import date

from stepwell.review.digest import digest, source
from stepwell.review.sources.base import Reply
from tests.review.sample import WEEK, raw

BLS = {
    "status": "REQUEST_SUCCEEDED",
    "message": [],
    "Results": {
        "series": [
            {
                "seriesID": "CES0000000001",
                "data": [{"year": "2025", "period": "M09", "value": "159593", "footnotes": [{}]}],
            }
        ]
    },
}


def test_a_source_without_vintages_answers_for_the_day_it_was_asked() -> None:
    later = Reply("bls", "bls.json", json.dumps(BLS).encode(), date(2026, 6, 1))
    found, refused = digest(WEEK, [later])
    assert not refused
    assert found["bls.payrolls.2025-09-01"].missing == "it was not known by the end of the week"
    found, _ = digest(WEEK, [Reply("bls", "bls.json", json.dumps(BLS).encode(), date(2025, 12, 13))])
    assert found["bls.payrolls.2025-09-01"].value == 159_593_000


def test_every_request_of_a_source_that_can_names_the_week() -> None:
    for name in ("fred", "treasury", "fiscaldata", "nyfed"):
        request = source(name).requests(WEEK)[0]
        assert "2025-12" in str(request.query) or "202512" in str(request.query), name


def test_purchases_of_another_fortnight_are_none_of_this_week() -> None:
    data = raw()["nyfed-purchases.json"].replace(b"2025-12-12", b"2026-05-20")
    found, _ = digest(WEEK, [Reply("nyfed", "nyfed-purchases.json", data, date(2026, 5, 21))])
    assert not list(found.under("nyfed.bills."))
