"""A node's side of leases: asks the books for more, renews what is in use, gives back what is not.

A thread renews every few seconds. A request that its node's lease has no room for asks at once, and waits
for the answer of the books before it is taken or refused.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Sequence
from contextlib import suppress

from stepwell.ledger.base import LedgerError, Store
from stepwell.ledger.budgets.book import BudgetBook, BudgetName
from stepwell.ledger.leases import Lease
from stepwell.policy.types import Caller

log = logging.getLogger("stepwell.ledger")
TRIES = 4
"""Other requests of this node may take what was got for this one."""

AGAIN_S = 1.0
"""Books that did not answer are not asked for a request before that: others would wait in line for them."""


class Lessee:
    """Leases of one server. Every method may be called from any thread."""

    def __init__(self, book: BudgetBook, store: Store, node: str, every_s: float) -> None:
        """``every_s``: between the end of one round of renewals and the next; no thread where it is 0."""
        self._book, self._store, self._node, self._every_s = book, store, node, every_s
        self._asking = threading.Lock()
        """One question at a time: each is made from what the answers before it came to."""
        self._stop = threading.Event()
        self._failing, self._again_at_s = False, 0.0
        self._thread = threading.Thread(target=self._work, name="stepwell-leases", daemon=True)
        if every_s:
            self._thread.start()

    def lacks(self, caller: Caller, hold_microusd: int) -> bool:
        """Whether the books have to be asked before a request is taken. Does not block."""
        return bool(self._book.short_of(caller, hold_microusd))

    def end_ahead(self, caller: Caller, hold_microusd: int) -> None:
        """What was held ahead was not taken up."""
        self._book.end_ahead(caller, hold_microusd)

    def hold_ahead(self, caller: Caller, hold_microusd: int) -> bool:
        """Enlarge the leases that a request lacks, and hold what it may come to. False: the books have no
        room for it, or do not answer; nothing is held, and the book of budgets knows why. Blocks."""
        with self._asking:
            for _ in range(TRIES if self._book.monotonic() >= self._again_at_s else 0):
                missing = self._book.short_of(caller, hold_microusd)
                if not missing:
                    return self._book.hold_ahead(caller, hold_microusd)
                if not self._enlarge(missing, hold_microusd):
                    return False
        return False

    def _enlarge(self, names: Sequence[BudgetName], more: int) -> bool:
        try:
            answers = [self._ask(name, more) for name in names]
        except LedgerError as error:
            self._fail(error)
            for name in names:
                self._book.not_leased(name)
            return False
        return all(one is None or not one.refused for one in answers)

    def _ask(self, name: BudgetName, more: int = 0, *, give_back: bool = False) -> Lease | None:
        need, asked_at_s = self._book.need_of(name, more, give_back=give_back), self._book.monotonic()
        if need is None:
            return None
        lease = self._store.lease(name, self._node, need)
        self._book.leased(name, lease, asked_at_s)
        return lease

    def renew(self) -> None:
        """One round. Raises ``LedgerError``."""
        for name, in_use in self._book.to_renew().items():
            with self._asking:
                lease = self._ask(name, give_back=not in_use)
                if lease is not None and lease.give_back:
                    self._ask(name, give_back=True)
                self._book.renewed(name)

    def _work(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self.renew()
            except LedgerError as error:
                self._fail(error)
            else:
                self._failing = False

    def _fail(self, error: LedgerError) -> None:
        if not self._failing:
            log.warning("what may be spent of budgets cannot be agreed with other nodes for now: %s", error)
        self._failing, self._again_at_s = True, self._book.monotonic() + AGAIN_S

    def close(self) -> None:
        """End after the round that is under way, and give everything back. After the run has been closed:
        what was charged is in the books."""
        self._stop.set()
        if self._thread.is_alive():
            self._thread.join()
        with self._asking, suppress(LedgerError):  # where that fails they end by themselves
            self._store.end_leases(self._node)
