"""forecastbench 283: asked without a vintage, FRED answers with today's revised value, and nobody notices."""

from __future__ import annotations

from stepwell.review.digest import source
from tests.review.sample import WEEK, facts, raw


def test_every_request_asks_for_the_vintage_of_the_week() -> None:
    for request in source("fred").requests(WEEK):
        assert request.query["realtime_start"] == request.query["realtime_end"] == "2025-12-12"


def test_a_reply_of_another_day_is_no_fact_of_the_week() -> None:
    data = (
        raw()["fred-PAYEMS.json"].replace(b"2025-11-20", b"2026-11-27").replace(b"2025-12-12", b"2026-11-27")
    )
    found, _ = facts({"fred-PAYEMS.json": data})
    assert found["fred.PAYEMS.2025-09-01"].missing == "it was not known by the end of the week"
    assert found["w.jobs.change"].missing


def test_changes_of_the_sites_own_are_refused() -> None:
    data = raw()["fred-PAYEMS.json"].replace(b'"units": "lin"', b'"units": "chg"')
    _, refused = facts({"fred-PAYEMS.json": data})
    assert "levels are asked for, and changes computed here" in refused[0]
