"""``stepwell ledger books``: what there is to price by."""

from __future__ import annotations

from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table
from rich.text import Text

from stepwell.errors import BadInput
from stepwell.ledger.pricing.books import BookKind, nearest, preset_names, preset_text
from stepwell.ledger.pricing.costs import load_cost_book
from stepwell.ledger.pricing.prices import load_price_book

KINDS: tuple[BookKind, ...] = ("price", "cost")


def books(
    name: Annotated[str | None, Parameter(help="Print this book as TOML, to start one of your own.")] = None,
) -> int:
    """List the books that come with Stepwell: what customers pay, and what a machine costs.

    Each says where its figures are from, and from which day. Settings take a name or the path of a file
    (``--price-book``, ``--cost-book``). Example: ``stepwell ledger books laptop > mine.toml``
    """
    if name is not None:
        print(_text(name), end="")
        return 0
    console = Console(highlight=False)
    for kind in KINDS:
        console.print(_table(kind))
        console.print()
    console.print("stepwell ledger books NAME prints one of them")
    return 0


def _text(name: str) -> str:
    for kind in KINDS:
        if name in preset_names(kind):
            return preset_text(kind, name)
    known = [one for kind in KINDS for one in preset_names(kind)]
    raise BadInput(f"there is no book {name!r}{nearest(name, known)}: there are {', '.join(known)}")


def _table(kind: BookKind) -> Table:
    table = Table(title=f"{kind} books", title_justify="left", box=None, padding=(0, 2, 0, 0), pad_edge=False)
    for column in ("name", "as of", "source"):
        table.add_column(column, no_wrap=column != "source", overflow="fold")
    for name in preset_names(kind):
        book = load_price_book(name) if kind == "price" else load_cost_book(name)
        table.add_row(name, book.as_of, Text(book.source))
    return table
