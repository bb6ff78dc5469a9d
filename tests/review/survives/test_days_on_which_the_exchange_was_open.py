"""holidays 1583, exchange_calendars 170, pandas_market_calendars 97: days that a calendar had wrong."""

from __future__ import annotations

import warnings
from datetime import date

import pytest

from stepwell.review.week import Week, is_session


@pytest.mark.parametrize(
    ("day", "opened"),
    [
        (date(2021, 12, 31), True),
        (date(2022, 6, 20), False),
        (date(2018, 12, 5), False),
        (date(2025, 1, 9), False),
        (date(2025, 11, 28), True),
        (date(2024, 7, 3), True),
        (date(2025, 10, 13), True),
        (date(2025, 4, 18), False),
    ],
)
def test_days_that_calendars_had_wrong(day: date, opened: bool) -> None:
    assert is_session(day) is opened
    assert (day in Week.of(day).sessions()) is opened


def test_bonds_rest_on_days_on_which_stocks_do_not() -> None:
    week = Week.of(date(2025, 10, 13))
    assert date(2025, 10, 13) in week.sessions()
    assert date(2025, 10, 13) not in week.bond_days()


def test_two_calendars_agree_on_ten_years() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import exchange_calendars
        import pandas_market_calendars

        ours = exchange_calendars.get_calendar("XNYS", start="2017-06-01")
        mine = ours.sessions_in_range("2018-01-01", "2026-12-31")
        other = pandas_market_calendars.get_calendar("NYSE").valid_days("2018-01-01", "2026-12-31")
    assert [stamp.date() for stamp in mine] == [stamp.date() for stamp in other]
