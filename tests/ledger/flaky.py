"""A store that fails when it is told to: before it has written, or after it has and could not say so."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from contextlib import AbstractContextManager
from typing import Any

from stepwell.ledger.base import LedgerFull, OpenRun, PostingBatch, Run, RunId, Store
from stepwell.ledger.leases import Lease, LeaseNeed
from stepwell.ledger.types import Budget, Scope

SENTENCE = "the ledger books.db cannot be written: there is no room left"


class FlakyStore:
    """Another store with faults. ``fault`` is raised by every ``write`` while it is set; ``unsaid`` so many
    times by a write that has been carried out, as when a connection breaks during the commit. ``gate``:
    writes wait until it is set."""

    def __init__(self, store: Store) -> None:
        self.store = store
        self.fault: Exception | None = None
        self.unsaid = 0
        self.gate = threading.Event()
        self.gate.set()
        self.numbers: list[int] = []
        """Of batches whose writing was carried out, again each time."""

    def fill(self) -> None:
        self.fault = LedgerFull(SENTENCE)

    def write(self, run: RunId, batch: PostingBatch) -> None:
        assert self.gate.wait(30)
        if self.fault is not None:
            raise self.fault
        self.store.write(run, batch)
        self.numbers.append(batch.number)
        if self.unsaid:
            self.unsaid -= 1
            raise LedgerFull("the connection was lost")

    def claim(self, node: str) -> None:
        self.store.claim(node)

    def begin(self, run: Run) -> RunId:
        return self.store.begin(run)

    def end(self, run: RunId, at_us: int) -> None:
        if self.fault is not None:
            raise self.fault
        self.store.end(run, at_us)

    def open_runs(self, node: str) -> list[OpenRun]:
        return self.store.open_runs(node)

    def set_budget(self, budget: Budget) -> None:
        self.store.set_budget(budget)

    def lease(self, name: tuple[Scope, str, str], node: str, need: LeaseNeed) -> Lease:
        return self.store.lease(name, node, need)

    def end_leases(self, node: str) -> None:
        self.store.end_leases(node)

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        return self.store.rows(sql, parameters)

    def snapshot(self) -> AbstractContextManager[None]:
        return self.store.snapshot()

    def lost(self) -> str | None:
        return self.store.lost()

    def close(self) -> None:
        self.store.close()
