"""``stepwell ledger bill``: a month of one customer, as a page that one could send."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from datetime import datetime, tzinfo
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console

from stepwell.basics.private import private_umask
from stepwell.commands.ledger.flags import (
    Config,
    Ledger,
    PriceBookFlag,
    Timezone,
    key_names,
    opened,
    with_key_names,
    working,
)
from stepwell.console.options import PAGES, ending_in
from stepwell.errors import BadInput
from stepwell.ledger.base import Store
from stepwell.ledger.pricing.prices import PriceBook, load_price_book
from stepwell.ledger.reading.calendar import month as month_of
from stepwell.ledger.reading.calendar import zone_of
from stepwell.ledger.reading.export import usd
from stepwell.ledger.reading.over_time import statement_over_time
from stepwell.ledger.reading.queries import Counts, Period
from stepwell.ledger.reading.statements import Statement
from stepwell.report.page import Page
from stepwell.report.pdf import pdf

SECTIONS: Mapping[str, tuple[str, ...]] = {
    "By model and service tier": ("model", "service-tier"),
    "By project and API key": ("tenant", "key"),
    "By day": ("day",),
}
HEAD = ("requests", "input tokens", "of it cached", "output tokens", "charge USD")


def bill(
    tenant: Annotated[str, Parameter(help="The customer; its projects are included.")],
    *,
    month: Annotated[str | None, Parameter(help="Like 2026-11. Default: last month.")] = None,
    html: Annotated[
        Path | None,
        Parameter(
            help="Where to write the page. Default: TENANT-MONTH.html here.", validator=ending_in(*PAGES)
        ),
    ] = None,
    pdf_file: Annotated[
        Path | None, Parameter(name="--pdf", help="Write it as a PDF here, too.", validator=ending_in(".pdf"))
    ] = None,
    issuer: Annotated[str, Parameter(help="Name of the sender, at the top of the page.")] = "",
    price_book: PriceBookFlag = None,
    timezone: Timezone = "UTC",
    ledger: Ledger = None,
    config: Config = None,
) -> int:
    """Write a customer's month as one HTML page: what was used, by model, key and day, and what it comes to.

    The page needs nothing from outside, so that it can be mailed and printed. Sums are the ledger's, to the
    micro-dollar: 'stepwell ledger statement' shows the same. Example:

        stepwell ledger bill acme --month 2026-11 --issuer "Example Ltd" --pdf acme-2026-11.pdf
    """
    zone = zone_of(timezone)
    name = month or _last_month(datetime.now(zone))
    asked, book = month_of(name, zone), None if price_book is None else load_price_book(price_book)
    with opened(ledger, config) as store, working("adding up requests"):
        page, total = _page(store, tenant, name, asked, issuer, book, key_names(config), zone)
    if not total.requests and not total.charge_microusd:
        raise BadInput(f"the books have no request of {tenant!r} in {name}")
    path = html or Path(f"{tenant.replace('/', '-')}-{name}.html")
    files = [path] if pdf_file is None else [path, pdf_file]
    try:
        with private_umask():
            page.write(path)
            if pdf_file is not None:
                pdf_file.write_bytes(pdf(page))
    except OSError as error:
        raise BadInput(f"the bill cannot be written to {error.filename}: {error.strerror}") from error
    where = ", ".join(map(str, files))
    said = f"{where}: {tenant}, {name}, {total.requests:,} requests, {usd(total.charge_microusd)} USD"
    Console(highlight=False).print(said, soft_wrap=True, markup=False)
    return 0


def _page(
    store: Store,
    tenant: str,
    name: str,
    asked: Period,
    issuer: str,
    book: PriceBook | None,
    names: Mapping[str, str],
    zone: tzinfo,
) -> tuple[Page, Counts]:
    found = {
        title: statement_over_time(store, asked, fields, tenant, book, zone)
        for title, fields in SECTIONS.items()
    }
    total = next(iter(found.values())).total
    title = f"Statement for {tenant}, {name}"
    page = Page(title, f"{usd(total.charge_microusd)} USD for {total.requests:,} requests")
    if issuer:
        page.text(f"From {issuer}.")
    page.text(
        f"Days are those of {zone}. A request counts on the day on which it ended; "
        "a correction, when it was made."
    )
    for heading, one in found.items():
        page.heading(heading)
        page.table((*one.fields, *HEAD), _rows(one, names))
    if book is not None:
        page.text(f"By prices of {book.as_of or 'a price book'}: {book.source}")
    return page, total


def _rows(found: Statement, names: Mapping[str, str]) -> list[Sequence[str]]:
    rows = [(*with_key_names(found.fields, row.group, names), *_figures(row.counts)) for row in found.rows]
    blank = [""] * (len(found.fields) - 1)
    return [*rows, ("all", *blank, *_figures(found.total))]


def _figures(counts: Counts) -> tuple[str, ...]:
    tokens = counts.requests, counts.input_tokens, counts.cached_tokens, counts.output_tokens
    return (*(f"{count:,}" for count in tokens), usd(counts.charge_microusd))


def _last_month(now: datetime) -> str:
    year, month = (now.year, now.month - 1) if now.month > 1 else (now.year - 1, 12)
    return f"{year}-{month:02d}"
