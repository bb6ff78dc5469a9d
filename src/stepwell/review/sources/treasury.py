"""The Treasury's par yield curve and the cash in its account at the Federal Reserve.

The curve comes as an Atom feed, and its columns grow (the six-week yield was added in 2025): they are read
by name. Of the daily statement the *closing* balance stands in ``open_today_bal``, and ``close_today_bal``
is the text ``null``; the closing balance of a day must be the opening one of the next.
https://home.treasury.gov/treasury-daily-interest-rate-xml-feed,
https://fiscaldata.treasury.gov/api-documentation/
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timedelta
from xml.etree import ElementTree

from stepwell.review.facts import Facts, Unit
from stepwell.review.sources.base import Reader, Reply, Request
from stepwell.review.week import Week

TENORS = {"BC_3MONTH": "3M", "BC_2YEAR": "2Y", "BC_5YEAR": "5Y", "BC_10YEAR": "10Y", "BC_30YEAR": "30Y"}
DAY = "NEW_DATE"
MILLIONS = "$1,000,000"
CLOSING = "Treasury General Account (TGA) Closing Balance"
OPENING = "Treasury General Account (TGA) Opening Balance"


@dataclass(frozen=True, slots=True)
class Curve:
    name: str = "treasury"
    base_url: str = "https://home.treasury.gov"
    secret: str = ""
    pause_s: float = 1.0

    def requests(self, week: Week) -> Sequence[Request]:
        months = dict.fromkeys(day.strftime("%Y%m") for day in (week.base(), week.friday))
        path = "/resource-center/data-chart-center/interest-rates/pages/xml"
        return [
            Request(
                self.name,
                f"treasury-curve-{month}.xml",
                path,
                {"data": "daily_treasury_yield_curve", "field_tdr_date_value_month": month},
            )
            for month in months
        ]

    def read(self, facts: Facts, reply: Reply) -> None:
        reader = Reader(facts, reply, "US Treasury, par yield curve", "xml")
        entries = list(self._entries(reader))
        if not entries:
            raise reader.fail("there is no entry")
        for number, entry in enumerate(entries):
            if DAY not in entry:
                raise reader.fail(f"entry {number} has no {DAY}")
            day = reader.day(entry[DAY])
            if lacking := [tag for tag in TENORS if tag not in entry]:
                raise reader.fail(f"the entry of {day} has no {', '.join(lacking)}")
            for tag, tenor in TENORS.items():
                reader.cell(
                    f"curve.{tenor}.{day}", Unit.PERCENT, reader.number(entry[tag]), f"{number}/{tag}", day
                )

    def _entries(self, reader: Reader) -> Iterator[dict[str, str]]:
        text = reader.text()
        if "<!DOCTYPE" in text or "<!ENTITY" in text:
            raise reader.fail("a document type where the feed has none")  # entities could grow without end
        try:
            root = ElementTree.fromstring(text)
        except ElementTree.ParseError as error:
            raise reader.fail(f"no XML, or cut short ({error})") from error
        for properties in root.iter():
            if _tag(properties) == "properties":
                yield {_tag(child): (child.text or "") for child in properties}


def _tag(element: ElementTree.Element) -> str:
    return str(element.tag).rpartition("}")[2]


@dataclass(frozen=True, slots=True)
class TreasuryCash:
    name: str = "fiscaldata"
    base_url: str = "https://api.fiscaldata.treasury.gov"
    secret: str = ""
    pause_s: float = 0.5

    def requests(self, week: Week) -> Sequence[Request]:
        since = week.monday - timedelta(days=10)
        days = f"record_date:gte:{since},record_date:lte:{week.friday}"
        query = {
            "filter": f"{days},account_type:in:({CLOSING},{OPENING})",
            "sort": "record_date",
            "page[size]": "1000",
        }
        path = "/services/api/fiscal_service/v1/accounting/dts/operating_cash_balance"
        return (Request(self.name, "fiscaldata-tga.json", path, query),)

    def read(self, facts: Facts, reply: Reply) -> None:
        reader = Reader(facts, reply, "US Treasury, daily statement", "json")
        found = reader.json()
        if not isinstance(found, dict) or not isinstance(found.get("data"), list):
            raise reader.fail("there is no data")
        if found.get("meta", {}).get("dataFormats", {}).get("open_today_bal") != MILLIONS:
            raise reader.fail(f"amounts are not said to be in {MILLIONS}")
        meta = found["meta"]
        if int(meta.get("total-pages", 1)) > 1 or int(meta.get("total-count", 0)) > len(found["data"]):
            raise reader.fail("there are further pages")  # a total of page one is no total
        for number, row in enumerate(found["data"]):
            which = {CLOSING: "close", OPENING: "open"}.get(str(row.get("account_type")))
            if which is None:
                continue
            day = reader.day(row.get("record_date"))
            value = reader.number(reader.field(row, "open_today_bal"))
            path = f"/data/{number}/open_today_bal*1000000"
            reader.cell(
                f"tga.{which}.{day}", Unit.USD, None if value is None else value * 1_000_000, path, day
            )
