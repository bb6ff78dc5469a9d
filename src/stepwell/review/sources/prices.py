"""Closing levels of indexes: a CSV that a person may lawfully use, one file for each index.

Index levels in the press are price levels, without dividends; a file of total returns is another index. The
columns are ``Date`` and ``Close``; others are passed over. Cboe publishes the VIX in nearly this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.review.facts import Facts, Unit
from stepwell.review.sources.base import Reader, Reply, Request
from stepwell.review.week import Week, is_session

INDEXES = ("IXIC", "SPX", "DJI", "RUT", "SOX")
"""Nasdaq Composite, S&P 500, Dow Jones Industrial Average, Russell 2000, PHLX Semiconductor."""
PREFIX = "prices-"


@dataclass(frozen=True, slots=True)
class Prices:
    """Files that are there already: nothing is fetched, because no free source may be used by everybody."""

    name: str = "prices"
    base_url: str = ""
    secret: str = ""
    pause_s: float = 0.0

    def requests(self, week: Week) -> Sequence[Request]:
        return ()

    def read(self, facts: Facts, reply: Reply) -> None:
        index = reply.name.removeprefix(PREFIX).partition(".")[0].upper()
        reader = Reader(facts, reply, f"closing levels of {index}", "csv")
        for number, row in reader.rows("Date", "Close"):
            day = reader.day(row["Date"])
            level = reader.number(row["Close"])
            if not is_session(day):
                raise reader.fail(f"a level of {day}, a day on which the exchange was closed")
            if level is not None and level <= 0:
                raise reader.fail(f"the level {level} of {day} is not above zero")
            reader.cell(f"idx.{index}.close.{day}", Unit.POINTS, level, f"{number}/Close", day)


@dataclass(frozen=True, slots=True)
class Cboe:
    """The volatility index's history, all of it in one file."""

    name: str = "cboe"
    base_url: str = "https://cdn.cboe.com"
    secret: str = ""
    pause_s: float = 1.0

    def requests(self, week: Week) -> Sequence[Request]:
        return (Request(self.name, "cboe-VIX.csv", "/api/global/us_indices/daily_prices/VIX_History.csv"),)

    def read(self, facts: Facts, reply: Reply) -> None:
        reader = Reader(facts, reply, "Cboe, VIX", "csv")
        for number, row in reader.rows("DATE", "CLOSE"):
            day = reader.day(row["DATE"])
            reader.cell(
                f"idx.VIX.close.{day}", Unit.POINTS, reader.number(row["CLOSE"]), f"{number}/CLOSE", day
            )
