"""TradingAgents 33, 175, 203 and 805, AI-Trader 8 and 76: what was not known yet decides what is said."""

from __future__ import annotations

from datetime import date, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.review.digest import digest
from stepwell.review.page import ReviewPage
from stepwell.review.writer import from_templates
from tests.review.sample import FRIDAY, WEEK, facts, page, raw, replies

HEAD = "| id | unit | value | observed | known since | speaker |\n|---|---|---|---|---|---|\n"


@given(st.integers(3, 4_000))
def test_no_fact_of_a_later_day_has_a_value(days: int) -> None:
    later = FRIDAY + timedelta(days=days)
    table = f"{HEAD}| evt.oracle.contract | usd | 3 | {FRIDAY} | {later} | |\n".encode()
    (reply,) = [one for one in replies({"documents-events.md": table}) if one.name == "documents-events.md"]
    found, _ = digest(WEEK, [reply])
    assert found["evt.oracle.contract"].missing == "it was not known by the end of the week"


@pytest.mark.parametrize("name", ["prices-SPX.csv", "prices-IXIC.csv"])
def test_levels_of_later_sessions_change_no_sentence(name: str) -> None:
    later = {name: raw()[name] + b"2025-12-15,1.00\n2025-12-16,99999.00\n"}
    found, _ = facts(later)
    draft = from_templates(found)
    assert draft == from_templates(facts()[0])
    shown = ReviewPage(found, draft, "en").html().split("<h2>What is missing")[0]
    assert shown == page("en").decode().split("<h2>What is missing")[0]


def test_a_vintage_of_the_week_after_revises_nothing() -> None:
    later = b'{"realtime_start": "2025-12-16", "date": "2025-09-01", "value": "159518"}'
    data = raw()["fred-PAYEMS@first.json"].replace(b'"observations": [', b'"observations": [' + later + b",")
    found, _ = facts({"fred-PAYEMS@first.json": data})
    assert found["w.jobs.revision"].value == 0
    assert date(2025, 12, 16) not in {cell.known_since for cell in found.cells.values()}
