"""Closing the books of runs that were cut off: what a server does with its ledger before it serves.

A run without an end was killed, or its machine went down. Its last batch says how far its books go; the step
that was in flight is not in them and belongs to no account. What can still be known is entered as one last
batch:

1. Storage from where each account's was last posted up to the last batch, by the last known position.
2. Every hold that was not settled goes back to the customer: a request that was cut off is not paid for.
3. What the machine gave in all, less what postings say, goes to UNATTRIBUTED, so that the sums agree.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from stepwell.ledger.base import OpenRun, PostingBatch, RunId, Store
from stepwell.ledger.reading.queries import join_sum
from stepwell.ledger.stores.schema import ACCOUNT_FIELDS
from stepwell.ledger.stores.sqlstore import account_of
from stepwell.ledger.types import (
    MACHINE,
    MACHINE_RESOURCES,
    STORAGE,
    UNATTRIBUTED,
    Account,
    Cause,
    Kind,
    Posting,
    Resource,
)

SUM = "SUM({0} * high), SUM({0} * low)"
"""A signed sum of amounts in two halves, neither of which overflows 64 bits; for ``join_sum``."""

MACHINE_SUMS = (
    f"SELECT resource, {SUM.format('CASE WHEN debit = m.id THEN 1 ELSE -1 END')} FROM entries, "
    "(SELECT id FROM accounts WHERE kind = 'machine') m "
    "WHERE run = ? AND (debit = m.id OR credit = m.id) GROUP BY resource"
)
_COLUMNS = ", ".join(f"a.{name}" for name in ACCOUNT_FIELDS)
OPEN_HOLDS = (
    f"SELECT {_COLUMNS}, p.request, {SUM.format('CASE WHEN p.credit = a.id THEN 1 ELSE -1 END')} "
    "FROM entries p JOIN accounts a ON a.kind = 'held' AND (p.credit = a.id OR p.debit = a.id) "
    f"WHERE p.run = ? AND p.resource = 'microusd' GROUP BY a.id, {_COLUMNS}, p.request "
    "ORDER BY a.id, p.request"
)


@dataclass(frozen=True, slots=True)
class RecoveredRun:
    """What was entered for one run that had been cut off."""

    run: RunId
    last_batch: int
    """The last one that the run itself had entered."""
    last_at_us: int
    released_requests: int
    released_microusd: int
    storage_byte_us: Mapping[Resource, int]
    """Attributed by the last known positions."""
    unattributed: Mapping[Resource, int]
    """Of the machine's totals; negative where postings say more than the machine gave."""

    @property
    def sentence(self) -> str:
        """For the log: whole, with figures."""
        byte_s = sum(self.storage_byte_us.values()) // 1_000_000
        lost = ", ".join(f"{amount:,} {resource.value}" for resource, amount in self.unattributed.items())
        return (
            f"run {self.run} was cut off after batch {self.last_batch:,}: "
            f"{self.released_microusd:,} micro-dollars held for {self.released_requests:,} requests "
            "went back, "
            f"{byte_s:,} byte-seconds were attributed by the last known positions, "
            f"{lost or 'nothing'} stays unattributed; the step in flight is not counted"
        )


def recover(store: Store, node: str, at_us: int) -> list[RecoveredRun]:
    """Close every run of this node that has no end. Harmless when done twice, or cut off itself.

    Raises ``LedgerError`` when the store fails, or when another process runs under that name: its run is
    alive and is left alone.
    """
    store.claim(node)
    return [_close(store, run, at_us) for run in store.open_runs(node)]


def _close(store: Store, run: OpenRun, at_us: int) -> RecoveredRun:
    storage = list(_storage(run))
    releases = list(_releases(store, run.run))
    unattributed = _missing(store, run, storage)
    postings = [*storage, *releases, *_balancing(unattributed)]
    positions = [position._replace(as_of_us=run.last_now_us) for position in run.positions]
    batch = PostingBatch(run.last_batch + 1, at_us, run.last_now_us, postings, (), positions, run.totals)
    if postings:
        store.write(run.run, batch)
    store.end(run.run, at_us)
    return RecoveredRun(
        run=run.run,
        last_batch=run.last_batch,
        last_at_us=run.last_at_us,
        released_requests=len({posting.request for posting in releases}),
        released_microusd=sum(posting.amount for posting in releases),
        storage_byte_us=_by_resource(storage),
        unattributed=unattributed,
    )


def _storage(run: OpenRun) -> Iterator[Posting]:
    """What every account held since its storage was last posted."""
    for position in run.positions:
        for resource, size_bytes in zip(STORAGE, position.held_bytes, strict=True):
            amount = size_bytes * (run.last_now_us - position.as_of_us)
            if amount > 0:
                yield Posting(MACHINE, position.account, resource, amount, Cause.RECOVERY)


def _releases(store: Store, run: RunId) -> Iterator[Posting]:
    """What is still held for a request, whatever of it was settled or went back before."""
    for row in store.rows(OPEN_HOLDS, (run,)):
        held = account_of(row)
        request, high, low = row[len(ACCOUNT_FIELDS) :]
        amount = join_sum(high, low)
        if amount > 0:
            customer = Account(Kind.CUSTOMER, held.tenant)
            yield Posting(held, customer, Resource.MONEY, amount, Cause.RECOVERY, request)


def _missing(store: Store, run: OpenRun, storage: Sequence[Posting]) -> dict[Resource, int]:
    """What the machine gave and no posting says, by resource."""
    posted = {Resource(name): join_sum(high, low) for name, high, low in store.rows(MACHINE_SUMS, (run.run,))}
    for posting in storage:
        posted[posting.resource] = posted.get(posting.resource, 0) + posting.amount
    missing = {
        resource: run.totals.get(resource.value, 0) - posted.get(resource, 0)
        for resource in MACHINE_RESOURCES
    }
    return {resource: amount for resource, amount in missing.items() if amount}


def _balancing(unattributed: Mapping[Resource, int]) -> Iterator[Posting]:
    for resource, amount in unattributed.items():
        if amount > 0:
            yield Posting(MACHINE, UNATTRIBUTED, resource, amount, Cause.RECOVERY)
        else:
            yield Posting(UNATTRIBUTED, MACHINE, resource, -amount, Cause.RECOVERY)


def _by_resource(postings: Sequence[Posting]) -> dict[Resource, int]:
    sums: dict[Resource, int] = {}
    for posting in postings:
        sums[posting.resource] = sums.get(posting.resource, 0) + posting.amount
    return sums
