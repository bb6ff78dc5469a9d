"""Host pool and disk store behind one face, with the transfers between them run beside the loop.

    start --> queued --> running --> ended --> reported by poll
                 |          |
                 |          +-- target dropped: the result is thrown away, reported as not ok
                 +------------- past its deadline: reported as not ok at once, result thrown away later

Every ``start`` is reported exactly once. Both ends of a transfer stay until its thread is done with
them, whatever is dropped meanwhile: the memory or file is freed when the result comes in. Only the
caller's thread changes the book; the two threads only move bytes. Reads have a thread of their own,
so none ever waits behind a backlog of writes.
"""

from __future__ import annotations

import contextlib
import logging
import os
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from stepwell.policy.types import BlockId, BlockMeta, KvTier, Moved
from stepwell.tiers.backoff import Backoff
from stepwell.tiers.base import Buffer, NodeDisk, NodeEntry, TierUsage
from stepwell.tiers.directory import NotAStore, StoreDirectory, model_directory
from stepwell.tiers.files import Files
from stepwell.tiers.host import HostPlace, HostPool
from stepwell.tiers.record import Damaged
from stepwell.tiers.store import RECORD_OVERHEAD_BYTES, DiskStore, StoreFull
from stepwell.tiers.workers import Alarm, ThreadWorker, Worker

log = logging.getLogger(__name__)

HOST, DISK = KvTier.HOST, KvTier.DISK


@dataclass(frozen=True, slots=True)
class TransferLimits:
    """Bounds of the queue. Defaults are a laptop's."""

    read_deadline_s: float = 2.0
    """A read that has not come back after this, plus the time below, is given up."""
    write_deadline_s: float = 30.0
    """A write is not waited for, but its host memory cannot be used for anything else meanwhile."""
    slowest_bytes_per_s: int = 50_000_000
    """A disk this quick never misses a deadline: each transfer gets the time that the bytes queued
    before it need at this speed. Without it a long context would miss its deadline by its length."""
    max_reads: int = 1024
    max_writes: int = 256
    close_s: float = 30.0
    """How long ``close`` waits for writes that were started."""


@dataclass(slots=True, eq=False)
class _Transfer:
    """One transfer. The threads write only the fields below the line."""

    block: BlockMeta
    source: KvTier
    target: KvTier
    place: HostPlace
    entry: NodeEntry | None
    size_bytes: int
    queued_s: float
    deadline_s: float
    cancelled: bool = False
    """The target was dropped."""
    reported: bool = False
    """Given up at its deadline."""
    # ---
    ok: bool = False
    gone: bool = False
    sequence: int = 0
    duration_us: int = 0
    """Time of the I/O and its checksum alone, without the queue: what the gate measures speed by."""

    @property
    def unwanted(self) -> bool:
        return self.cancelled or self.reported


class LocalTiers:
    """``Tiers`` on this machine: a host pool, a disk store (or none), one thread per direction."""

    def __init__(
        self,
        host_limit_bytes: int,
        disk: NodeDisk | None,
        *,
        limits: TransferLimits | None = None,
        clock: Callable[[], float] = time.monotonic,
        make_worker: Callable[[str], Worker] = ThreadWorker,
        host: HostPool | None = None,
    ) -> None:
        """``host``: a pool that several models of one server share, instead of one of its own."""
        self.limits = limits or TransferLimits()
        self.host = HostPool(host_limit_bytes) if host is None else host
        self.disk = disk
        self._clock = clock
        self._callback: Callable[[], None] = _nothing
        self._under_way: dict[KvTier, list[_Transfer]] = {HOST: [], DISK: []}
        """Transfers whose thread is not done with them, by target, in the order they were started."""
        self._ended: deque[_Transfer] = deque()
        self._moved: list[Moved] = []
        self._closed = False
        self._damaged = 0
        self._write_backoff = Backoff("writing to the disk store", clock)
        self._read_backoff = Backoff("reading from the disk store", clock)
        if disk is not None:
            self._workers = {HOST: make_worker("stepwell-read"), DISK: make_worker("stepwell-write")}
            self._alarm = Alarm("stepwell-deadline", self._notify)

    # --- the Tiers contract -------------------------------------------------------------------

    def recovered(self) -> Sequence[BlockMeta]:
        return [] if self.disk is None else self.disk.recovered()

    def put_host(self, block: BlockMeta, data: Buffer) -> bool:
        size_bytes = memoryview(data).nbytes
        if size_bytes > block.size_bytes:
            raise ValueError(f"{size_bytes} bytes for a block that was announced with {block.size_bytes}")
        return self.host.put(block.id, data, block.size_bytes)

    def get_host(self, block: BlockId) -> Buffer | None:
        return self.host.get(block)

    def start(self, block: BlockMeta, source: KvTier, target: KvTier) -> None:
        if (source, target) == (HOST, DISK):
            self._start_write(block)
        elif (source, target) == (DISK, HOST):
            self._start_read(block)
        else:
            raise ValueError(f"the tiers do not move blocks from {source} to {target}")

    def drop(self, block: BlockId, tier: KvTier) -> None:
        for transfer in self._under_way.get(tier, ()):
            if transfer.block.id == block:
                transfer.cancelled = True
        self._moved = [
            replace(moved, ok=False) if (moved.block, moved.target) == (block, tier) else moved
            for moved in self._moved  # ended already, and not yet told
        ]
        if tier is HOST:
            self.host.drop(block)
        elif tier is DISK and self.disk is not None and block in self.disk:
            self.disk.forget(block)
            self._workers[DISK].submit(self._reap)

    def poll(self) -> list[Moved]:
        while self._ended:
            self._settle(self._ended.popleft())
        self._expire()
        moved, self._moved = self._moved, []
        return moved

    def on_ready(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def usage(self, tier: KvTier) -> TierUsage:
        if tier is HOST:
            return TierUsage(self.host.used_bytes, self.host.limit_bytes, len(self.host))
        if tier is not DISK:
            raise ValueError(f"the tiers do not hold blocks on the {tier}")
        if self.disk is None:
            return TierUsage(0, 0, 0)
        usage = self.disk.usage()
        return TierUsage(usage.used_bytes, usage.limit_bytes, usage.blocks, RECORD_OVERHEAD_BYTES)

    def check(self) -> None:
        self.host.check()
        if self.disk is not None:
            self.disk.check()

    def close(self) -> None:
        if self._closed:
            return
        self._closed = True
        if self.disk is None:
            return
        self._alarm.close()
        for transfer in self._under_way[HOST]:
            transfer.cancelled = True  # there is no listener any more
        read = self._workers[HOST].close(self.limits.read_deadline_s)
        wrote = self._workers[DISK].close(self.limits.close_s)
        while self._ended:
            self._settle(self._ended.popleft())
        if read and wrote:
            self.disk.close()
        else:  # a thread that hangs in the disk may wake up: lock and descriptors stay until we exit
            log.warning("the disk store did not answer; what was not written is computed again")

    # --- starting -----------------------------------------------------------------------------

    def _start_write(self, block: BlockMeta) -> None:
        place = self.host.pin(block.id)
        if place is None:
            return self._end_at_once(block, HOST, DISK)
        if self.disk is None or len(self._under_way[DISK]) >= self.limits.max_writes:
            self.host.unpin(place)
            return self._end_at_once(block, HOST, DISK)
        transfer = self._enqueue(block, HOST, DISK, place, None, place.pages.size_bytes)
        return self._workers[DISK].submit(lambda: self._run(transfer, self._write))

    def _start_read(self, block: BlockMeta) -> None:
        if block.id in self.host:
            return self._end_at_once(block, DISK, HOST, ok=True)
        if (
            self.disk is None
            or self._reader_is_stuck()
            or len(self._under_way[HOST]) >= self.limits.max_reads
        ):
            return self._end_at_once(block, DISK, HOST)
        entry = self.disk.pin(block.id)
        if entry is None:
            return self._end_at_once(block, DISK, HOST, gone=True)
        place = self.host.reserve(entry.payload_bytes, block.size_bytes)
        if place is None:
            self.disk.unpin(entry)
            return self._end_at_once(block, DISK, HOST)
        transfer = self._enqueue(block, DISK, HOST, place, entry, entry.payload_bytes)
        return self._workers[HOST].submit(lambda: self._run(transfer, self._read))

    def _end_at_once(
        self, block: BlockMeta, source: KvTier, target: KvTier, *, ok: bool = False, gone: bool = False
    ) -> None:
        """The transfer ends where it began; no thread will say so."""
        self._moved.append(Moved(block.id, source, target, ok, block.size_bytes, 0, gone))
        self._notify()

    def _reader_is_stuck(self) -> bool:
        """While a read past its deadline still blocks the thread, the next ones can only time out."""
        return any(transfer.reported for transfer in self._under_way[HOST])

    def _enqueue(
        self,
        block: BlockMeta,
        source: KvTier,
        target: KvTier,
        place: HostPlace,
        entry: NodeEntry | None,
        size_bytes: int,
    ) -> _Transfer:
        ahead = self._under_way[target]
        wait_s = self.limits.read_deadline_s if target is HOST else self.limits.write_deadline_s
        wait_s += (size_bytes + sum(t.size_bytes for t in ahead)) / self.limits.slowest_bytes_per_s
        now_s = self._clock()
        transfer = _Transfer(block, source, target, place, entry, size_bytes, now_s, now_s + wait_s)
        ahead.append(transfer)
        self._alarm.set(wait_s)
        return transfer

    # --- in the threads -----------------------------------------------------------------------

    def _run(self, transfer: _Transfer, carry_out: Callable[[_Transfer], None]) -> None:
        if not transfer.unwanted:
            started_s = time.perf_counter()
            try:
                carry_out(transfer)
            except Exception:  # a defect here must not end the thread and hang the queue
                log.exception("a transfer of a KV block failed unexpectedly")
            transfer.duration_us = max(1, round((time.perf_counter() - started_s) * 1e6))
        self._ended.append(transfer)
        self._notify()

    def _write(self, transfer: _Transfer) -> None:
        assert self.disk is not None
        if not self._write_backoff.ready():
            return
        try:
            transfer.sequence = self.disk.write(transfer.block, transfer.place.pages)
            transfer.ok = True
            self._write_backoff.worked()
        except StoreFull as error:  # the planner's business, not the disk's: no pause
            log.debug("%s", error)
        except OSError as error:
            self._write_backoff.failed(_kind(error))

    def _read(self, transfer: _Transfer) -> None:
        assert self.disk is not None
        assert transfer.entry is not None
        try:
            self.disk.read(transfer.entry, transfer.block, transfer.place.pages)
            transfer.ok = True
            self._read_backoff.worked()
        except Damaged as error:
            transfer.gone = True
            self._say_damaged(error)
        except OSError as error:
            transfer.gone = transfer.entry.forgotten
            self._read_backoff.failed(_kind(error))

    def _say_damaged(self, error: Damaged) -> None:
        """Once: one record has rotted, or a thousand; the sentence is the same."""
        if not self._damaged:
            log.warning(
                "the disk store holds a damaged record (%s); such blocks are computed again, "
                "'stepwell disk verify' counts them",
                error,
            )
        self._damaged += 1

    def _reap(self) -> None:
        assert self.disk is not None
        try:
            self.disk.reap()
        except Exception:  # as above
            log.exception("removing dropped KV blocks failed unexpectedly")

    def _notify(self) -> None:
        self._callback()

    # --- ending -------------------------------------------------------------------------------

    def _settle(self, transfer: _Transfer) -> None:
        """A thread is done with a transfer: free what is not wanted, make the rest visible."""
        self._under_way[transfer.target].remove(transfer)
        if transfer.target is DISK:
            self._settle_write(transfer)
        else:
            self._settle_read(transfer)
        if not transfer.reported:
            self._report(transfer, transfer.ok and not transfer.cancelled, transfer.duration_us)

    def _settle_write(self, transfer: _Transfer) -> None:
        assert self.disk is not None
        self.host.unpin(transfer.place)
        if transfer.ok and transfer.unwanted:
            self.disk.forget(transfer.block.id, transfer.sequence)
            self._submit_reap()

    def _settle_read(self, transfer: _Transfer) -> None:
        assert self.disk is not None
        assert transfer.entry is not None
        self.disk.unpin(transfer.entry)
        if transfer.entry.forgotten:
            self._submit_reap()
        if transfer.ok and not transfer.unwanted and transfer.block.id not in self.host:
            self.host.adopt(transfer.block.id, transfer.place)
        else:
            self.host.release(transfer.place)

    def _submit_reap(self) -> None:
        if not self._closed:  # the store's own close reaps
            self._workers[DISK].submit(self._reap)

    def _expire(self) -> None:
        """Give up what is past its deadline; its memory stays taken until the thread lets go of it."""
        now_s = self._clock()
        earliest_s: float | None = None
        for transfer in (*self._under_way[HOST], *self._under_way[DISK]):
            if transfer.reported:
                continue
            if now_s < transfer.deadline_s:
                earliest_s = min(transfer.deadline_s, earliest_s or transfer.deadline_s)
                continue
            transfer.reported = True
            self._say_late(transfer)
            self._report(transfer, False, round((now_s - transfer.queued_s) * 1e6))
        if earliest_s is not None:
            self._alarm.set(earliest_s - now_s)

    def _say_late(self, transfer: _Transfer) -> None:
        backoff = self._read_backoff if transfer.target is HOST else self._write_backoff
        backoff.failed("the disk does not answer in time")

    def _report(self, transfer: _Transfer, ok: bool, duration_us: int) -> None:
        block, size_bytes = transfer.block.id, transfer.size_bytes
        self._moved.append(
            Moved(block, transfer.source, transfer.target, ok, size_bytes, duration_us, transfer.gone)
        )


def open_tiers(
    host_limit_bytes: int,
    disk_limit_bytes: int,
    directory: Path | None,
    fingerprint: str,
    *,
    limits: TransferLimits | None = None,
) -> LocalTiers:
    """The tiers of a server. No directory, or a disk limit of 0: there is no disk.

    Raises ``DiskBusy`` or ``NotAStore``, each one sentence.
    """
    if directory is None or disk_limit_bytes == 0:
        return LocalTiers(host_limit_bytes, None, limits=limits)
    return LocalTiers(host_limit_bytes, DiskStore(directory, disk_limit_bytes, fingerprint), limits=limits)


def open_shared_tiers(
    host_limit_bytes: int,
    disk_limit_bytes: int,
    directory: Path | None,
    fingerprints: Sequence[str],
    *,
    limits: TransferLimits | None = None,
) -> list[LocalTiers]:
    """The tiers of a server of several models, one for each: one host pool, and one directory of one bound,
    in which each begins with what was found of it and an even part of the rest. The first is closed last.

    Raises ``DiskBusy`` or ``NotAStore``, each one sentence.
    """
    host = HostPool(host_limit_bytes)
    if directory is None or disk_limit_bytes == 0:
        return [LocalTiers(0, None, limits=limits, host=host) for _ in fingerprints]
    parts = _first_parts(directory, disk_limit_bytes, fingerprints)
    stores: list[DiskStore] = []
    try:
        for fingerprint, part in zip(fingerprints, parts, strict=True):
            first = stores[0] if stores else None
            beside = () if first else fingerprints[1:]
            stores.append(DiskStore(directory, part, fingerprint, beside=beside, first=first))
    except BaseException:
        for store in reversed(stores):
            store.close()
        raise
    return [LocalTiers(0, store, limits=limits, host=host) for store in stores]


def _first_parts(directory: Path, limit_bytes: int, fingerprints: Sequence[str]) -> list[int]:
    """A restart takes nothing from a model of which more was kept than an even part."""
    found = [0] * len(fingerprints)
    if directory.exists():
        with contextlib.suppress(NotAStore):  # which opening it will say
            home = StoreDirectory(directory, Files(), create=False, lock=False)
            found = [home.model_bytes(model_directory(one)) for one in fingerprints]
            home.close()
    free = limit_bytes - sum(found)
    if free >= 0:
        return [have + free // len(found) for have in found]
    return [limit_bytes * have // sum(found) for have in found]


def _kind(error: OSError) -> str:
    return os.strerror(error.errno) if error.errno is not None else type(error).__name__


def _nothing() -> None:
    """Until a listener is given."""


__all__ = ["LocalTiers", "TransferLimits", "open_shared_tiers", "open_tiers"]
