"""Made weeks for ``stepwell bench review``: replies in the formats of their sources, from a seed.

Each week has one thing that goes wrong in real ones: a holiday, data that are missing, a split, a revision, a
contradiction, two sources that differ. The maker knows what does not fit, so that it can be asked for.
"""

from __future__ import annotations

import json
import random
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import date, timedelta
from decimal import Decimal

from stepwell.review.sources.base import Reply
from stepwell.review.sources.prices import INDEXES
from stepwell.review.week import Week

KINDS = ("plain", "holiday", "missing", "split", "revision", "contradiction", "sources")
FIRST_YEAR, YEARS = 2018, 9
CENT = Decimal("0.01")
TENORS = {"BC_3MONTH": 370, "BC_2YEAR": 355, "BC_5YEAR": 372, "BC_10YEAR": 415, "BC_30YEAR": 480}


@dataclass(slots=True)
class MadeWeek:
    """A week, the replies of its sources, and which contradictions it holds."""

    seed: int
    kind: str
    week: Week
    files: dict[str, bytes] = field(default_factory=dict)
    unfit: set[str] = field(default_factory=set)

    def replies(self) -> list[Reply]:
        return [
            Reply(name.partition("-")[0], name, data, self.week.friday, made=True)
            for name, data in sorted(self.files.items())
        ]


def made_week(seed: int) -> MadeWeek:
    """The week of a number: the same for ever."""
    chance = random.Random(seed)
    kind = KINDS[seed % len(KINDS)]
    made = MadeWeek(seed, kind, _week(chance, kind == "holiday"))
    _prices(made, chance)
    _rates(made, chance)
    _cash(made, chance)
    _labour(made, chance)
    _events(made, chance)
    if kind == "missing":
        for name in chance.sample(sorted(made.files), 3):
            made.files[name] = b"<!DOCTYPE html><html><body>Down for maintenance</body></html>"
            if name.startswith("documents"):
                made.unfit.clear()
    return made


def _week(chance: random.Random, holiday: bool) -> Week:
    while True:
        day = date(FIRST_YEAR + chance.randrange(YEARS), 1, 10) + timedelta(days=chance.randrange(340))
        week = Week.of(day)
        if week.sessions() and (len(week.sessions()) < 5) is holiday and len(week.bond_days()) > 1:
            return week


def _prices(made: MadeWeek, chance: random.Random) -> None:
    days = [made.week.base(), *made.week.sessions()]
    for index in INDEXES:
        level = Decimal(chance.randrange(100_000, 4_800_000)) / 100
        rows = []
        for day in days:
            level = (level * (1 + Decimal(chance.randrange(-280, 281)) / 10_000)).quantize(CENT)
            rows.append((day, level))
        if made.kind == "split" and index == "SOX":
            rows = [(day, (level / (1 if n < len(rows) // 2 else 10)).quantize(CENT)) for n, (day, level) in
                    enumerate(rows)]  # fmt: skip
            made.unfit.add("split")
        made.files[f"prices-{index}.csv"] = _csv("Date,Close", [f"{day},{level}" for day, level in rows])
        if made.kind == "sources" and index == "SPX":
            made.files["prices-SPX.second.csv"] = _csv("Date,Close", [f"{days[-1]},{rows[-1][1] + 1}"])
            made.unfit.add("sources")
    vix = [f"{day:%m/%d/%Y},0,0,0,{Decimal(chance.randrange(1100, 3900)) / 100}" for day in days]
    made.files["cboe-VIX.csv"] = _csv("DATE,OPEN,HIGH,LOW,CLOSE", vix)


def _rates(made: MadeWeek, chance: random.Random) -> None:
    entries = []
    before = Week.of(made.week.monday - timedelta(days=3)).bond_days()[-1]
    for day in [before, *made.week.bond_days()]:
        tags = "".join(
            f"<d:{tag}>{Decimal(level + chance.randrange(-20, 21)) / 100}</d:{tag}>"
            for tag, level in TENORS.items()
        )
        entries.append(
            f"<entry><m:properties><d:NEW_DATE>{day}T00:00:00</d:NEW_DATE>{tags}</m:properties></entry>"
        )
    text = '<feed xmlns:d="urn:d" xmlns:m="urn:m">\n' + "\n".join(entries) + "\n</feed>\n"
    made.files["treasury-curve-000000.xml"] = text.encode()
    low, cut = Decimal(chance.randrange(0, 20)) / 4, Decimal(chance.choice((-50, -25, 0, 0, 25, 75))) / 100
    days = [made.week.base(), *made.week.sessions()]
    for name, width in (("DFEDTARL", Decimal(0)), ("DFEDTARU", Decimal("0.25"))):
        rows = [(day, low + width + (cut if n > 2 else 0)) for n, day in enumerate(days)]
        made.files[f"fred-{name}.json"] = _fred(made.week.friday, [(day, day, f"{v:.2f}") for day, v in rows])


def _cash(made: MadeWeek, chance: random.Random) -> None:
    rows, balance = [], chance.randrange(300_000, 950_000)
    for number, day in enumerate([made.week.base(), *made.week.sessions()]):
        opening = balance
        if made.kind == "contradiction" and number == 1:
            opening += 1
            made.unfit.add("sum")
        balance = opening + chance.randrange(-40_000, 40_000)
        for side, amount in (("Opening", opening), ("Closing", balance)):
            account = f"Treasury General Account (TGA) {side} Balance"
            row = {"record_date": f"{day}", "account_type": account, "open_today_bal": f"{amount}"}
            rows.append(row | {"close_today_bal": "null"})
    meta = {"dataFormats": {"open_today_bal": "$1,000,000"}, "total-pages": 1, "total-count": len(rows)}
    made.files["fiscaldata-tga.json"] = _json({"data": rows, "meta": meta})
    holdings = []
    for day in (made.week.monday - timedelta(days=5), made.week.monday + timedelta(days=2)):
        bills = chance.randrange(180_000, 420_000) * 10**6
        holdings.append({"asOfDate": f"{day}", "bills": f"{bills}", "total": f"{bills}"})
    made.files["nyfed-soma.json"] = _json({"soma": {"summary": holdings}})


def _labour(made: MadeWeek, chance: random.Random) -> None:
    first = (made.week.monday - timedelta(days=40)).replace(day=1)
    months = [(first - timedelta(days=3)).replace(day=1), first]
    known = made.week.monday - timedelta(days=3)
    levels = [chance.randrange(140_000, 160_000)]
    levels.append(levels[0] + chance.randrange(-300, 400))
    revised = chance.choice((-61, 48)) if made.kind == "revision" else 0
    end = made.week.friday
    rows = [(known, month, f"{level}") for month, level in zip(months, levels, strict=True)]
    newest = [*rows[:1], (known, months[1], f"{levels[1] + revised}")]
    made.files["fred-PAYEMS.json"] = _fred(end, newest)
    made.files[f"fred-PAYEMS@{known}.json"] = _fred(known, rows)
    made.files[f"fred-PAYEMS@{end}.json"] = _fred(end, newest)
    rate = Decimal(chance.randrange(33, 75)) / 10
    made.files["fred-UNRATE.json"] = _fred(end, [(known, months[1], f"{rate}")])


def _events(made: MadeWeek, chance: random.Random) -> None:
    friday, month = made.week.friday, chance.randrange(5, 90)
    wrong = made.kind == "contradiction"
    start = made.week.monday + timedelta(days=chance.randrange(20, 60))
    shown = friday + timedelta(days=1)
    claimed = chance.choice((-60_000, 35_000)) if wrong else None
    rows = [
        ("evt.fed.bills.month", "usd", f"{month}000000000", ""),
        ("evt.fed.bills.year", "usd", f"{month * 12 + (7 if wrong else 0)}000000000", ""),
        ("evt.fed.bills.start", "date", f"{start}", ""),
        ("evt.fermi.prepayment", "usd", f"{chance.randrange(20, 900)}000000", ""),
        ("evt.oracle.capex", "usd", f"{chance.randrange(-9, 22) or 5}000000000", ""),
        ("evt.oracle.contract", "usd", f"{chance.randrange(40, 500)}000000000", ""),
        ("evt.oracle.sites.before", "year", f"{friday.year + 2}", ""),
        ("evt.oracle.sites.after", "year", f"{friday.year + 2 + chance.choice((-1, 1, 2))}", ""),
        ("evt.oracle.low", "usd", f"{chance.randrange(20, 95)}000000000", "analysts"),
        ("evt.text.day", "date", f"{shown}", "the text of that week"),
        ("evt.text.weekday", "name", "Sunday" if wrong else "Saturday", "the text of that week"),
    ]
    made.unfit |= {"weekday", "product", "claim"} if wrong else {"product_agrees"}
    if claimed is not None:
        rows.append(("evt.jobs.revision", "count", f"{claimed}", "the text of that week"))
    head = "| id | unit | value | observed | known since | speaker |\n|---|---|---|---|---|---|\n"
    lines = (f"| {i} | {unit} | {value} | {friday} | {friday} | {who} |\n" for i, unit, value, who in rows)
    made.files["documents-events.md"] = (head + "".join(lines)).encode()


def _fred(vintage: date, rows: list[tuple[date, date, str]]) -> bytes:
    """Rows are (known since, date, value)."""
    listed = [
        {"realtime_start": f"{known}", "realtime_end": f"{vintage}", "date": f"{day}", "value": value}
        for known, day, value in rows
    ]
    return _json(
        {
            "realtime_start": f"{vintage}",
            "realtime_end": f"{vintage}",
            "units": "lin",
            "count": len(listed),
            "observations": listed,
        }
    )


def _json(value: Mapping[str, object]) -> bytes:
    return json.dumps(value).encode()


def _csv(head: str, lines: list[str]) -> bytes:
    return (head + "\n" + "\n".join(lines) + "\n").encode()
