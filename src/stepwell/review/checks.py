"""What does not fit: a weekday that is another one, a product, two texts that disagree, a claim against the
data.

Each check gives the cells it looked at and whether they agree; the verifier looks again by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from decimal import Decimal
from itertools import pairwise

from stepwell.review.facts import Cell, Conflict, Facts
from stepwell.review.sources.prices import INDEXES
from stepwell.review.week import Week

RELEASED = ("fred.PAYEMS.", "fred.UNRATE.")
"""With vintages: since when a figure of another source is known is the day on which it was asked."""
TWICE = (
    ("fred.SOFR.", "nyfed.sofr."),
    ("fred.PAYEMS.", "bls.payrolls."),
    ("fred.UNRATE.", "bls.unemployment."),
)
"""Figures that two sources publish."""
SPLITS = tuple(Decimal(a) / b for a, b in ((1, 2), (1, 3), (2, 3), (1, 4), (1, 5), (1, 10), (1, 20)))
SPLITS += tuple(1 / one for one in SPLITS)
SPLIT_TOLERANCE = Decimal("0.08")
"""How far a day's own move may take the ratio from that of the split."""
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def check(facts: Facts, week: Week) -> Iterator[Conflict]:
    """Every contradiction among the facts. Those between sources are noted where the cells are added."""
    for cell in list(facts.cells.values()):
        if cell.id.endswith(".weekday") and not cell.missing:
            yield from _weekday(facts, cell)
    yield from _splits(facts, week)
    yield from _releases(facts)
    yield from _product(facts)
    yield from _start(facts)
    yield from _revision(facts)
    yield from _continuity(facts, week)
    yield from _twice(facts)


def _weekday(facts: Facts, cell: Cell) -> Iterator[Conflict]:
    day = facts.get(cell.id.removesuffix(".weekday") + ".day")
    if day is not None and isinstance(day.value, date) and WEEKDAYS[day.value.weekday()] != cell.value:
        yield Conflict("weekday", (day.id, cell.id))


def split_between(facts: Facts, index: str, week: Week) -> tuple[Cell, Cell] | None:
    """Two closes in a row whose ratio is that of a split: a level before it is no base of one after it."""
    closes = [facts.get(f"idx.{index}.close.{day}") for day in (week.base(), *week.sessions())]
    for before, after in pairwise(cell for cell in closes if cell is not None):
        ratio = after.number / before.number
        if any(abs(ratio / one - 1) < SPLIT_TOLERANCE for one in SPLITS):
            return before, after
    return None


def _splits(facts: Facts, week: Week) -> Iterator[Conflict]:
    for index in INDEXES:
        if pair := split_between(facts, index, week):
            yield Conflict("split", (pair[0].id, pair[1].id))


def _releases(facts: Facts) -> Iterator[Conflict]:
    """Statistics come out on working days: a release on a weekend is a calendar that is a day off."""
    for cell in list(facts.cells.values()):
        planned = cell.id.endswith(".release") or cell.id.startswith("cal.")
        if planned and isinstance(cell.value, date) and cell.value.weekday() >= 5:
            yield Conflict("release", (cell.id,))
        elif (
            cell.id.startswith(RELEASED)
            and cell.known_since is not None
            and cell.known_since.weekday() >= 5
            and not cell.missing
        ):
            yield Conflict("vintage", (cell.id,))


def _product(facts: Facts) -> Iterator[Conflict]:
    """A month's amount times twelve beside the year's that the text gives: said also where they agree."""
    month, product, year = (
        facts.get(one) for one in ("evt.fed.bills.month", "w.bills.year", "evt.fed.bills.year")
    )
    if month and product and year:
        kind = "product_agrees" if product.value == year.value else "product"
        yield Conflict(kind, (month.id, product.id, year.id))


def _start(facts: Facts) -> Iterator[Conflict]:
    """Purchases that were made before the day from which they are said to be made."""
    start = facts.get("evt.fed.bills.start")
    bought = min(facts.under("nyfed.bills."), key=lambda cell: cell.observed or date.max, default=None)
    if (
        start
        and bought
        and isinstance(start.value, date)
        and bought.observed
        and bought.observed < start.value
    ):
        yield Conflict("start", (start.id, bought.id))


def _revision(facts: Facts) -> Iterator[Conflict]:
    claim, published = facts.get("evt.jobs.revision"), facts.get("w.jobs.revision")
    if claim and published and claim.value != published.value:
        yield Conflict("claim", (claim.id, published.id))


def _continuity(facts: Facts, week: Week) -> Iterator[Conflict]:
    """The closing balance of a day is the opening one of the next day of the statement."""
    days = [week.base(), *(week.monday + timedelta(days=number) for number in range(5))]
    known = [day for day in days if facts.get(f"tga.close.{day}") and facts.get(f"tga.open.{day}")]
    for before, after in pairwise(known):
        closing, opening = facts[f"tga.close.{before}"], facts[f"tga.open.{after}"]
        if closing.value != opening.value and (after - before).days <= 4:
            yield Conflict("sum", (closing.id, opening.id))


def _twice(facts: Facts) -> Iterator[Conflict]:
    """The same figure of the same day from two sources."""
    for one, other in TWICE:
        for cell in facts.under(one):
            beside = facts.get(other + cell.id.removeprefix(one))
            if beside is not None and beside.value != cell.value:
                yield Conflict("sources", (cell.id, beside.id))
