"""What customers used and were charged, and which cost most: answers of a few lines from sums by account."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stepwell.ledger.base import Store
from stepwell.ledger.reading.grouping import FIELDS, Group
from stepwell.ledger.reading.margin import MarginGroup
from stepwell.ledger.reading.queries import Accounts, AccountSpent, Counts, Period, belongs, spent

MODEL = "model"
"""What a spend log can be grouped by beyond the fields of an account."""


@dataclass(frozen=True, slots=True)
class Row:
    """One group of a statement."""

    group: Group
    counts: Counts


@dataclass(frozen=True, slots=True)
class Statement:
    """What was used and charged, the dearest group first."""

    fields: tuple[str, ...]
    rows: list[Row]
    total: Counts


def statement(
    store: Store,
    period: Period,
    fields: Sequence[str] = ("tenant",),
    tenant: str | None = None,
    entries: Sequence[AccountSpent] | None = None,
) -> Statement:
    """From the spend log alone: quick, however many postings there are. ``tenant``: with its projects.
    ``entries``: instead of the period's own."""
    entries = spent(store, period) if entries is None else entries
    known = Accounts(store)
    groups: dict[Group, Counts] = {}
    total = Counts()
    for entry in entries:
        account = known[entry.account]
        if not belongs(account, tenant):
            continue
        group = tuple(entry.model if name == MODEL else FIELDS[name](account) for name in fields)
        groups[group] = groups.get(group, Counts()).plus(entry.counts)
        total = total.plus(entry.counts)
    rows = [Row(group, counts) for group, counts in groups.items()]
    rows.sort(key=lambda row: (-row.counts.charge_microusd, row.group))
    return Statement(tuple(fields), rows, total)


ORDERS: Mapping[str, Callable[[MarginGroup], int]] = {
    "cost": lambda line: line.cost_microusd,
    "loss": lambda line: -line.margin_microusd,
    "intermediate": lambda line: line.counts.intermediate_tokens,
    "storage": lambda line: line.storage_microusd,
}
"""By what ``top`` puts lines in order, the largest first."""


def top(lines: Sequence[MarginGroup], order: str, limit: int) -> list[MarginGroup]:
    """The first ``limit`` lines; those that have nothing of it are left out."""
    key = ORDERS[order]
    return sorted((line for line in lines if key(line) > 0), key=lambda line: (-key(line), line.group))[
        :limit
    ]
