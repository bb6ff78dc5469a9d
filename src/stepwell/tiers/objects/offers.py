"""Before the loop sees a turn: which blocks of its prompt do other nodes have?

The object store is asked what is new there, which takes a moment; the turn waits for it, and for
``PATIENCE_S`` at most. A store that does not answer is asked less and less often, without a wait.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Sequence
from typing import Protocol

from stepwell.policy.types import BlockId
from stepwell.tiers.backoff import Backoff, LineLimit
from stepwell.tiers.workers import Alarm, ThreadWorker, Worker

log = logging.getLogger(__name__)

PATIENCE_S = 1.0
Answer = Callable[[list[bool]], None]


class OfferingStore(Protocol):
    """What is asked."""

    def look(self) -> bool:
        """Find out what is new. Waits for the store; False: it does not answer."""

    def offers(self, keys: Sequence[BlockId]) -> list[bool]:
        """Which blocks it has, as far as is known. From any thread, at once."""


class Offers:
    """Thread-safe. Each question is answered once: at once, or from a thread."""

    def __init__(
        self,
        store: OfferingStore,
        *,
        patience_s: float = PATIENCE_S,
        clock: Callable[[], float] = time.monotonic,
        make_worker: Callable[[str], Worker] = ThreadWorker,
    ) -> None:
        self._store, self._patience_s = store, patience_s
        self._lock = threading.Lock()
        self._waiting: list[tuple[Sequence[BlockId], Answer]] = []
        self._looking = self._late = False
        self._backoff = Backoff("looking into the object store", clock, LineLimit(clock))
        self._worker = make_worker("stepwell-look")
        self._alarm = Alarm("stepwell-look-late", self._is_late)

    def ask(self, keys: Sequence[BlockId], answer: Answer) -> None:
        with self._lock:
            waits = self._backoff.ready() and not self._late
            begins = waits and not self._looking
            if waits:
                self._waiting.append((keys, answer))
                self._looking = True
        if begins:
            self._alarm.set(self._patience_s)
            self._worker.submit(self._look)
        if not waits:
            answer(self._store.offers(keys))

    def _look(self) -> None:
        try:
            there = self._store.look()
        except Exception:  # a defect there must not leave turns waiting
            log.exception("looking into the object store failed unexpectedly")
            there = False
        with self._lock:
            self._looking = self._late = False
            if there:
                self._backoff.worked()
            else:
                self._backoff.failed("it does not answer")
        self._answer()

    def _is_late(self) -> None:
        """The alarm of a look that has ended may ring during the next one: that answers a little early."""
        with self._lock:
            if not self._looking:
                return
            self._late = True
        self._answer()

    def _answer(self) -> None:
        with self._lock:
            waiting, self._waiting = self._waiting, []
        for keys, answer in waiting:
            answer(self._store.offers(keys))

    def close(self) -> None:
        self._alarm.close()
        self._worker.close(self._patience_s)
