"""Make the sample week of ``stepwell review``, which ends on 2025-12-12.

Levels are made up so that five weekly changes come out as a public text of that week gives them; replies have
the real formats of their sources. Events and claims of the week stand in a table, each row as that text has
it. Run again, it writes the same bytes: ``python scripts/make_sample_week.py``.
"""

from __future__ import annotations

import json
from datetime import date, timedelta
from decimal import Decimal
from pathlib import Path

HERE = Path(__file__).resolve().parent.parent / "src" / "stepwell" / "review" / "sample_week"
SESSIONS = [date(2025, 12, 5), *(date(2025, 12, 8) + timedelta(days=n) for n in range(5))]
FRIDAY = SESSIONS[-1]
CHANGES = {"IXIC": "-1.62", "SPX": "-0.63", "DJI": "1.05", "RUT": "1.19", "SOX": "-3.58"}
BASES = {"IXIC": 23500, "SPX": 6850, "DJI": 47900, "RUT": 2520, "SOX": 7300}
PATH = (0, 12, -9, 25, 21, 100)
"""How much of the week's change there is after each session, in percent of it."""
CURVE = {
    "BC_3MONTH": (371, 362),
    "BC_2YEAR": (356, 352),
    "BC_5YEAR": (372, 375),
    "BC_10YEAR": (414, 419),
    "BC_30YEAR": (479, 485),
}
VIX = ("15.41", "16.66", "16.93", "15.77", "14.85", "15.74")


def closes(index: str) -> list[Decimal]:
    base, change = Decimal(BASES[index]), Decimal(CHANGES[index])
    return [(base * (1 + change * part / 10_000)).quantize(Decimal("0.01")) for part in PATH]


def prices() -> dict[str, str]:
    files = {
        f"prices-{index}.csv": "Date,Close\n"
        + "".join(f"{day},{level}\n" for day, level in zip(SESSIONS, closes(index), strict=True))
        for index in CHANGES
    }
    rows = "".join(f"{day:%m/%d/%Y},0,0,0,{level}\n" for day, level in zip(SESSIONS, VIX, strict=True))
    files["parts-SPX.csv"] = parts()
    return files | {"cboe-VIX.csv": "DATE,OPEN,HIGH,LOW,CLOSE\n" + rows}


SECTORS = (
    ("information technology", "信息技术", "34.6", "-2.31"),
    ("financials", "金融", "13.1", "2.28"),
    ("communication services", "通信服务", "10.6", "-3.22"),
    ("consumer discretionary", "可选消费", "10.4", "0.37"),
    ("health care", "医疗保健", "9.8", "-0.13"),
    ("industrials", "工业", "8.2", "1.42"),
)


def parts() -> str:
    """Weights and levels of six sectors, made up; the other five are what is left unexplained."""
    rows = "".join(
        f"{name},{chinese},{weight},{SESSIONS[0]},{FRIDAY},1000.00,{1000 + 10 * Decimal(change):.2f}\n"
        for name, chinese, weight, change in SECTORS
    )
    return "Name,NameZh,Weight,From,To,Base,Last\n" + rows


def curve() -> str:
    entries = []
    for number, day in enumerate(SESSIONS):
        tags = "".join(
            f'<d:{tag} m:type="Edm.Double">{Decimal(first + (last - first) * number // 5) / 100}</d:{tag}>'
            for tag, (first, last) in CURVE.items()
        )
        entries.append(
            '<entry><content type="application/xml"><m:properties>'
            f'<d:NEW_DATE m:type="Edm.DateTime">{day}T00:00:00</d:NEW_DATE>{tags}'
            "</m:properties></content></entry>"
        )
    head = (
        '<feed xmlns="http://www.w3.org/2005/Atom" '
        'xmlns:d="http://schemas.microsoft.com/ado/2007/08/dataservices" '
        'xmlns:m="http://schemas.microsoft.com/ado/2007/08/dataservices/metadata">'
    )
    return "\n".join([head, *entries, "</feed>", ""])


def fred(vintage: date, rows: list[tuple[str, str, str]]) -> str:
    """Rows are (known since, date, value)."""
    return dumps(
        {
            "realtime_start": f"{vintage}",
            "realtime_end": f"{vintage}",
            "units": "lin",
            "observations": [
                {"realtime_start": known, "realtime_end": f"{vintage}", "date": day, "value": value}
                for known, day, value in rows
            ],
        }
    )


def rates() -> dict[str, str]:
    target = {"DFEDTARL": ("3.75", "3.50"), "DFEDTARU": ("4.00", "3.75")}
    files = {}
    for name, (before, after) in target.items():
        rows = [(f"{day}", f"{day}", after if day >= date(2025, 12, 11) else before) for day in SESSIONS]
        files[f"fred-{name}.json"] = fred(FRIDAY, rows)
    sofr = zip(SESSIONS, ("3.93", "3.95", "3.94", "3.92", "3.67", "."), strict=True)
    files["fred-SOFR.json"] = fred(FRIDAY, [(f"{day}", f"{day}", value) for day, value in sofr])
    jobs = [("2025-11-20", "2025-08-01", "159507"), ("2025-11-20", "2025-09-01", "159626")]
    files["fred-PAYEMS.json"] = fred(FRIDAY, jobs)
    files["fred-PAYEMS@first.json"] = fred(FRIDAY, [("2025-09-05", "2025-08-01", "159540"), *jobs])
    files["fred-UNRATE.json"] = fred(
        FRIDAY,
        [
            ("2025-11-20", "2025-08-01", "4.3"),
            ("2025-11-20", "2025-09-01", "4.4"),
            ("2025-11-20", "2025-10-01", "."),
        ],
    )
    return files


RELEASES = {
    "payrolls": (50, "2025-12-16"),
    "retail": (9, "2025-12-16"),
    "cpi": (10, "2025-12-18"),
    "claims": (180, "2025-12-18"),
}


def calendar() -> dict[str, str]:
    return {
        f"fred-release-{name}.json": dumps(
            {
                "realtime_start": f"{FRIDAY}",
                "realtime_end": "9999-12-31",
                "count": 1,
                "release_dates": [{"release_id": number, "date": day}],
            }
        )
        for name, (number, day) in RELEASES.items()
    }


def money() -> dict[str, str]:
    """Rates come out a day later, so there is none of Friday."""
    rates = {
        "sofr": ("3.93", "3.95", "3.94", "3.92", "3.67"),
        "effr": ("3.89", "3.89", "3.89", "3.89", "3.64"),
    }
    files = {}
    for name, values in rates.items():
        rows = [
            {
                "effectiveDate": f"{day}",
                "type": name.upper(),
                "percentRate": float(value),
                "volumeInBillions": 3_000 if name == "sofr" else 80,
                "revisionIndicator": "",
            }
            for day, value in zip(SESSIONS, values, strict=False)
        ]
        files[f"nyfed-{name}.json"] = dumps({"refRates": rows[::-1]})
    taken = zip(SESSIONS, (1_498, 2_101, 1_740, 3_310, 2_877, 2_503), strict=True)
    operations = [operation(day, "Reverse Repo", millions * 10**6) for day, millions in taken]
    operations += [operation(FRIDAY, "Repo", millions * 10**6) for millions in (1_100, 350)]
    files["nyfed-repo.json"] = dumps({"repo": {"operations": operations[::-1]}})
    return files


def operation(day: date, kind: str, dollars: int) -> dict[str, object]:
    return {
        "operationDate": f"{day}",
        "auctionStatus": "Results",
        "operationType": kind,
        "term": "Overnight",
        "totalAmtAccepted": dollars,
    }


BLS = {
    "CES0000000001": [("2025", "M09", "159626"), ("2025", "M08", "159507")],
    "LNS14000000": [("2025", "M10", "-"), ("2025", "M09", "4.4"), ("2025", "M08", "4.3")],
    "CUUR0000SA0": [("2025", "M10", "-"), ("2025", "M09", "324.800"), ("2024", "M09", "315.301")],
}


def statistics() -> str:
    series = [
        {
            "seriesID": name,
            "data": [
                {"year": year, "period": period, "value": value, "footnotes": [{}]}
                for year, period, value in rows
            ],
        }
        for name, rows in BLS.items()
    ]
    return dumps({"status": "REQUEST_SUCCEEDED", "message": [], "Results": {"series": series}})


FILINGS = {
    "0001341439": ("ORACLE CORP", [("2025-12-11", "10-Q", ""), ("2025-12-10", "8-K", "2.02,9.01")]),
    "0001730168": ("Broadcom Inc.", [("2025-12-11", "8-K", "2.02,9.01"), ("2025-11-06", "4", "")]),
}


def filings() -> dict[str, str]:
    """Numbers of accession that are not taken."""
    files = {}
    for cik, (name, rows) in FILINGS.items():
        recent = {
            "accessionNumber": [f"{cik}-25-00000{number}" for number in range(len(rows))],
            "filingDate": [day for day, _, _ in rows],
            "form": [form for _, form, _ in rows],
            "items": [items for _, _, items in rows],
        }
        found = {"cik": cik.lstrip("0"), "name": name, "filings": {"recent": recent, "files": []}}
        files[f"edgar-{cik}.json"] = dumps(found)
    return files


def treasury_cash() -> str:
    rows = []
    balances = [912_300, 884_150, 871_940, 866_020, 859_710, 848_660]
    for number, day in enumerate(SESSIONS):
        opening = balances[number - 1] if number else 905_480
        for kind, amount in (("Opening", opening), ("Closing", balances[number])):
            rows.append(
                {
                    "record_date": f"{day}",
                    "account_type": f"Treasury General Account (TGA) {kind} Balance",
                    "open_today_bal": f"{amount}",
                    "close_today_bal": "null",
                }
            )
    meta = {"count": len(rows), "dataFormats": {"open_today_bal": "$1,000,000"}, "total-pages": 1}
    return dumps({"data": rows, "meta": meta})


def purchases() -> str:
    operation = {
        "auctionStatus": "Results",
        "operationDate": f"{FRIDAY}",
        "operationType": "Outright Bill Purchase",
        "operationDirection": "P",
        "totalParAmtAccepted": "8167000000",
    }
    return dumps({"treasury": {"auctions": [operation]}})


def holdings() -> str:
    def row(day: str, bills: int) -> dict[str, str]:
        parts = {
            "bills": bills,
            "notesbonds": 3_612_400_000_000,
            "frn": 6_300_000_000,
            "tips": 280_100_000_000,
        }
        parts |= {"tipsInflationCompensation": 107_600_000_000, "agencies": 2_347_000_000}
        parts |= {"mbs": 2_052_900_000_000, "cmbs": 7_800_000_000}
        return (
            {"asOfDate": day}
            | {name: f"{part}" for name, part in parts.items()}
            | {"total": f"{sum(parts.values())}"}
        )

    return dumps(
        {"soma": {"summary": [row("2025-12-03", 195_500_000_000), row("2025-12-10", 197_900_000_000)]}}
    )


def dumps(value: object) -> str:
    return json.dumps(value, indent=1) + "\n"


EVENTS = """\
# Events and claims of the week that ended on Friday, 12 December 2025

As a text of that week has them; a row with a speaker is what somebody said and not what was published. Levels
of indexes and replies of sources beside this file are made up.

| id | unit | value | observed | known since | speaker |
|---|---|---|---|---|---|
| evt.oracle.sites.before | year | 2027 | 2025-12-12 | 2025-12-12 | |
| evt.oracle.sites.after | year | 2028 | 2025-12-12 | 2025-12-12 | |
| evt.oracle.capex | usd | 15000000000 | 2025-12-10 | 2025-12-10 | |
| evt.oracle.contract | usd | 300000000000 | 2025-12-12 | 2025-12-12 | |
| evt.oracle.fcf.since | year | 1992 | 2025-12-10 | 2025-12-10 | |
| evt.oracle.low | usd | 70000000000 | 2025-12-12 | 2025-12-12 | analysts |
| evt.oracle.high | points | 345 | 2025-09-10 | 2025-12-12 | |
| evt.oracle.close | points | 230 | 2025-12-12 | 2025-12-12 | |
| evt.broadcom.margin | basis_points | -100 | 2025-12-11 | 2025-12-11 | Broadcom |
| evt.fermi.prepayment | usd | 150000000 | 2025-12-12 | 2025-12-12 | |
| evt.fed.tone | name | hawkish | 2025-12-10 | 2025-12-12 | the text of that week |
| evt.fed.bills.month | usd | 40000000000 | 2025-12-10 | 2025-12-10 | |
| evt.fed.bills.year | usd | 480000000000 | 2025-12-10 | 2025-12-10 | |
| evt.fed.bills.start | date | 2026-01-01 | 2025-12-10 | 2025-12-10 | |
| evt.fed.chair | date | 2026-05-15 | 2025-12-10 | 2025-12-10 | |
| evt.fed.path.low | percent | 3.00 | 2025-12-12 | 2025-12-12 | strategists |
| evt.fed.path.high | percent | 3.25 | 2025-12-12 | 2025-12-12 | strategists |
| evt.fed.market | percent | 3.10 | 2025-12-12 | 2025-12-12 | market pricing |
| evt.claims.actual | count | 236000 | 2025-12-06 | 2025-12-11 | |
| evt.claims.consensus | count | 220000 | 2025-12-06 | 2025-12-10 | economists in a survey |
| evt.jobs.revision | count | -60000 | 2025-12-12 | 2025-12-12 | the text of that week |
| evt.text.day | date | 2025-12-13 | 2025-12-13 | 2025-12-13 | the text of that week |
| evt.text.weekday | name | Sunday | 2025-12-13 | 2025-12-13 | the text of that week |
"""


def main() -> None:
    files = (
        prices()
        | rates()
        | money()
        | calendar()
        | filings()
        | {
            "treasury-curve-202512.xml": curve(),
            "fiscaldata-tga.json": treasury_cash(),
            "nyfed-purchases.json": purchases(),
            "nyfed-soma.json": holdings(),
            "bls-levels.json": statistics(),
            "documents-events.md": EVENTS,
        }
    )
    HERE.mkdir(parents=True, exist_ok=True)
    for path in HERE.iterdir():
        if path.name not in files and not path.name.startswith("_"):
            path.unlink()
    for name, text in files.items():
        (HERE / name).write_text(text, encoding="utf-8")
    print(f"{len(files)} files in {HERE.name}/")


if __name__ == "__main__":
    main()
