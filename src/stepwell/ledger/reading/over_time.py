"""Margins and statements with a unit of time among their fields: one part of the period after the other."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, tzinfo

from stepwell.ledger.base import Store
from stepwell.ledger.pricing.prices import PriceBook
from stepwell.ledger.reading.calendar import parts, unit_of
from stepwell.ledger.reading.grouping import Group
from stepwell.ledger.reading.margin import Exchange, Margin
from stepwell.ledger.reading.queries import AccountSpent, Counts, Period, spent
from stepwell.ledger.reading.repricing import repriced
from stepwell.ledger.reading.statements import Statement, statement


def charges(store: Store, period: Period, book: PriceBook | None) -> list[AccountSpent]:
    """As they were charged, or as ``book`` would have."""
    return spent(store, period) if book is None else repriced(store, period, book)


def statement_over_time(
    store: Store,
    period: Period,
    fields: Sequence[str],
    tenant: str | None = None,
    book: PriceBook | None = None,
    zone: tzinfo = UTC,
) -> Statement:
    """Without a unit of time among the fields, one statement, the dearest first; with one, by time first."""
    unit = unit_of(fields)
    if unit is None:
        return statement(store, period, fields, tenant, charges(store, period, book))
    at = list(fields).index(unit)
    rest = [name for name in fields if name != unit]
    rows, total = [], Counts()
    for label, part in parts(store, period, unit, zone):
        found = statement(store, part, rest, tenant, charges(store, part, book))
        rows += [replace(row, group=_with(row.group, at, label)) for row in found.rows]
        total = total.plus(found.total)
    return Statement(tuple(fields), rows, total)


def joined(found: Sequence[tuple[str, Margin]], fields: Sequence[str], unit: str) -> Margin:
    """Margins of the parts of a period as one; each part was rounded by itself."""
    at = list(fields).index(unit)
    lines = [
        replace(line, group=_with(line.group, at, label)) for label, part in found for line in part.lines
    ]
    machine = found[0][1].machine if found else {}
    for _, part in found[1:]:
        machine = {
            kind: {
                resource: costs.get(resource, 0) + part.machine[kind].get(resource, 0)
                for resource in {**costs, **part.machine[kind]}
            }
            for kind, costs in machine.items()
        }
    exchanges = [
        Exchange(
            _with(one.victim, at, label), _with(one.beneficiary, at, label), one.amount_us, one.cost_microusd
        )
        for label, part in found
        for one in part.exchanges
    ]
    loaded = bool(found) and found[0][1].loaded
    return Margin(tuple(fields), lines, machine, exchanges, loaded)


def _with(group: Group, at: int, label: str) -> Group:
    return (*group[:at], label, *group[at:])
