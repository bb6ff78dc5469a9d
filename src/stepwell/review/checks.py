"""What does not fit: a weekday that is another one, a product, two texts that disagree, a claim against the
data.

Each check gives the cells it looked at and whether they agree; the verifier looks again by itself.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import date, timedelta
from itertools import pairwise

from stepwell.review.facts import Cell, Conflict, Facts
from stepwell.review.week import Week

WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def check(facts: Facts, week: Week) -> Iterator[Conflict]:
    """Every contradiction among the facts. Those between sources are noted where the cells are added."""
    for cell in list(facts.cells.values()):
        if cell.id.endswith(".weekday") and not cell.missing:
            yield from _weekday(facts, cell)
    yield from _product(facts)
    yield from _start(facts)
    yield from _revision(facts)
    yield from _continuity(facts, week)


def _weekday(facts: Facts, cell: Cell) -> Iterator[Conflict]:
    day = facts.get(cell.id.removesuffix(".weekday") + ".day")
    if day is not None and isinstance(day.value, date) and WEEKDAYS[day.value.weekday()] != cell.value:
        yield Conflict("weekday", (day.id, cell.id))


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
