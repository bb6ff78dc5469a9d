"""TradingAgents 1021: a stale table answers, and a close of the year before is printed."""

from __future__ import annotations

from tests.review.sample import facts, page, raw

LAST_YEAR = b"Date,Close\n2024-12-05,6075.11\n2024-12-06,6090.27\n2024-12-12,6051.25\n2024-12-13,6051.09\n"


def test_levels_outside_the_week_are_no_levels_of_the_week() -> None:
    found, _ = facts({"prices-SPX.csv": LAST_YEAR})
    assert found["w.SPX.change"].missing == (
        "idx.SPX.close.2025-12-12: there is no such figure; idx.SPX.close.2025-12-05: there is no such figure"
    )
    assert b"6,051" not in page("en", {"prices-SPX.csv": LAST_YEAR})


def test_a_table_that_ends_before_the_week_does_is_no_week() -> None:
    cut = b"\n".join(raw()["prices-SPX.csv"].splitlines()[:-1]) + b"\n"
    found, _ = facts({"prices-SPX.csv": cut})
    assert found["w.SPX.change"].missing
    assert found["w.SPX.last"].missing
