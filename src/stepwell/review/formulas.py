"""Cells from cells: named, versioned formulas on ``Decimal``, each a pure function.

A published figure carries the name and version of its formula; one that is changed gets a new version, so
that an old report still says how its figures were computed. Nothing here rounds: the renderer does, once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, localcontext

from stepwell.review.facts import Cell, Derivation, Facts, Origin, Unit, Value, missing

DIGITS = 34
"""Significant digits of a derived value (decimal128)."""


@dataclass(frozen=True, slots=True)
class Formula:
    """``compute`` takes the inputs' values in the order of ``inputs`` in the text of ``says``."""

    name: str
    version: int
    unit: Unit | None
    """Of the result; ``None``: that of the first input."""
    says: str
    compute: Callable[[Sequence[Decimal]], Decimal]


def _change(values: Sequence[Decimal]) -> Decimal:
    last, base = values
    return (last / base - 1) * 100


FORMULAS = {
    formula.name: formula
    for formula in (
        Formula("same", 1, None, "the value itself", lambda v: v[0]),
        Formula("change_percent", 1, Unit.PERCENT, "(last / base - 1) x 100", _change),
        Formula("difference", 1, None, "last - base", lambda v: v[0] - v[1]),
        Formula("basis_points", 1, Unit.BASIS_POINTS, "(last - base) x 100", lambda v: (v[0] - v[1]) * 100),
        Formula(
            "points_of_percent",
            1,
            Unit.PERCENTAGE_POINTS,
            "last - base, both in percent",
            lambda v: v[0] - v[1],
        ),
        Formula("surprise", 1, None, "actual - consensus", lambda v: v[0] - v[1]),
        Formula("revision", 1, None, "level in this release - level in the last", lambda v: v[0] - v[1]),
        Formula("yearly", 1, None, "a month's amount x 12", lambda v: v[0] * 12),
        Formula("sum", 1, None, "the sum of the parts", lambda v: sum(v, Decimal(0))),
        Formula("residual", 1, None, "total - the sum of the parts", lambda v: v[0] - sum(v[1:], Decimal(0))),
        Formula(
            "contribution_points",
            1,
            Unit.PERCENTAGE_POINTS,
            "weight at the base date in percent x change in percent / 100",
            lambda v: v[0] * v[1] / 100,
        ),
    )
}


def derive(facts: Facts, id: str, formula: str, *inputs: str, unit: Unit | None = None) -> Cell:
    """Add the cell that ``formula`` makes of ``inputs``; missing, and saying so, where one of them is."""
    rule = FORMULAS[formula]
    unknown = unit or rule.unit or Unit.COUNT
    cells = [facts.cells.get(one) or missing(one, unknown, "there is no such figure") for one in inputs]
    result_unit = unit or rule.unit or cells[0].unit
    absent = [cell for cell in cells if cell.missing]
    if absent:
        why = "; ".join(f"{cell.id}: {cell.missing}" for cell in absent)
        return facts.add(missing(id, result_unit, why))
    units = {cell.unit for cell in cells}
    if len(units) > 1 and formula != "contribution_points":
        raise ValueError(f"{id}: {formula} of {sorted(units)}: quantities of one unit only")
    with localcontext(prec=DIGITS):
        try:
            value = rule.compute([cell.number for cell in cells])
        except ArithmeticError:
            return facts.add(missing(id, result_unit, f"{formula} divides by zero"))
    return facts.add(_derived(id, result_unit, value, cells, Derivation(rule.name, rule.version, inputs)))


def _derived(id: str, unit: Unit, value: Value, cells: Sequence[Cell], how: Derivation) -> Cell:
    worst = [Origin.DATA, Origin.DOCUMENT, Origin.CLAIM, Origin.MADE]
    speakers = sorted({cell.speaker for cell in cells if cell.speaker})
    return Cell(
        id,
        unit,
        value,
        observed=_latest([cell.observed for cell in cells]),
        known_since=_latest([cell.known_since for cell in cells]),
        source="; ".join(dict.fromkeys(cell.source for cell in cells if cell.source)),
        origin=max((cell.origin for cell in cells), key=worst.index),
        derivation=how,
        speaker=", ".join(speakers),
    )


def _latest(days: Sequence[date | None]) -> date | None:
    known = [day for day in days if day is not None]
    return max(known) if known else None


def explain(facts: Facts, id: str, depth: int = 0) -> list[str]:
    """How a cell came to be, as an indented tree: a line for it and one for each cell it rests on."""
    cell = facts[id]
    pad = "  " * depth
    if cell.missing:
        return [f"{pad}{cell.id}: missing, {cell.missing}"]
    head = f"{pad}{cell.id} = {cell.value} {cell.unit.value}"
    if cell.derivation is None:
        assert cell.place is not None
        when = f", known since {cell.known_since}" if cell.known_since else ""
        return [f"{head}  [{cell.source}, {cell.place.path}{when}]"]
    rule = FORMULAS.get(cell.derivation.formula)
    says = f": {rule.says}" if rule else ""
    lines = [f"{head}  [{cell.derivation.formula} v{cell.derivation.version}{says}]"]
    for one in cell.derivation.inputs:
        lines.extend(explain(facts, one, depth + 1))
    return lines
