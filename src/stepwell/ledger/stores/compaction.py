"""Postings that are old enough become daily balances: the same sums by account, day, resource and cause in a
hundredth of the room.

What is asked of old books is asked by day: statements, margins, bills, the sums that ``verify`` takes. The
spend log is left as it is, a row for each request, because prices and their rounding are by request. Only
batches from the beginning of a run on are added up, each slice in one transaction, so a crash leaves the
books as they were before the slice or after it. A second time finds nothing left to do.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from stepwell.ledger.base import LedgerError, Store
from stepwell.ledger.reading.queries import DAY_US, RunRow, runs

log = logging.getLogger("stepwell.ledger")

SLICE_POSTINGS = 20_000
"""Added up in one transaction: a server that writes waits for that long."""
BETWEEN_SLICES_S = 0.05
FIRST_S, EVERY_S, AGAIN_S = 60.0, 86_400.0, 3_600.0
"""When a server begins to add up, how often, and how soon after it failed."""
LEAP_US = 3 * DAY_US

Progress = Callable[[int, int], None]
"""Told how many runs are done, and of how many."""


@dataclass(slots=True)
class Compacted:
    """What was added up, or would be."""

    runs: int = 0
    postings: int = 0
    balances: int = 0
    slices: int = 0

    @property
    def sentence(self) -> str:
        return f"{self.postings:,} postings of {self.runs:,} runs are {self.balances:,} daily balances now"


def cutoff_us(now_us: int, keep_days: int) -> int:
    """The midnight (UTC) before which postings are old enough; ``keep_days`` whole days stay."""
    return now_us - now_us % DAY_US - keep_days * DAY_US


def compact(
    store: Store,
    before_us: int,
    *,
    progress: Progress = lambda done, total: None,
    pause: Callable[[], bool] = lambda: False,
    slice_postings: int = SLICE_POSTINGS,
) -> Compacted:
    """Add up every run's postings from before ``before_us``, a midnight. ``pause`` is asked after each slice;
    True ends it there. Raises ``LedgerError``."""
    found, all_runs = Compacted(), runs(store)
    for done, run in enumerate(all_runs):
        progress(done, len(all_runs))
        last, compacted = _last_old_batch(store, run, before_us), run.compacted_batch
        before = found.postings
        while compacted < last:
            until = min(last, _slice_end(store, run, compacted, slice_postings))
            found.postings += store.compact(run.id, compacted + 1, until)
            found.slices += 1
            compacted = until
            if pause():
                last = compacted
        if found.postings > before:
            found.runs += 1
            found.balances += _balances(store, run)
        if pause():
            break
    return found


def would_compact(store: Store, before_us: int) -> Compacted:
    """The same without changing anything; of the balances, how many one slice each would give."""
    found = Compacted()
    for run in runs(store):
        last = _last_old_batch(store, run, before_us)
        ((postings,),) = store.rows(
            "SELECT COUNT(*) FROM postings WHERE run = ? AND batch > ? AND batch <= ?",
            (run.id, run.compacted_batch, last),
        )
        if postings:
            found.runs += 1
            found.postings += postings
            ((balances,),) = store.rows(
                "SELECT COUNT(*) FROM (SELECT 1 AS one FROM postings WHERE run = ? AND batch > ? AND "
                f"batch <= ? GROUP BY at_us - at_us % {DAY_US}, debit, credit, resource, cause, "
                "CASE WHEN request = 0 THEN 0 ELSE 1 END) t",
                (run.id, run.compacted_batch, last),
            )
            found.balances += balances
    return found


def _last_old_batch(store: Store, run: RunRow, before_us: int) -> int:
    """Everything up to here is old: a clock that was ahead for a while keeps what came after it."""
    ((first_young,),) = store.rows(
        "SELECT MIN(batch) FROM postings WHERE run = ? AND at_us >= ?", (run.id, before_us)
    )
    return run.last_batch if first_young is None else int(first_young) - 1


def _slice_end(store: Store, run: RunRow, compacted: int, postings: int) -> int:
    """The last whole batch of the next so many postings."""
    rows = store.rows(
        "SELECT batch FROM postings WHERE run = ? AND batch > ? ORDER BY batch, n LIMIT 1 OFFSET ?",
        (run.id, compacted, postings),
    )
    return int(rows[0][0]) if rows else run.last_batch


def _balances(store: Store, run: RunRow) -> int:
    ((count,),) = store.rows(
        "SELECT COUNT(*) FROM daily WHERE run = ? AND batch > ?", (run.id, run.compacted_batch)
    )
    return int(count)


class Compactor:
    """A thread that adds up once a day, over a connection of its own."""

    def __init__(
        self,
        connect: Callable[[], Store],
        keep_days: int,
        now_us: Callable[[], int],
        first_s: float = FIRST_S,
        *,
        last_entry_us: int | None = None,
    ) -> None:
        """``last_entry_us``: the last time in the books before this server began, None where the clock is
        known to be right."""
        self._connect, self._keep_days, self._now_us = connect, keep_days, now_us
        self._seen_us = now_us() if last_entry_us is None else last_entry_us
        self._stop = threading.Event()
        self._thread = threading.Thread(
            target=self._work, args=(first_s,), name="stepwell-compaction", daemon=True
        )
        self._thread.start()

    def _work(self, wait_s: float) -> None:
        while not self._stop.wait(wait_s):
            if self._leapt():
                log.warning(
                    "the clock has leapt ahead: old postings stay as they are for a day, or until it is right"
                )
                wait_s = EVERY_S
            else:
                wait_s = EVERY_S if self._once() else AGAIN_S

    def _leapt(self) -> bool:
        """Whether the clock is further ahead of the last look than a server stands still. What is added up
        cannot be taken apart again, and a clock that is wrong is mended within a day."""
        before_us, self._seen_us = self._seen_us, self._now_us()
        return self._seen_us - before_us > LEAP_US

    def _once(self) -> bool:
        try:
            store = self._connect()
            try:
                found = compact(
                    store,
                    cutoff_us(self._now_us(), self._keep_days),
                    pause=lambda: self._stop.wait(BETWEEN_SLICES_S),
                )
            finally:
                store.close()
        except LedgerError as error:
            log.warning("old postings stay as they are for now: %s", error)
            return False
        if found.postings:
            log.info("%s", found.sentence)
        return True

    def close(self) -> None:
        """End after the slice that is under way."""
        self._stop.set()
        self._thread.join()
