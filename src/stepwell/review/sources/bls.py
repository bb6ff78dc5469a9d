"""The Bureau of Labor Statistics: levels as they stand now, without vintages (those come from FRED).

A failed part of a request is ``REQUEST_SUCCEEDED`` with a message; ``M13`` is the annual average.
https://www.bls.gov/developers/api_signature_v2.htm
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date

from stepwell.review.facts import Facts, Unit
from stepwell.review.sources.base import Reader, Reply, Request
from stepwell.review.week import Week

SERIES = {
    "CES0000000001": ("payrolls", Unit.COUNT, 1000),
    "LNS14000000": ("unemployment", Unit.RATE, 1),
    "CUUR0000SA0": ("cpi", Unit.POINTS, 1),
}


@dataclass(frozen=True, slots=True)
class Bls:
    name: str = "bls"
    base_url: str = "https://api.bls.gov"
    secret: str = ""
    pause_s: float = 1.0

    def requests(self, week: Week) -> Sequence[Request]:
        years = {"startyear": str(week.friday.year - 1), "endyear": str(week.friday.year)}
        body = {"seriesid": list(SERIES), **years}
        return (Request(self.name, "bls-levels.json", "/publicAPI/v2/timeseries/data/", body=body),)

    def read(self, facts: Facts, reply: Reply) -> None:
        reader = Reader(facts, reply, "Bureau of Labor Statistics", "json")
        found = reader.json()
        if not isinstance(found, dict) or found.get("status") != "REQUEST_SUCCEEDED":
            raise reader.fail("the request did not succeed")
        if found.get("message"):
            raise reader.fail(f"a part was refused: {str(found['message'])[:120]}")
        listed = found.get("Results", {}).get("series", ())
        if not any(series.get("seriesID") in SERIES for series in listed):
            raise reader.fail("there is none of the series that were asked for")
        for place, series in enumerate(listed):
            known = SERIES.get(series.get("seriesID"))
            if known is None:
                continue
            name, unit, scale = known
            for number, row in enumerate(series.get("data", ())):
                month = str(row.get("period", ""))
                if not month.startswith("M") or month == "M13":
                    continue
                day = date(int(row["year"]), int(month[1:]), 1)
                value = reader.number(reader.field(row, "value"))
                path = f"/Results/series/{place}/data/{number}/value*{scale}"
                scaled = None if value is None else value * scale
                reader.cell(f"bls.{name}.{day}", unit, scaled, path, day, reply.fetched)
