"""Weeks by sessions, against days that are known."""

from __future__ import annotations

from datetime import date

import pytest

from stepwell.review.week import Week, week_of


@pytest.mark.parametrize("day", ["2025-12-08", "2025-12-12", "2025-12-13", "2025-12-14"])
def test_a_weekend_belongs_to_the_week_before_it(day: str) -> None:
    assert week_of(day).friday == date(2025, 12, 12)


def test_a_week_is_measured_from_the_last_close_before_it() -> None:
    week = week_of("2025-12-12")
    assert (week.base(), week.last(), len(week.sessions())) == (date(2025, 12, 5), date(2025, 12, 12), 5)


def test_a_holiday_week_has_four_sessions() -> None:
    thanksgiving = week_of("2025-11-28")
    assert len(thanksgiving.sessions()) == 4
    assert thanksgiving.last() == date(2025, 11, 28)  # a half day is a session


def test_good_friday_ends_the_week_on_thursday() -> None:
    assert week_of("2025-04-18").last() == date(2025, 4, 17)


def test_the_last_day_of_2021_was_a_session() -> None:
    """holidays#1583 took it for a holiday."""
    assert week_of("2021-12-31").last() == date(2021, 12, 31)


def test_a_day_of_mourning_is_none() -> None:
    assert date(2025, 1, 9) not in week_of("2025-01-10").sessions()


def test_bonds_rest_on_columbus_day_and_stocks_do_not() -> None:
    week = week_of("2025-10-17")
    assert date(2025, 10, 13) in week.sessions()
    assert date(2025, 10, 13) not in week.bond_days()


def test_a_week_is_a_value() -> None:
    assert week_of("2025-12-10") == Week(date(2025, 12, 12))
