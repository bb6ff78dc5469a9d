"""A thread that writes the books, so that the driver's loop does not wait for a disk.

``submit`` hands a batch over and returns at once; the next ``submit`` waits until it is written. So the books
are one step behind at most, and a crash loses the step in flight and nothing else. When the store cannot be
written (disk full, server gone), batches stay in memory and are tried again, in order, until it can; nothing
is lost while the process lives.
"""

from __future__ import annotations

import logging
import threading
import time
from dataclasses import replace

from stepwell.ledger.base import LedgerError, LedgerRefused, PostingBatch, RunId, Store
from stepwell.ledger.stores.backlog import Backlog
from stepwell.ledger.stores.sqlstore import MOST_AMOUNT
from stepwell.ledger.types import Posting

log = logging.getLogger("stepwell.ledger")

BACKLOG_POSTINGS = 200_000
RETRY_FIRST_S, RETRY_MOST_S = 0.1, 5.0
WAIT_MOST_S = 2.0
"""Longest that ``submit`` waits for the batch before: a disk that hangs must not hang the engine for good."""
CLOSE_S = 10.0
WENT_BACK_US = 1_000_000
"""Set back by less, as time servers do it, nothing is said."""
TRANSACTION_POSTINGS = 10_000
"""Batches that wait for the same transaction come to no more than that."""


class LedgerWriter:
    """Writes the batches of one run. ``submit``, ``flush`` and ``close`` are called from any one thread;
    ``failing`` and ``overfull`` may be read from all.

    ``batch_us``: how long steps may be collected for one transaction (wall clock); 0: each has its own, or
    shares it with those that came while another was being written. ``backlog_postings``: how many stay in
    memory as they are when nothing can be written; beyond that, postings of the same accounts, resource,
    cause and request are added up. None is dropped and every amount stays exact.
    """

    def __init__(
        self,
        store: Store,
        run: RunId,
        *,
        batch_us: int = 0,
        backlog_postings: int = BACKLOG_POSTINGS,
        retry_s: float = RETRY_FIRST_S,
    ) -> None:
        self._store, self._run = store, run
        self._batch_s = batch_us / 1e6
        self._retry_s = retry_s
        self._changed = threading.Condition()
        self._backlog = Backlog(backlog_postings)
        self._in_hand: PostingBatch | None = None
        """What is being written or was tried before. It stays as it is until it is known to be in the
        books: when a connection breaks during a commit only its number can tell whether it is."""
        self._since_s = 0.0
        self._failing: str | None = None
        self._urgent = self._again = False
        self._abandoned = False
        self._last_at_us = 0
        self._thread = threading.Thread(target=self._work, name="stepwell-ledger", daemon=True)
        self._thread.start()

    @property
    def failing(self) -> str | None:
        """Why nothing can be written at the moment; None: all is well."""
        return self._failing

    @property
    def overfull(self) -> bool:
        """Half of the backlog is used: time to take nothing new."""
        return self.backlog_postings * 2 >= self._backlog.limit_postings

    @property
    def backlog_postings(self) -> int:
        """Postings (and rows of usage) that are not in the books yet."""
        # In this order: a batch that is taken in between counts twice for a moment, and never not at all.
        waiting, in_hand = self._backlog.entries, self._in_hand
        return waiting + (0 if in_hand is None else len(in_hand.postings) + len(in_hand.usage))

    def submit(self, batch: PostingBatch) -> None:
        """Hand over the next batch. Waits while the one before is being written (2 s at most); never while
        the store fails. Raises nothing that the store raises."""
        self._compare(batch)
        with self._changed:
            if not self._changed.wait_for(self._has_room, WAIT_MOST_S):
                # From here on no step waits, until the store has answered.
                self._fail(f"the ledger has not answered for {WAIT_MOST_S:g} s")
            if not self._backlog.entries_waiting:
                self._since_s = time.monotonic()
            self._backlog.add(batch)
            self._changed.notify_all()

    def _has_room(self) -> bool:
        if self._failing or self._abandoned:
            return True
        if self._batch_s:
            return self._backlog.entries < TRANSACTION_POSTINGS
        return self._in_hand is None and not self._backlog.entries_waiting

    def _compare(self, batch: PostingBatch) -> None:
        """Wall clocks are set back. An entry keeps the time at which it was made; numbers give the order."""
        behind_us = self._last_at_us - batch.at_us
        self._last_at_us = batch.at_us
        if behind_us >= WENT_BACK_US:
            log.warning("the clock went back by %.3f s; entries follow it", behind_us / 1e6)

    def flush(self, timeout_s: float = CLOSE_S) -> bool:
        """Wait until all that was submitted is in the books; False when it is not within that time. Has a
        store that fails tried once more at once."""
        with self._changed:
            self._urgent = self._again = True
            self._changed.notify_all()
            done = self._changed.wait_for(self._is_clear, timeout_s)
            self._urgent = False
            return done

    def _is_clear(self) -> bool:
        return self._in_hand is None and not self._backlog.entries_waiting

    def close(self, at_us: int, timeout_s: float = CLOSE_S) -> bool:
        """Write what is left and the end of the run, and stop. False (and one error in the log) when that
        cannot be done within the time: the run then stays open, for recovery at the next start."""
        written = self.flush(timeout_s) and self._enter_end(at_us)
        if not written:
            log.error(
                "%d postings could not be entered into the books before the end: %s",
                self.backlog_postings,
                self._failing or "the store did not answer in time",
            )
        self.abandon()
        return written

    def _enter_end(self, at_us: int) -> bool:
        try:
            self._store.end(self._run, max(at_us, self._last_at_us))
        except LedgerError as error:
            self._failing = str(error)
            return False
        return True

    def abandon(self) -> None:
        """Stop where it is, without writing more or ending the run: what a crash leaves."""
        with self._changed:
            self._abandoned = True
            self._changed.notify_all()
        self._thread.join(CLOSE_S)

    # --- the thread ---------------------------------------------------------------------------

    def _work(self) -> None:
        pause_s = self._retry_s
        while self._take():
            failure = self._attempt()
            if failure is None:
                pause_s = self._retry_s
                continue
            self._fail(failure)
            with self._changed:
                self._changed.wait_for(lambda: self._abandoned or self._again, pause_s)
                self._again = False
            pause_s = min(2 * pause_s, RETRY_MOST_S)

    def _take(self) -> bool:
        """Wait for something to write and hold it in hand; False: nothing more is to be done."""
        with self._changed:
            while not self._abandoned:
                if self._in_hand is not None:
                    return True
                wait_s = self._wait_s()
                if wait_s == 0:
                    self._in_hand = self._backlog.take(TRANSACTION_POSTINGS)
                    return True
                self._changed.wait(wait_s)
        return False

    def _wait_s(self) -> float | None:
        """How long until what waits is to be written; None: nothing waits."""
        if not self._backlog.entries_waiting:
            return None
        if self._urgent or self._failing or self._backlog.entries >= TRANSACTION_POSTINGS:
            return 0
        return max(0.0, self._since_s + self._batch_s - time.monotonic())

    def _attempt(self) -> str | None:
        """Write what is in hand; why not, if it fails."""
        assert self._in_hand is not None
        try:
            self._store.write(self._run, self._in_hand)
        except LedgerRefused as error:
            return self._without_the_refused(error)
        except Exception as error:  # noqa: BLE001 - a thread that dies would lose every later batch
            return str(error) if isinstance(error, LedgerError) else f"{type(error).__name__}: {error}"
        with self._changed:
            self._in_hand = None
            self._since_s = time.monotonic()
            if self._failing:
                log.warning("the ledger is written again; %d postings follow", self._backlog.entries)
                self._failing = None
            self._changed.notify_all()
        return None

    def _without_the_refused(self, error: LedgerRefused) -> str | None:
        """A batch that breaks the rules would be refused for ever and keep all others waiting. What is
        sound in it is kept; what is not is said in the log, in full, and then left out."""
        assert self._in_hand is not None
        sound = [posting for posting in self._in_hand.postings if _is_sound(posting)]
        if len(sound) == len(self._in_hand.postings):
            return str(error)
        for posting in self._in_hand.postings:
            if not _is_sound(posting):
                log.error("left out of the books, because it breaks their rules: %s", posting)
        with self._changed:
            self._in_hand = replace(self._in_hand, postings=sound)
        return None

    def _fail(self, sentence: str) -> None:
        with self._changed:
            if self._failing is None:
                log.error("%s; entries wait in memory until it can be written again", sentence)
            self._failing = sentence
            self._changed.notify_all()


def _is_sound(posting: Posting) -> bool:
    """As the tables' own checks have it."""
    amount: object = posting.amount
    return isinstance(amount, int) and 0 < amount <= MOST_AMOUNT and posting.debit != posting.credit
