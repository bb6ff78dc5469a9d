"""The markets desk of the Federal Reserve Bank of New York: rates, repo, purchases of bills, holdings.

Amounts are dollars, as text or as numbers. An outright purchase of bills is what reserve management buys. The
rate of a day is published on the next working day, so Friday's is not known by the end of its week.
https://markets.newyorkfed.org/static/docs/markets-api.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date, timedelta
from decimal import Decimal

from stepwell.review.facts import Facts, Unit
from stepwell.review.sources.base import Reader, Reply, Request
from stepwell.review.week import Week

RATES = {"sofr": ("SOFR", "secured"), "effr": ("EFFR", "unsecured")}
OPERATIONS = {"Repo": "repo", "Reverse Repo": "rrp"}
BILLS = "Outright Bill Purchase"
PARTS = ("bills", "notesbonds", "frn", "tips", "tipsInflationCompensation", "agencies", "mbs", "cmbs")


@dataclass(frozen=True, slots=True)
class NewYorkFed:
    name: str = "nyfed"
    base_url: str = "https://markets.newyorkfed.org"
    secret: str = ""
    pause_s: float = 1.1

    def requests(self, week: Week) -> Sequence[Request]:
        days = {"startDate": week.base().isoformat(), "endDate": week.friday.isoformat()}
        paths = {
            "purchases": "/api/tsy/purchases/results/summary/search.json",
            **{name: f"/api/rates/{kind}/{name}/search.json" for name, (_, kind) in RATES.items()},
            "repo": "/api/rp/all/all/results/search.json",
        }
        return (
            *(Request(self.name, f"nyfed-{name}.json", path, days) for name, path in paths.items()),
            Request(self.name, "nyfed-soma.json", "/api/soma/summary.json"),
        )

    def read(self, facts: Facts, reply: Reply) -> None:
        what = reply.name.removeprefix("nyfed-").partition(".")[0]
        if what in RATES:
            self._rates(what, Reader(facts, reply, f"New York Fed, {RATES[what][0]}", "json"))
        elif what == "repo":
            self._operations(Reader(facts, reply, "New York Fed, repo operations", "json"))
        elif what == "soma":
            self._holdings(Reader(facts, reply, "New York Fed, SOMA", "json"))
        else:
            self._purchases(Reader(facts, reply, "New York Fed, Treasury operations", "json"))

    def _rates(self, name: str, reader: Reader) -> None:
        found = reader.json()
        rows = found.get("refRates") if isinstance(found, dict) else None
        if not isinstance(rows, list):
            raise reader.fail("there are no rates")
        for number, row in enumerate(rows):
            if row.get("type") != RATES[name][0]:
                raise reader.fail(f"row {number} is of {row.get('type')}, not of {RATES[name][0]}")
            day = reader.day(row.get("effectiveDate"))
            rate = reader.number(reader.field(row, "percentRate"))
            path = f"/refRates/{number}/percentRate"
            reader.cell(f"nyfed.{name}.{day}", Unit.PERCENT, rate, path, day, _next_weekday(day))

    def _operations(self, reader: Reader) -> None:
        """Of a day there is one reverse repo, and there may be several repos: they are counted."""
        found = reader.json()
        try:
            operations = found["repo"]["operations"]
        except (KeyError, TypeError) as error:
            raise reader.fail("there are no operations") from error
        counted: dict[str, int] = {}
        for number, row in enumerate(operations):
            kind = OPERATIONS.get(row.get("operationType"))
            if kind is None or row.get("auctionStatus") != "Results":
                continue
            day = reader.day(row.get("operationDate"))
            of_day = f"nyfed.{kind}.{day}"
            counted[of_day] = counted.get(of_day, 0) + 1
            amount = reader.number(reader.field(row, "totalAmtAccepted"))
            path = f"/repo/operations/{number}/totalAmtAccepted"
            reader.cell(f"{of_day}.{counted[of_day]}", Unit.USD, amount, path, day)

    def _purchases(self, reader: Reader) -> None:
        found = reader.json()
        try:
            operations = found["treasury"]["auctions"]
        except (KeyError, TypeError) as error:
            raise reader.fail("there are no operations") from error
        for number, row in enumerate(operations):
            if row.get("operationType") != BILLS or row.get("auctionStatus") != "Results":
                continue
            day = reader.day(row.get("operationDate"))
            path = f"/treasury/auctions/{number}/totalParAmtAccepted"
            amount = reader.number(reader.field(row, "totalParAmtAccepted"))
            reader.cell(f"nyfed.bills.{day}", Unit.USD, amount, path, day)

    def _holdings(self, reader: Reader) -> None:
        found = reader.json()
        try:
            rows = found["soma"]["summary"]
        except (KeyError, TypeError) as error:
            raise reader.fail("there is no summary") from error
        for number, row in enumerate(rows):
            day = reader.day(row.get("asOfDate"))
            parts = [reader.number(row.get(part)) or Decimal(0) for part in PARTS]
            total = reader.number(row.get("total"))
            if total is None or sum(parts) != total:
                raise reader.fail(f"the parts of {day} do not add up to the total")
            reader.cell(f"nyfed.soma.total.{day}", Unit.USD, total, f"/soma/summary/{number}/total", day)
            reader.cell(f"nyfed.soma.bills.{day}", Unit.USD, parts[0], f"/soma/summary/{number}/bills", day)


def _next_weekday(day: date) -> date:
    return day + timedelta(days=3 if day.weekday() == 4 else 1)
