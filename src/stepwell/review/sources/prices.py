"""Closing levels of indexes: CSV or Parquet that a person may lawfully use, one file for each index.

Index levels in the press are price levels, without dividends (``prices-SPX.csv``). Levels with dividends
reinvested are another index with a unit of its own (``total-SPX.csv``), so that the two are never mixed. The
columns are ``Date`` and ``Close``; others are passed over. Cboe publishes the VIX in nearly this form.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from stepwell.review.facts import Facts, Unit
from stepwell.review.sources.base import Reader, Reply, Request
from stepwell.review.sources.parquet import parquet_rows
from stepwell.review.week import Week, is_session

INDEXES = ("IXIC", "SPX", "DJI", "RUT", "SOX")
"""Nasdaq Composite, S&P 500, Dow Jones Industrial Average, Russell 2000, PHLX Semiconductor."""
MOST_WEIGHTS = Decimal("100.5")
"""Percent; weights are rounded where they are published."""


@dataclass(frozen=True, slots=True)
class Brought:
    """Files that are there already: nothing is fetched, because no free source may be used by all. Each
    is named after its source and its index (``prices-SPX.csv``)."""

    name: str
    base_url: str = ""
    secret: str = ""
    pause_s: float = 0.0

    def requests(self, week: Week) -> Sequence[Request]:
        return ()

    def index_of(self, reply: Reply) -> str:
        return reply.name.removeprefix(f"{self.name}-").partition(".")[0].upper()


@dataclass(frozen=True, slots=True)
class PriceFiles(Brought):
    """Price levels."""

    name: str = "prices"

    def read(self, facts: Facts, reply: Reply) -> None:
        index = self.index_of(reply)
        _levels(facts, reply, f"closing levels of {index}", f"idx.{index}.close.", Unit.POINTS)


@dataclass(frozen=True, slots=True)
class Totals(Brought):
    """Levels with dividends reinvested."""

    name: str = "total"

    def read(self, facts: Facts, reply: Reply) -> None:
        index = self.index_of(reply)
        _levels(facts, reply, f"total return levels of {index}", f"tri.{index}.close.", Unit.TOTAL_POINTS)


def _levels(facts: Facts, reply: Reply, title: str, prefix: str, unit: Unit) -> None:
    kind = "parquet" if reply.name.endswith(".parquet") else "csv"
    reader = Reader(facts, reply, title, kind)
    rows = parquet_rows(reader, "Date", "Close") if kind == "parquet" else reader.rows("Date", "Close")
    for number, row in rows:
        day = reader.day(row["Date"])
        level = reader.number(row["Close"])
        if not is_session(day):
            raise reader.fail(f"a level of {day}, a day on which the exchange was closed")
        if level is not None and level <= 0:
            raise reader.fail(f"the level {level} of {day} is not above zero")
        reader.cell(f"{prefix}{day}", unit, level, f"{number}/Close", day)


PARTS = ("Name", "Weight", "From", "To", "Base", "Last")


@dataclass(frozen=True, slots=True)
class Parts(Brought):
    """What an index is made of (``parts-SPX.csv``): of each part its weight in percent at the base date
    ``From``, and its level there and on ``To``. ``NameZh``: its name in Chinese."""

    name: str = "parts"

    def read(self, facts: Facts, reply: Reply) -> None:
        index = self.index_of(reply)
        reader = Reader(facts, reply, f"parts of {index}", "csv")
        weights = Decimal(0)
        for number, row in reader.rows(*PARTS):
            since, until = reader.day(row["From"]), reader.day(row["To"])
            one = f"parts.{index}.{since}.{until}.{number}"
            weight = reader.number(row["Weight"])
            weights += weight or 0
            for language, column in (("en", "Name"), ("zh", "NameZh" if row.get("NameZh") else "Name")):
                reader.cell(f"name.{one}.{language}", Unit.NAME, row[column], f"{number}/{column}", since)
            reader.cell(f"{one}.weight", Unit.PERCENT, weight, f"{number}/Weight", since)
            for column, day in (("Base", since), ("Last", until)):
                level = reader.number(row[column])
                reader.cell(f"{one}.{column.lower()}", Unit.POINTS, level, f"{number}/{column}", day)
        if weights > MOST_WEIGHTS:
            raise reader.fail(f"the weights come to {weights} percent")


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
