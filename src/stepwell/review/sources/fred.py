"""FRED and ALFRED of the Federal Reserve Bank of St. Louis, always with a vintage.

Without ``realtime_start`` and ``realtime_end`` FRED answers with today's revised figures, and a misspelt
parameter is accepted and ignored; so both are sent and the reply must echo them. Closing levels of indexes
are the exception: they are known at the close and never revised, and FRED's vintage only says when it copied
them. The S&P 500, Dow and Nasdaq levels there belong to their owners: a person may use them for himself, and
not publish them again.
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
    index: str = ""
    """Of a closing level: the index."""


SERIES = {
    "SP500": Series(Unit.POINTS, index="SPX"),
    "DJIA": Series(Unit.POINTS, index="DJI"),
    "NASDAQCOM": Series(Unit.POINTS, index="IXIC"),
    "DFEDTARL": Series(Unit.PERCENT),
    "DFEDTARU": Series(Unit.PERCENT),
    "SOFR": Series(Unit.PERCENT),
    "DFII10": Series(Unit.PERCENT),
    "PAYEMS": Series(Unit.COUNT, 1000, MONTHLY_DAYS),
    "UNRATE": Series(Unit.RATE, 1, MONTHLY_DAYS),
}
FIRST = "@first"
"""Of a reply that has every vintage since the first print of each month in it."""
FIRST_DAYS = 170
OPEN_END = "9999-12-31"
RELEASES = {"payrolls": 50, "cpi": 10, "claims": 180, "retail": 9, "gdp": 53, "pce": 54}
"""Releases whose days are asked for, by FRED's numbers."""


@dataclass(frozen=True, slots=True)
class Fred:
    name: str = "fred"
    base_url: str = "https://api.stlouisfed.org"
    secret: str = "FRED_API_KEY"
    pause_s: float = 0.6

    def requests(self, week: Week) -> Sequence[Request]:
        return [
            *(self._request(name, series, week.friday) for name, series in SERIES.items()),
            self._first_prints("PAYEMS", week.friday),
            *(self._calendar(name, number, week) for name, number in RELEASES.items()),
        ]

    def _request(self, name: str, series: Series, until: date) -> Request:
        query = {
            "series_id": name,
            "file_type": "json",
            "observation_start": (until - timedelta(days=series.days)).isoformat(),
            "observation_end": until.isoformat(),
            "realtime_start": until.isoformat(),
            "realtime_end": OPEN_END if series.index else until.isoformat(),
        }
        return Request(self.name, f"fred-{name}.json", "/fred/series/observations", query)

    def _first_prints(self, name: str, until: date) -> Request:
        """Every vintage of the last months. Of no month in it the first print lies before it, because the
        month itself does not."""
        since = (until - timedelta(days=FIRST_DAYS)).isoformat()
        query = {"series_id": name, "file_type": "json"}
        query |= {"observation_start": since, "observation_end": until.isoformat()}
        query |= {"realtime_start": since, "realtime_end": until.isoformat()}
        return Request(self.name, f"fred-{name}{FIRST}.json", "/fred/series/observations", query)

    def _calendar(self, name: str, number: int, week: Week) -> Request:
        query = {
            "release_id": str(number),
            "file_type": "json",
            "realtime_start": week.friday.isoformat(),
            "realtime_end": OPEN_END,
            "include_release_dates_with_no_data": "true",
            "sort_order": "asc",
        }
        return Request(self.name, f"fred-release-{name}.json", "/fred/release/dates", query)

    def read(self, facts: Facts, reply: Reply) -> None:
        if reply.name.startswith("fred-release-"):
            self._dates(Reader(facts, reply, "FRED, calendar of releases", "json"))
            return
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
        every = FIRST in reply.name
        for number, row in enumerate(rows) if every else self._newest(reader, rows):
            day = reader.day(row.get("date"))
            value = reader.number(reader.field(row, "value"))
            known = max(reader.day(row.get("realtime_start", found.get("realtime_start"))), day)
            name_of_cell = f"idx.{series.index}.close.{day}" if series.index else f"fred.{name}.{day}"
            if every or "@" in reply.name:
                name_of_cell += f"@{known if every else vintage}"
            scaled = None if value is None else value * series.scale
            path = f"/observations/{number}/value*{series.scale}"
            reader.cell(name_of_cell, series.unit, scaled, path, day, day if series.index else known)

    def _dates(self, reader: Reader) -> None:
        """Days on which a release comes out, as they were planned when the site was asked."""
        name = reader.reply.name.removeprefix("fred-release-").partition(".")[0]
        if name not in RELEASES:
            raise reader.fail(f"{name} is no release of a review")
        found = reader.json()
        rows = found.get("release_dates") if isinstance(found, dict) else None
        if not isinstance(rows, list):
            raise reader.fail("there are no dates of releases")
        if int(found.get("count", len(rows))) > len(rows):
            raise reader.fail(f"{len(rows)} of {found.get('count')} dates: there are further pages")
        for number, row in enumerate(rows):
            if int(row.get("release_id", RELEASES[name])) != RELEASES[name]:
                raise reader.fail(f"row {number} is of release {row['release_id']}, not {RELEASES[name]}")
            day = reader.day(row.get("date"))
            path = f"/release_dates/{number}/date"
            reader.cell(f"cal.{name}.{day}", Unit.DATE, day, path, day, reader.reply.fetched)

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
