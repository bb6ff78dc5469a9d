"""``SharedStore``: KV records in one directory, written and read by several processes, bounded in bytes.

    write   counted in the index -> temporary file -> renamed -> published
    read    straight from the file, verified; a record that has gone or is damaged is a miss
    evict   the coldest record's file is removed while the index is held, then its count

Killed anywhere, a process leaves at most records that are counted and not published and temporary files;
the next process that looks removes both. Records are never changed in place, so a reader needs no lock.
"""

from __future__ import annotations

import fcntl
import logging
import os
import re
import sqlite3
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.errors import BadInput
from stepwell.policy.types import BlockId, BlockMeta
from stepwell.tiers.directory import RecordName, StoreDirectory, model_directory, parse_record_name
from stepwell.tiers.files import FileInfo, Files, aligned_buffer
from stepwell.tiers.pages import Pages
from stepwell.tiers.record import PAGE_BYTES, Damaged, decode, encode, make_header, padded, verify_payload
from stepwell.tiers.scan import read_header, remove_file, require_named
from stepwell.tiers.shared.index import Changes, Record, SharedIndex, WantedRecord
from stepwell.tiers.shared.participants import Participants

log = logging.getLogger(__name__)

SMALLEST_LIMIT_BYTES = 4 << 20
_INDEX_GROWTH_BYTES = 2 << 20
"""Kept free for the index's log and the directory to grow into between two looks at their size."""
_LONGEST_TEXT_BYTES = 256
_TEMPORARY = re.compile(r"(.+)\.([0-9a-f]{12})\.tmp")


@dataclass(frozen=True, slots=True)
class Bounds:
    """Most bytes on disk: of the whole directory, and of each tenant's records in it."""

    limit_bytes: int
    tenant_limit_bytes: int | None = None
    """Of a tenant that ``tenants`` does not name; None: whatever fits."""
    tenants: Mapping[str, int] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.limit_bytes < SMALLEST_LIMIT_BYTES:
            raise BadInput(f"a shared disk store needs at least {SMALLEST_LIMIT_BYTES >> 20} MiB")

    def of(self, tenant: str) -> int:
        limit = self.tenants.get(tenant, self.tenant_limit_bytes)
        return self.limit_bytes if limit is None else limit


@dataclass(frozen=True, slots=True)
class ToWrite:
    """One block to write. ``used_us`` orders evictions: the smallest goes first."""

    key: BlockId
    tenant: str
    pages: Pages
    used_us: int
    meta: BlockMeta | None = None
    """What else is known of it, which its header says then."""


@dataclass(slots=True)
class Written:
    """What became of the blocks of one ``write``, and what had to go for them."""

    kept: list[BlockId] = field(default_factory=list)
    """On disk now, or there already."""
    refused: list[BlockId] = field(default_factory=list)
    """No room within the bounds."""
    failed: list[BlockId] = field(default_factory=list)
    evicted: int = 0
    written_bytes: int = 0
    error: OSError | None = None
    """The first one, of those that failed."""


class SharedStore:
    """Records of one model in a directory that other processes, and other models, use as well.

    Calls may come from any thread and block on the disk. ``NotAStore`` when the directory cannot be used,
    ``DiskBusy`` when a ``DiskStore`` has it for itself, ``OSError`` and ``sqlite3.Error`` for the disk.
    """

    def __init__(
        self,
        directory: Path,
        bounds: Bounds,
        fingerprint: str,
        *,
        files: Files | None = None,
        clock_us: Callable[[], int] = lambda: time.time_ns() // 1000,
    ) -> None:
        require_short(fingerprint, "a model's fingerprint")
        self.bounds = bounds
        self.fingerprint = fingerprint
        self.model = model_directory(fingerprint)
        self.files = files or Files()
        self.clock_us = clock_us
        self._fds: dict[str, int] = {}
        self._participants: Participants | None = None
        self._closed = False
        self._home = StoreDirectory(directory, self.files, shared=True)
        try:
            self._home.write_marker(bounds.limit_bytes)
            self._own = self._directory(self.model)
            self.files.probe(self._own)
            self._participants = Participants(self.files, self._home.fd)
            self._me = self._participants.me
            self._index = SharedIndex(directory, self._me)
            self._start(self._participants)
        except BaseException:
            self.close()
            raise

    # --- start, and after others' deaths ------------------------------------------------------

    def _start(self, participants: Participants) -> None:
        lock = os.open("index.lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600, dir_fd=self._home.fd)
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)  # one process at a time makes an index or judges the dead
            if not self._index.open():
                self._rebuild()
            living = participants.bury_dead(self._take_over)
            if not living:
                self._index.clear_old()
                self._remove_leftovers()
            self._fit()
        finally:
            os.close(lock)

    def bury_dead(self) -> int:
        """Take over what killed processes had begun, so that its room is free again; call it now and then.

        Returns how many other processes use the directory.
        """
        assert self._participants is not None
        return self._participants.bury_dead(self._take_over)

    def _take_over(self, writer: int) -> None:
        with self._index.transaction() as connection:
            for record in self._index.begun_by(connection, writer):
                directory = self._directory(record.model)
                remove_file(self.files, _temporary(record, writer), directory)
                if self._unlink(record):
                    self._index.remove(connection, record)
                else:
                    self._index.set_aside(connection, record)

    def _rebuild(self) -> None:
        """The index anew from the records. What processes that live are writing is counted as theirs."""
        self._index.create()
        with self._index.transaction() as connection:
            for model in self._home.models():
                directory = self._directory(model)
                for info in sorted(self.files.list(directory), key=lambda i: i.name):
                    self._take_in(connection, model, info)

    def _take_in(self, connection: sqlite3.Connection, model: str, info: FileInfo) -> None:
        begun = _TEMPORARY.fullmatch(info.name)
        name = parse_record_name(begun[1] if begun else info.name)
        if name is None or not info.is_file:
            return None
        if begun:
            record = Record(name.sequence, model, name.id, padded(info.size_bytes))
            return self._index.adopt(connection, record, "", 0, int(begun[2], 16))
        directory = self._directory(model)
        try:
            header, header_bytes = read_header(self.files, info.name, directory)
            require_named(header, name, self.fingerprint if model == self.model else header.fingerprint)
            if info.size_bytes != header_bytes + padded(header.payload_bytes):
                raise Damaged("the record is cut short")
        except (OSError, Damaged) as error:
            log.info("disk store: record %s removed: %s", info.name, error)
            remove_file(self.files, info.name, directory)
            return None
        record = Record(name.sequence, model, name.id, info.size_bytes)
        return self._index.adopt(connection, record, header.tenant, round(info.modified_s * 1e6))

    def _remove_leftovers(self) -> None:
        """No other process is here: a file that the index does not count is a leftover, and a record that it
        counts without a file is forgotten."""
        counted = {(r.model, _name(r)): r for r in self._index.everything()}
        with self._index.transaction() as connection:
            for model in self._home.models():
                directory = self._directory(model)
                names = {info.name for info in self.files.list(directory) if info.is_file}
                for name in sorted(names):
                    ours = parse_record_name(name) is not None or name.endswith(".tmp")
                    if ours and (model, name) not in counted:
                        remove_file(self.files, name, directory)
                for (there, name), record in counted.items():
                    if there == model and name not in names:
                        self._index.remove(connection, record)

    def _fit(self) -> None:
        """The bounds may be lower than last time."""
        with self._index.transaction() as connection:
            _, evicted = self._make_room(connection, 0, self._most_bytes())
            for tenant in sorted(self._index.usage()):
                evicted += self._make_room(connection, 0, self.bounds.of(tenant), tenant)[1]
        if evicted:
            log.info("disk store %s: %d records removed to keep the bound", self._home.path, evicted)

    # --- what is there ------------------------------------------------------------------------

    def changes(self) -> Changes:
        """What has come and gone since the last call, by any process."""
        return self._index.changes(self.model)

    def usage(self) -> dict[str, tuple[int, int]]:
        """Bytes and blocks of each tenant, over all models."""
        return self._index.usage()

    def overhead_bytes(self) -> int:
        """What the directory takes besides records: the index and the directories themselves."""
        directories = (self._home.fd, *list(self._fds.values()))
        return self._index.size_bytes() + sum(self.files.size_of_directory(fd) for fd in directories)

    # --- writing ------------------------------------------------------------------------------

    def write(self, blocks: Sequence[ToWrite]) -> Written:
        """Put blocks on disk. One that another process has put there, or is about to, is not written."""
        result = Written()
        for block in blocks:
            require_short(block.tenant, "a tenant's name")
        begun: list[tuple[ToWrite, Record]] = []
        limit_bytes = self._most_bytes()
        with self._index.transaction() as connection:
            self._index.touch(connection, self.model, [(b.key, b.used_us) for b in blocks])
            there = {b.key for b in blocks if self._index.holds(connection, self.model, b.key)}
            for block in blocks:
                if block.key in there:
                    continue
                file_bytes = PAGE_BYTES + padded(block.pages.size_bytes)
                wanted = WantedRecord(block.key, block.tenant, file_bytes, block.used_us)
                if self._admit(connection, wanted, limit_bytes, result):
                    begun.append((block, self._index.begin(connection, self.model, wanted)))
                else:
                    result.refused.append(block.key)
            for key in there:  # some may have had to go for the others
                still = self._index.holds(connection, self.model, key)
                (result.kept if still else result.refused).append(key)
        done = [(record, self._write_file(block, record, result)) for block, record in begun]
        self._publish(done, result)
        return result

    def _admit(
        self, connection: sqlite3.Connection, wanted: WantedRecord, limit_bytes: int, result: Written
    ) -> bool:
        for tenant, most_bytes in ((wanted.tenant, self.bounds.of(wanted.tenant)), (None, limit_bytes)):
            fits, evicted = self._make_room(connection, wanted.file_bytes, most_bytes, tenant)
            result.evicted += evicted
            if not fits:
                return False
        return True

    def _most_bytes(self) -> int:
        """Room for records: the bound without what the index takes and may grow by."""
        return self.bounds.limit_bytes - self.overhead_bytes() - _INDEX_GROWTH_BYTES

    def _make_room(
        self, connection: sqlite3.Connection, file_bytes: int, most_bytes: int, tenant: str | None = None
    ) -> tuple[bool, int]:
        """Remove the coldest records until ``file_bytes`` fit, of one tenant or of all.

        Returns whether they do and how many records went. For what could not fit anyway nothing is removed.
        """
        evicted = 0
        used_bytes = self._index.used_bytes(connection, tenant)
        while file_bytes <= most_bytes < used_bytes + file_bytes:
            victim = self._index.coldest(connection, tenant)
            if victim is None:
                break
            if self._unlink(victim):
                self._index.remove(connection, victim)
                used_bytes -= victim.file_bytes
                evicted += 1
            else:
                self._index.set_aside(connection, victim)
        return used_bytes + file_bytes <= most_bytes, evicted

    def _write_file(self, block: ToWrite, record: Record, result: Written) -> bool:
        head = encode(make_header(block_meta(block), block.pages.payload, self.fingerprint, record.number))
        temporary, directory = _temporary(record, self._me), self._own
        try:
            self.files.write_new(temporary, directory, [Pages.of(head).whole, block.pages.whole])
            self.files.rename(temporary, _name(record), directory)
        except OSError as error:
            result.error = result.error or error
            remove_file(self.files, temporary, directory)
            return False
        result.written_bytes += record.file_bytes
        return True

    def _publish(self, done: Iterable[tuple[Record, bool]], result: Written) -> None:
        with self._index.transaction() as connection:
            for record, written in done:
                if written and self._index.publish(connection, record):
                    result.kept.append(record.key)
                    continue
                result.failed.append(record.key)
                if self._unlink(record):
                    self._index.remove(connection, record)
                else:
                    self._index.set_aside(connection, record)

    # --- reading and dropping -----------------------------------------------------------------

    def read(self, record: Record, pages: Pages) -> None:
        """The bytes of a record, verified, into ``pages``, which has just the size that was written.

        ``Damaged``: they are not what was written; ``FileNotFoundError``: it has been evicted. After both the
        record is forgotten. Other ``OSError``: the disk. What is in ``pages`` is undefined then.
        """
        header_bytes = record.file_bytes - padded(pages.size_bytes)
        try:
            if header_bytes <= 0:
                raise Damaged("the record is shorter than the block")
            head = aligned_buffer(header_bytes)
            count = self.files.read_into(_name(record), self._own, [head, pages.whole])
            if count != record.file_bytes:
                raise Damaged("the record is cut short")
            header = decode(memoryview(head))
            require_named(header, RecordName(record.key, record.number), self.fingerprint)
            verify_payload(header, pages.payload)
        except (Damaged, FileNotFoundError):
            self.forget(record)
            raise

    def forget(self, record: Record) -> None:
        """Remove one record and its file."""
        with self._index.transaction() as connection:
            if self._unlink(record):
                self._index.remove(connection, record)
            else:
                self._index.set_aside(connection, record)

    def touch(self, used: Sequence[tuple[BlockId, int]]) -> None:
        """These blocks were used at that time (in microseconds)."""
        with self._index.transaction() as connection:
            self._index.touch(connection, self.model, used)

    def _unlink(self, record: Record) -> bool:
        return remove_file(self.files, _name(record), self._directory(record.model))

    def _directory(self, model: str) -> int:
        if model not in self._fds:
            self._fds[model] = self._home.open_model(model, create=True)
        return self._fds[model]

    # --- end ----------------------------------------------------------------------------------

    def check(self) -> None:
        """Assert that the index adds up, that the bounds hold and that no file is uncounted.

        Only while no other process writes. A record without a file is no fault: its evictor was killed
        before it could say so.
        """
        records, usage = self._index.everything(), self._index.usage()
        assert sum(r.file_bytes for r in records) == sum(bytes_ for bytes_, _ in usage.values())
        assert len(records) == sum(blocks for _, blocks in usage.values())
        for tenant, (bytes_, _) in usage.items():
            assert bytes_ <= self.bounds.of(tenant), f"tenant {tenant!r} is over its bound"
        on_disk = 0
        for model in self._home.models():
            on_disk += sum(padded(i.size_bytes) for i in self.files.list(self._directory(model)) if i.is_file)
        assert on_disk <= sum(r.file_bytes for r in records), "files that the index does not count"
        assert on_disk + self.overhead_bytes() <= self.bounds.limit_bytes, "the store is over its bound"

    def close(self) -> None:
        """Leave the directory to the others. A second call does nothing."""
        if self._closed:
            return
        self._closed = True
        if self._participants is not None:
            self._index.close()
            self._participants.close()
        for fd in self._fds.values():
            self.files.close(fd)
        self._home.close()


def require_short(text: str, what: str) -> None:
    """``BadInput`` when a header with this text in it might need more than one page."""
    if len(text.encode()) > _LONGEST_TEXT_BYTES:
        raise BadInput(f"{what} for the disk store must be at most {_LONGEST_TEXT_BYTES} bytes long")


def _name(record: Record) -> str:
    return str(RecordName(record.key, record.number))


def _temporary(record: Record, writer: int) -> str:
    return f"{_name(record)}.{writer:012x}.tmp"


def block_meta(block: ToWrite) -> BlockMeta:
    """What a record's header says of it: mostly a shared store's blocks know no chain, only names."""
    if block.meta is not None:
        return block.meta
    size_bytes = block.pages.size_bytes
    return BlockMeta(block.key, None, 0, 0, (), block.tenant, size_bytes)
