"""yfinance 638, 1036 and 1299, Equibles 904: weekly bars are dated Monday, and dates are a day off."""

from __future__ import annotations

import csv
import io
from datetime import date, timedelta

from tests.review.sample import facts, raw


def test_bars_of_weeks_make_no_week() -> None:
    weekly = b"Date,Close\n2025-12-01,6870.40\n2025-12-08,6827.41\n"
    found, _ = facts({"prices-SPX.csv": weekly})
    assert found["w.SPX.change"].missing
    assert found["w.SPX.last"].missing


def test_dates_that_are_a_day_late_are_refused() -> None:
    rows = csv.DictReader(io.StringIO(raw()["prices-SPX.csv"].decode()))
    lines = [f"{date.fromisoformat(row['Date']) + timedelta(days=1)},{row['Close']}" for row in rows]
    found, refused = facts({"prices-SPX.csv": ("Date,Close\n" + "\n".join(lines) + "\n").encode()})
    assert "a level of 2025-12-06, a day on which the exchange was closed" in refused[0]
    assert found["w.SPX.change"].missing


def test_a_bar_of_a_session_that_is_still_to_come_is_no_fact() -> None:
    data = raw()["prices-SPX.csv"] + b"2025-12-15,6816.51\n"
    found, refused = facts({"prices-SPX.csv": data})
    assert not refused
    assert found["idx.SPX.close.2025-12-15"].missing == "it was not known by the end of the week"
