"""FRED and ALFRED of the Federal Reserve Bank of St. Louis, always with a vintage.

Without ``realtime_start`` and ``realtime_end`` FRED answers with today's revised figures, and a misspelt
parameter is accepted and ignored; so both are sent and the reply must echo them.
https://fred.stlouisfed.org/docs/api/fred/series_observations.html
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date, timedelta

from stepwell.review.facts import Facts, Unit
from stepwell.review.sources.base import Reader, Reply, Request
from stepwell.review.week import Week

DAILY_DAYS = 21
MONTHLY_DAYS = 430


@dataclass(frozen=True, slots=True)
class Series:
    unit: Unit
    scale: int = 1
    """Published in this many units: payrolls in thousands."""
    days: int = DAILY_DAYS
    """How far back a week's request goes."""


SERIES = {
    "DFEDTARL": Series(Unit.PERCENT),
    "DFEDTARU": Series(Unit.PERCENT),
    "SOFR": Series(Unit.PERCENT),
    "DFII10": Series(Unit.PERCENT),
    "PAYEMS": Series(Unit.COUNT, 1000, MONTHLY_DAYS),
    "UNRATE": Series(Unit.RATE, 1, MONTHLY_DAYS),
}


@dataclass(frozen=True, slots=True)
class Fred:
    name: str = "fred"
    base_url: str = "https://api.stlouisfed.org"
    secret: str = "FRED_API_KEY"
    pause_s: float = 0.6

    def requests(self, week: Week) -> Sequence[Request]:
        return [self._request(name, series, week.friday) for name, series in SERIES.items()]

    def _request(self, name: str, series: Series, until: date) -> Request:
        query = {
            "series_id": name,
            "file_type": "json",
            "observation_start": (until - timedelta(days=series.days)).isoformat(),
            "observation_end": until.isoformat(),
            "realtime_start": until.isoformat(),
            "realtime_end": until.isoformat(),
        }
        return Request(self.name, f"fred-{name}.json", "/fred/series/observations", query)

    def read(self, facts: Facts, reply: Reply) -> None:
        name = reply.name.removeprefix("fred-").partition(".")[0].partition("@")[0]
        reader = Reader(facts, reply, f"FRED, {name}", "json")
        series = SERIES.get(name)
        if series is None:
            raise reader.fail(f"{name} is no series of a review")
        found = reader.json()
        if not isinstance(found, dict) or not isinstance(found.get("observations"), list):
            raise reader.fail("there are no observations")
        if found.get("units", "lin") != "lin":
            raise reader.fail(f"units={found['units']}: levels are asked for, and changes computed here")
        rows = found["observations"]
        if int(found.get("count", len(rows))) != len(rows) or int(found.get("offset", 0)):
            raise reader.fail(f"{len(rows)} of {found.get('count')} observations: there are further pages")
        vintage = reader.day(found.get("realtime_end"))
        for number, row in self._newest(reader, rows):
            day = reader.day(row.get("date"))
            value = reader.number(row.get("value"))
            known = max(reader.day(row.get("realtime_start", found.get("realtime_start"))), day)
            name_of_cell = f"fred.{name}.{day}" + (f"@{vintage}" if "@" in reply.name else "")
            scaled = None if value is None else value * series.scale
            path = f"/observations/{number}/value*{series.scale}"
            reader.cell(name_of_cell, series.unit, scaled, path, day, known)

    def _newest(
        self, reader: Reader, rows: Sequence[Mapping[str, object]]
    ) -> list[tuple[int, Mapping[str, object]]]:
        """A row for each date, with its place in the reply: of several vintages the newest."""
        found: dict[date, tuple[date, int, Mapping[str, object]]] = {}
        for number, row in enumerate(rows):
            day = reader.day(row.get("date"))
            known = reader.day(row["realtime_start"]) if "realtime_start" in row else day
            if day not in found or known >= found[day][0]:
                found[day] = (known, number, row)
        return [(number, row) for _, number, row in found.values()]
