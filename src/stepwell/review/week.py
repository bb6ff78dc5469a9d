"""The week of a review: sessions of the exchange and days of the bond market, which are not the same."""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, timedelta
from functools import cache
from typing import Any

from stepwell.errors import BadInput

FIRST, LAST = date(2000, 1, 1), date(2049, 12, 31)


@contextmanager
def _quietly() -> Iterator[None]:
    """The calendars use what pandas will change; a reader of reviews can do nothing about it."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        warnings.simplefilter("ignore", PendingDeprecationWarning)
        warnings.simplefilter("ignore", FutureWarning)
        yield


@cache
def _exchange() -> Any:
    with _quietly():
        import exchange_calendars

        return exchange_calendars.get_calendar("XNYS", start=FIRST.isoformat())


@cache
def _bonds() -> Any:
    with _quietly():
        import pandas_market_calendars

        return pandas_market_calendars.get_calendar("SIFMA_US")


@dataclass(frozen=True, slots=True)
class Week:
    """The calendar week, Monday to Friday, in which a day lies."""

    friday: date

    @classmethod
    def of(cls, day: date) -> Week:
        """The week that ends on, or next after, this weekday; a weekend belongs to the week before it."""
        weekday = day.weekday()
        return cls(day + timedelta(days=4 - weekday) if weekday <= 4 else day - timedelta(days=weekday - 4))

    @property
    def monday(self) -> date:
        return self.friday - timedelta(days=4)

    def before(self) -> Week:
        """The week before this one."""
        return Week(self.friday - timedelta(days=7))

    def sessions(self) -> list[date]:
        """Days on which the New York Stock Exchange opened, half days included."""
        return _sessions(self.monday, self.friday)

    def base(self) -> date:
        """The last session before the week: changes over the week are measured from its close."""
        return _sessions(self.monday - timedelta(days=10), self.monday - timedelta(days=1))[-1]

    def last(self) -> date:
        """The last session of the week. Raises ``BadInput`` where the exchange was closed all week."""
        if not (days := self.sessions()):
            raise BadInput(f"the exchange was closed in the whole week that ends on {self.friday}")
        return days[-1]

    def bond_days(self) -> list[date]:
        """Days on which the bond market recommends trading (SIFMA)."""
        with _quietly():
            found = _bonds().valid_days(self.monday.isoformat(), self.friday.isoformat())
        return [stamp.date() for stamp in found]


def is_session(day: date) -> bool:
    """Whether the exchange opened on this day; outside the years of its calendar, whether it is a weekday."""
    calendar = _exchange()
    if not calendar.first_session.date() <= day <= calendar.last_session.date():
        return day.weekday() < 5
    return bool(calendar.is_session(day.isoformat()))


def session_after(day: date) -> date:
    """The next session of the exchange. Raises ``BadInput`` where its calendar has ended."""
    days = _sessions(day + timedelta(days=1), day + timedelta(days=10))
    return days[0]


def week_of(text: str) -> Week:
    """The week of ``YYYY-MM-DD``. Raises ``BadInput``."""
    try:
        day = date.fromisoformat(text)
    except ValueError as error:
        raise BadInput(f"--week {text}: give a day of the week as YYYY-MM-DD, such as 2025-12-12") from error
    if not FIRST + timedelta(days=31) <= day <= LAST:
        raise BadInput(f"--week {text}: reviews are written for weeks from {FIRST.year} to {LAST.year}")
    return Week.of(day)


def _sessions(first: date, last: date) -> list[date]:
    calendar = _exchange()
    if last > calendar.last_session.date():
        raise BadInput(f"the exchange's calendar ends on {calendar.last_session.date()}, before {last}")
    with _quietly():
        return [stamp.date() for stamp in calendar.sessions_in_range(first.isoformat(), last.isoformat())]
