"""What other nodes of one ledger let a customer spend: asked from the books again and again while it matters.

Each node counts what it spends itself. The nodes of a fleet write into one ledger, so that what the others
have spent is there a moment later. A thread asks for the names under which requests came here since it asked
last; between two such times a hard limit can be passed by what other nodes allow meanwhile, and by no more.
"""

from __future__ import annotations

import logging
import threading

from stepwell.ledger.base import LedgerError
from stepwell.ledger.budgets import BudgetBook

log = logging.getLogger("stepwell.ledger")


class BudgetFollower:
    """One thread. ``every_s``: between the end of one round and the next."""

    def __init__(self, book: BudgetBook, every_s: float) -> None:
        self._book, self._every_s = book, every_s
        self._stop = threading.Event()
        self._failing = False
        self._thread = threading.Thread(target=self._work, name="stepwell-budgets", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._stop.wait(self._every_s):
            try:
                self._book.ask_again()
            except LedgerError as error:
                if not self._failing:
                    log.warning("what other nodes have spent is not known for now: %s", error)
                self._failing = True
            else:
                self._failing = False

    def close(self) -> None:
        """End after the round that is under way."""
        self._stop.set()
        self._thread.join()
