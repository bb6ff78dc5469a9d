"""forecastbench 283: asked without a vintage, FRED answers with today's revised value, and nobody notices."""

from __future__ import annotations

import re
from datetime import date

from stepwell.review.digest import source
from tests.review.sample import WEEK, facts, page, raw


def test_every_request_asks_for_the_vintage_of_the_week() -> None:
    asked = {
        one.name.removeprefix("fred-").removesuffix(".json"): one.query
        for one in source("fred").requests(WEEK)
    }
    for name, query in asked.items():
        assert query["realtime_start"] <= "2025-12-12"
        if name not in ("SP500", "DJIA", "NASDAQCOM") and not name.startswith("release-"):
            assert query["realtime_end"] == "2025-12-12", (
                name
            )  # closes are not revised, plans are of their day
    assert asked["PAYEMS"]["realtime_start"] == "2025-12-12"


def test_the_first_print_is_kept_beside_what_stands_now() -> None:
    found, _ = facts()
    assert found["fred.PAYEMS.2025-08-01@2025-09-05"].value == 159_540_000
    assert found["w.jobs.first"].known_since == date(2025, 9, 5)
    assert found["w.jobs.since_first"].value == -33_000
    assert found["w.jobs.revision"].value == 0, "nothing was revised in the week itself"
    assert "Payrolls for August 2025 were revised down by 33,000 from the initial print" in re.sub(
        r"<[^>]+>", "", page("en").decode()
    )


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
