"""The markets desk of the Federal Reserve Bank of New York: purchases of Treasury bills, and what it holds.

Amounts are dollars as text. An outright purchase of bills is what reserve management buys.
https://markets.newyorkfed.org/static/docs/markets-api.html
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from decimal import Decimal

from stepwell.review.facts import Facts, Unit
from stepwell.review.sources.base import Reader, Reply, Request
from stepwell.review.week import Week

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
        return (
            Request(
                self.name, "nyfed-purchases.json", "/api/tsy/purchases/results/summary/search.json", days
            ),
            Request(self.name, "nyfed-soma.json", "/api/soma/summary.json"),
        )

    def read(self, facts: Facts, reply: Reply) -> None:
        if "soma" in reply.name:
            self._holdings(Reader(facts, reply, "New York Fed, SOMA", "json"))
        else:
            self._purchases(Reader(facts, reply, "New York Fed, Treasury operations", "json"))

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
            amount = reader.number(row.get("totalParAmtAccepted"))
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
