"""``SharedTier``: a store that is shared behind jobs that never block their caller.

An engine's scheduler asks ``lookup`` for single blocks and submits whole jobs; threads read and write; and
``ended`` says what became of each job, exactly once, at its deadline at the latest. A block's bytes go
through memory of our own, so that a read that comes back after its deadline touches nothing of the engine's
and a write that starts late copies nothing that is no longer the block's.
"""

from __future__ import annotations

import logging
import os
import sqlite3
import threading
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from functools import partial

from stepwell.policy.types import BlockId
from stepwell.tiers.backoff import Backoff, LineLimit
from stepwell.tiers.pages import Pages
from stepwell.tiers.record import Damaged
from stepwell.tiers.shared.admission import DiskAdmission
from stepwell.tiers.shared.base import RecordStore
from stepwell.tiers.shared.index import Record
from stepwell.tiers.shared.store import ToWrite
from stepwell.tiers.workers import ThreadWorker, Worker

log = logging.getLogger(__name__)

JobId = int
_BATCH_BLOCKS = 16
"""Blocks of one transaction: a longer job tells others of its first blocks before it has written the last."""
_LOOK_FOR_DEAD_S = 5.0
_STALE_S = 1.0
"""A block is taken as unknown when it has not been found out for so long what others have written."""


class LookupAnswer(Enum):
    """Of ``lookup``. ``LATER``: what other processes have written since is being found out."""

    THERE = "there"
    NOT_THERE = "not there"
    LATER = "later"


@dataclass(frozen=True, slots=True)
class TierLimits:
    """Times and threads. Defaults are those of a local SSD."""

    deadline_s: float = 5.0
    """A job that has not ended after this, plus the time below, is given up."""
    slowest_bytes_per_s: int = 50_000_000
    """Each job gets the time as well that its bytes and those ahead of it need at this speed."""
    readers: int = 2
    most_jobs: int = 256
    """Under way in one direction; what comes beyond them is not stored, or is computed again."""
    shun_s: float = 5.0
    """So long a block that was not read in time counts as not there."""


@dataclass(frozen=True, slots=True)
class JobItem:
    """One block of a job, and where its bytes lie or shall lie. ``place`` is called in one of our threads."""

    key: BlockId
    place: Callable[[], memoryview]
    position: int = 0
    """How deep in its prefix: of blocks used at one time, the deeper one is evicted first."""


@dataclass(frozen=True, slots=True)
class JobEnded:
    """What became of a job. ``done`` are the blocks whose bytes are where they should be."""

    job: JobId
    loading: bool
    ok: bool
    done: tuple[BlockId, ...]
    bytes_moved: int
    seconds: float


@dataclass(slots=True, eq=False)
class _Job:
    id: JobId
    loading: bool
    items: Sequence[JobItem]
    tenant: str
    size_bytes: int
    deadline_s: float
    lock: threading.Lock = field(default_factory=threading.Lock)
    """Held while the engine's memory is touched, and while the job is given up."""
    given_up: bool = False
    done: list[BlockId] = field(default_factory=list)
    failed: bool = False
    moved_bytes: int = 0
    seconds: float = 0.0


class SharedTier:
    """Jobs over a store that is shared. All calls from one thread; none waits for the disk but ``drain``."""

    def __init__(
        self,
        store: RecordStore,
        block_bytes: int,
        *,
        limits: TierLimits | None = None,
        admission: DiskAdmission | None = None,
        clock: Callable[[], float] = time.monotonic,
        make_worker: Callable[[str], Worker] = ThreadWorker,
        on_change: Callable[[Sequence[BlockId], Sequence[BlockId]], None] | None = None,
        name: str = "the shared disk store",
        lines: LineLimit | None = None,
    ) -> None:
        """``on_change`` is called in a thread with the blocks that have come and those that have gone.
        ``name`` is what the log calls the store, and ``lines`` limits what it says of it."""
        self.store, self.block_bytes = store, block_bytes
        self.limits = limits or TierLimits()
        self.admission = admission or DiskAdmission()
        self.counters: Counter[str] = Counter()
        self.usage: Mapping[str, int] = {}
        """Bytes of the whole directory by tenant, when last looked at; another object each time."""
        self.sharers = 1
        """Processes that use the directory, this one included."""
        self._clock = clock
        self.on_change = on_change
        self._known: dict[BlockId, Record] = {}
        self._shunned: dict[BlockId, float] = {}
        self._jobs: dict[bool, list[_Job]] = {True: [], False: []}
        self._ended: deque[_Job] = deque()
        self._at_once: list[JobEnded] = []
        self._used: dict[BlockId, int] = {}
        self._sharing = False
        self._asked = self._answered = 0
        self._asked_s = self._judged_s = 0.0
        self._following = threading.Lock()
        self._name = name
        self._write_backoff = Backoff(f"writing to {name}", clock, lines)
        self._read_backoff = Backoff(f"reading from {name}", clock, lines)
        self._writer = make_worker("stepwell-write")
        self._readers = [make_worker(f"stepwell-read-{n}") for n in range(self.limits.readers)]
        self._follow(0)

    @property
    def used_bytes(self) -> int:
        """Of the whole directory, when last looked at."""
        return sum(self.usage.values())

    # --- asking -------------------------------------------------------------------------------

    def ask(self) -> int:
        """Find out what other processes have written. The answer goes to ``lookup``."""
        now_s = self._clock()
        if self._asked > self._answered and now_s < self._asked_s + _STALE_S:
            return self._asked
        self._asked += 1
        self._asked_s = now_s
        number = self._asked
        self._readers[0].submit(lambda: self._follow(number))
        return number

    def lookup(self, key: BlockId, asked: int = 0) -> LookupAnswer:
        """Whether the block can be loaded. ``asked``: what ``ask`` said when its request came."""
        now_s = self._clock()
        if not self._read_backoff.ready() or self._stuck(True, now_s):
            return LookupAnswer.NOT_THERE
        if key in self._known:
            return LookupAnswer.NOT_THERE if self._is_shunned(key, now_s) else LookupAnswer.THERE
        waits = self._sharing and self._answered < asked and now_s < self._asked_s + _STALE_S
        return LookupAnswer.LATER if waits else LookupAnswer.NOT_THERE

    def holds(self, key: BlockId) -> bool:
        """Whether the store has the block, as far as is known. From any thread."""
        return key in self._known

    @property
    def loads(self) -> int:
        """Jobs under way that read."""
        return len(self._jobs[True])

    def _is_shunned(self, key: BlockId, now_s: float) -> bool:
        until_s = self._shunned.get(key)
        if until_s is not None and now_s >= until_s:
            del self._shunned[key]
        return until_s is not None and now_s < until_s

    def _stuck(self, loading: bool, now_s: float) -> bool:
        """While jobs past their deadline still block every thread, the next ones can only time out."""
        threads = len(self._readers) if loading else 1
        return sum(job.given_up for job in self._jobs[loading]) >= threads

    # --- submitting ---------------------------------------------------------------------------

    def store_blocks(self, job: JobId, items: Sequence[JobItem], tenant: str, *, wanted: bool = True) -> None:
        """Write what is worth it. ``wanted`` false: the request's blocks are not for the disk."""
        now_s = self._clock()
        new = [item for item in items if item.key not in self._known]
        self._note_used([item for item in items if item.key in self._known])
        chosen = self.admission.choose([i.key for i in new], self.block_bytes, now_s) if wanted else ()
        self.counters["skipped"] += len(new) - len(chosen)
        new = [item for item in new if item.key in chosen]
        cannot = not self._write_backoff.ready() or len(self._jobs[False]) >= self.limits.most_jobs
        if not new or cannot or self._stuck(False, now_s):
            self.counters["dropped"] += len(new)
            self._at_once.append(JobEnded(job, False, True, (), 0, 0.0))
            return
        self._start(
            _Job(job, False, new, tenant, self.block_bytes * len(new), 0.0), self._writer, self._write
        )

    def load_blocks(self, job: JobId, items: Sequence[JobItem]) -> None:
        """Read blocks that ``lookup`` has offered."""
        if len(self._jobs[True]) >= self.limits.most_jobs or self._stuck(True, self._clock()):
            self._shun([item.key for item in items])
            self._at_once.append(JobEnded(job, True, False, (), 0, 0.0))
            return
        begun = _Job(job, True, items, "", self.block_bytes * len(items), 0.0)
        self._start(begun, self._readers[job % len(self._readers)], self._read)

    def _start(self, job: _Job, worker: Worker, carry_out: Callable[[_Job], None]) -> None:
        ahead = self._jobs[job.loading]
        queued_bytes = job.size_bytes + sum(other.size_bytes for other in ahead)
        wait_s = self.limits.deadline_s + queued_bytes / self.limits.slowest_bytes_per_s
        job.deadline_s = self._clock() + wait_s
        ahead.append(job)
        worker.submit(lambda: self._run(job, carry_out))

    # --- in the threads -----------------------------------------------------------------------

    def _run(self, job: _Job, carry_out: Callable[[_Job], None]) -> None:
        started_s = time.perf_counter()
        try:
            if not job.given_up:
                carry_out(job)
        except Exception:  # a job that is never reported would pin the engine's memory for ever
            job.failed = True
            log.exception("a job of %s failed unexpectedly", self._name)
        job.seconds = time.perf_counter() - started_s
        self._ended.append(job)

    def _write(self, job: _Job) -> None:
        for start in range(0, len(job.items), _BATCH_BLOCKS):
            blocks = []
            for item in job.items[start : start + _BATCH_BLOCKS]:
                pages = Pages(self.block_bytes)
                if not self._copy(job, pages.fill, item):
                    return
                used_us = self.store.clock_us() - item.position
                blocks.append(ToWrite(item.key, job.tenant, pages, used_us))
            self._write_batch(job, blocks)

    @staticmethod
    def _copy(job: _Job, take: Callable[[memoryview], None], item: JobItem) -> bool:
        """Touch the engine's memory, unless the job has been given up and the memory is not ours any more."""
        with job.lock:
            if job.given_up:
                return False
            take(item.place())
            return True

    def _write_batch(self, job: _Job, blocks: list[ToWrite]) -> None:
        try:
            result = self.store.write(blocks)
        except (OSError, sqlite3.Error) as error:
            job.failed = True
            self._write_backoff.failed(_kind(error))
            return
        job.moved_bytes += result.written_bytes
        job.failed |= bool(result.failed)
        self.counters["evicted"] += result.evicted
        self.counters["refused"] += len(result.refused)
        self.counters["written"] += len(result.kept)
        with job.lock:
            job.done += result.kept
        if result.error is not None:
            self._write_backoff.failed(_kind(result.error))
        else:
            self._write_backoff.worked()
        self._follow(0)

    def _read(self, job: _Job) -> None:
        pages = Pages(self.block_bytes)
        for item in job.items:
            if job.given_up or not self._read_one(job, item, pages):
                job.failed = True
                continue
            if not self._copy(job, partial(_overwrite, pages), item):
                return
            with job.lock:
                job.done.append(item.key)
            job.moved_bytes += self.block_bytes

    def _read_one(self, job: _Job, item: JobItem, pages: Pages) -> bool:
        record = self._known.get(item.key)
        if record is None:
            return False
        try:
            self.store.read(record, pages)
        except (Damaged, FileNotFoundError) as error:
            self._known.pop(item.key, None)
            self.counters["damaged" if isinstance(error, Damaged) else "gone"] += 1
            return False
        except (OSError, sqlite3.Error) as error:
            self._known.pop(item.key, None)
            self.counters["errors"] += 1
            self._read_backoff.failed(_kind(error))
            return False
        self._read_backoff.worked()
        return True

    def _follow(self, number: int) -> None:
        """Bring ``_known`` up to what is on disk, and tell the disk what was used."""
        with self._following:
            try:
                self._judge()
                used, self._used = self._used, {}
                if used:
                    self.store.touch(list(used.items()))
                changes = self.store.changes()
                self.usage = {tenant: size for tenant, (size, _) in self.store.usage().items()}
            except (OSError, sqlite3.Error) as error:
                self._read_backoff.failed(_kind(error))
                return
            gone = [key for key in self._known if key not in changes.present] if changes.everything else ()
            gone = sorted(changes.gone or gone)
            come = sorted(key for key in changes.present if key not in self._known)
            for key in gone:
                self._known.pop(key, None)
            self._known.update(changes.present)
            self._answered = max(self._answered, number)
            if self.on_change is not None and (come or gone):
                self.on_change(come, gone)

    def _judge(self) -> None:
        now_s = self._clock()
        if now_s >= self._judged_s + _LOOK_FOR_DEAD_S or not self._judged_s:
            self._judged_s = now_s
            self.sharers = 1 + self.store.bury_dead()
            self._sharing = self.sharers > 1

    # --- ending -------------------------------------------------------------------------------

    def ended(self) -> list[JobEnded]:
        """Jobs that have ended or passed their deadline since the last call."""
        told, self._at_once = self._at_once, []
        while self._ended:
            job = self._ended.popleft()
            self._jobs[job.loading].remove(job)
            if not job.given_up:
                told.append(self._settle(job))
        now_s = self._clock()
        for job in (*self._jobs[True], *self._jobs[False]):
            if not job.given_up and now_s >= job.deadline_s:
                told.append(self._give_up(job))
        return told

    def _give_up(self, job: _Job) -> JobEnded:
        with job.lock:
            job.given_up = True
        job.failed = True
        self.counters["late"] += 1
        backoff = self._read_backoff if job.loading else self._write_backoff
        backoff.failed("it does not answer in time")
        return self._settle(job)

    def _settle(self, job: _Job) -> JobEnded:
        done = tuple(job.done)
        if job.loading:
            self._note_used([item for item in job.items if item.key in set(done)])
            self._shun([item.key for item in job.items if item.key not in set(done)])
            self.counters["read"] += len(done)
        ok = len(done) == len(job.items) if job.loading else not job.failed
        return JobEnded(job.id, job.loading, ok, done, job.moved_bytes, job.seconds)

    def _shun(self, keys: Sequence[BlockId]) -> None:
        until_s = self._clock() + self.limits.shun_s
        self._shunned.update(dict.fromkeys(keys, until_s))
        while len(self._shunned) > 10_000:
            del self._shunned[next(iter(self._shunned))]

    def _note_used(self, items: Sequence[JobItem]) -> None:
        now_us = self.store.clock_us()
        self._used.update({item.key: now_us - item.position for item in items})

    @property
    def busy(self) -> bool:
        """Whether ``ended`` must be asked again: a job is under way, or its end has not been told."""
        under_way = any(not job.given_up for jobs in self._jobs.values() for job in jobs)
        return bool(under_way or self._at_once or self._ended)

    def drain(self) -> None:
        """Wait until no job touches the engine's memory any more: each has ended or passed its deadline.

        What becomes of them is told by ``ended`` afterwards.
        """
        while any(not job.given_up for jobs in self._jobs.values() for job in jobs):
            self._at_once += self.ended()
            time.sleep(0.001)

    def close(self, timeout_s: float = 10.0) -> None:
        """Finish what was begun. A thread that hangs in the disk is left behind with the store open."""
        finished = [worker.close(timeout_s) for worker in (self._writer, *self._readers)]
        if all(finished):
            self._follow(0)
            self.store.close()
        else:
            log.warning("%s did not answer; what was not written is computed again", self._name)


def _overwrite(pages: Pages, place: memoryview) -> None:
    place[:] = pages.payload


def _kind(error: OSError | sqlite3.Error) -> str:
    number = getattr(error, "errno", None)
    return os.strerror(number) if number is not None else str(error) or type(error).__name__
