"""Filings of companies with the Securities and Exchange Commission.

``acceptanceDateTime`` ends in Z and is New York time for some filers: only the day is used, so nothing is
said of before or after the close. The lists are columnar.
https://www.sec.gov/search-filings/edgar-application-programming-interfaces
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.review.facts import Facts, Unit
from stepwell.review.sources.base import Reader, Reply, Request
from stepwell.review.week import Week

COMPANIES = {"0001341439": "Oracle", "0001730168": "Broadcom"}
COLUMNS = ("accessionNumber", "filingDate", "form", "items")
FORMS = ("8-K", "10-Q", "10-K")
"""That a review speaks of: what happened, a quarter, a year."""


@dataclass(frozen=True, slots=True)
class Edgar:
    name: str = "edgar"
    base_url: str = "https://data.sec.gov"
    secret: str = "SEC_USER_AGENT"
    """A name and an address to write to, which the site asks for; no key."""
    pause_s: float = 0.2

    def requests(self, week: Week) -> Sequence[Request]:
        return [Request(self.name, f"edgar-{cik}.json", f"/submissions/CIK{cik}.json") for cik in COMPANIES]

    def read(self, facts: Facts, reply: Reply) -> None:
        reader = Reader(facts, reply, "SEC EDGAR", "json")
        found = reader.json()
        try:
            recent = found["filings"]["recent"]
            columns = [recent[name] for name in COLUMNS]
        except (KeyError, TypeError) as error:
            raise reader.fail(f"there are no filings with {', '.join(COLUMNS)}") from error
        cik = reply.name.removeprefix("edgar-").partition(".")[0]
        if str(found.get("cik", cik)).lstrip("0") != cik.lstrip("0"):
            raise reader.fail(f"the filings are those of the company {found['cik']}, not of {cik}")
        if len({len(column) for column in columns}) != 1:
            raise reader.fail("the columns are not of one length")
        company = COMPANIES.get(cik, "company")
        for number, (accession, filed, form, _items) in enumerate(zip(*columns, strict=True)):
            day = reader.day(filed)
            path = f"/filings/recent/filingDate/{number}"
            reader.cell(f"edgar.{company}.{form}.{accession}", Unit.DATE, day, path, day)
            path = f"/filings/recent/form/{number}"
            reader.cell(f"form.{company}.{accession}", Unit.NAME, str(form), path, day)
