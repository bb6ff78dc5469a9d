"""The disk store: KV blocks as files, bounded in bytes, safe against kill -9, warm after a restart.

One file per block, written under a temporary name and renamed, so that after a kill a record is
either whole or not there; what a power cut tears or mixes up is found by its checksums and is a
miss. The file of a dropped block is kept as a spare and written over, because fresh space is slow.
There is no index file: a restart reads the header of every record (about 50 us each) and the payload
is verified when it is read. Why not slabs or a log: docs/adr/0003-disk-layout.md.

A block that was dropped shortly before a crash may be back after it. It is still right: its name is
the hash of the tokens it holds, so the worst case is room used for something that is not wanted.
"""

from __future__ import annotations

import errno
import logging
import threading
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from stepwell.policy.types import BlockId, BlockMeta
from stepwell.tiers.directory import (
    NotAStore,
    RecordName,
    StoreDirectory,
    model_directory,
    tree_bytes,
)
from stepwell.tiers.files import Files, aligned_buffer
from stepwell.tiers.pages import Pages
from stepwell.tiers.record import (
    PAGE_BYTES,
    Damaged,
    RecordHeader,
    decode,
    encode,
    make_header,
    verify_payload,
)
from stepwell.tiers.scan import (
    Foreign,
    Scan,
    ScanEntry,
    coldest_first,
    remove_file,
    require_named,
    scan_store,
)
from stepwell.tiers.spares import Spares

log = logging.getLogger(__name__)

DIRECTORY_ENTRY_BYTES = 128
"""What a file's name takes in its directory, rounded up from ext4's 64 and btrfs's 104."""

RECORD_OVERHEAD_BYTES = PAGE_BYTES + (PAGE_BYTES - 1) + DIRECTORY_ENTRY_BYTES
"""Most bytes a record takes beyond its payload: header, padding, name."""

_SPARE_SHARE = 16
"""Spare files take at most this part of the bound; beyond that, space goes back to the system."""

_REMOVED_AT_ONCE = 64
"""Files that a smaller bound removes in one call, which the loop waits for."""

_DIRECTORY_GROWTH_BYTES = 2 * PAGE_BYTES
"""How much a directory may grow with one new name: a page, or two when an index page splits."""


class StoreFull(OSError):
    """The record does not fit within the store's own bound."""

    def __init__(self, needed_bytes: int) -> None:
        super().__init__(errno.EDQUOT, f"the disk store's bound leaves no room for {needed_bytes} bytes")


@dataclass(slots=True)
class StoreUsage:
    """``used_bytes`` counts live records with their overhead; ``limit_bytes`` is what they may take."""

    used_bytes: int
    limit_bytes: int
    blocks: int


class DiskStore:
    """Blocks on disk under one directory that is never larger than ``limit_bytes``.

    Calls may come from three threads: one that decides (``pin``, ``unpin``, ``forget``, ``usage``), one
    that writes (``write``, ``reap``) and one that reads (``read``). The lock is never held during I/O.

    Raises ``DiskBusy`` when another process uses the directory, ``NotAStore`` when it cannot be one.
    """

    def __init__(
        self,
        directory: Path,
        limit_bytes: int,
        fingerprint: str,
        *,
        files: Files | None = None,
        beside: Sequence[str] = (),
        first: DiskStore | None = None,
    ) -> None:
        """Several models of one server have a store each in the same directory, with a bound each. ``first``:
        the one that holds the lock, closed last, which alone looks after whatever else lies there;
        ``beside``: the fingerprints of the others, told to the first."""
        self.limit_bytes = limit_bytes
        self.fingerprint = fingerprint
        self.files = files or Files()
        self._lock = threading.Lock()
        self._graveyard: deque[ScanEntry] = deque()
        self._live_bytes = 0
        self._records_bytes = 0
        """Of all our files: live, being written, forgotten, spare, undeletable."""
        self._spares = Spares(limit_bytes // _SPARE_SHARE)
        self._foreign_bytes = 0
        self._closed = False
        self._last_directory_bytes = 0
        self._first = first
        self._beside = [model_directory(other) for other in beside]
        self._home: StoreDirectory = StoreDirectory(directory, self.files) if first is None else first._home
        self._fd: int = -1
        try:
            self._model = model_directory(fingerprint)
            self._prepare()
            others = self._home.models() if first is not None else self._beside
            self._take_in(scan_store(self._home, self._model, self._fd, fingerprint, others))
        except BaseException:
            if first is None:
                self._home.close()
            raise

    # --- start --------------------------------------------------------------------------------

    def _prepare(self) -> None:
        try:
            if self._first is None:
                self._home.write_marker(self.limit_bytes)
        except OSError as error:
            log.warning("disk store %s: cannot write to it (%s)", self._home.path, error.strerror)
        try:
            self._fd = self._home.open_model(self._model, create=True)
        except OSError as error:
            raise NotAStore(f"disk directory {self._home.path} cannot be used: {error.strerror}") from error
        self.files.probe(self._fd)

    def _take_in(self, scan: Scan) -> None:
        self.found, self._entries = scan.found, scan.entries
        self._foreign = deque(scan.foreign)
        self._next_sequence = scan.next_sequence
        self._live_bytes = self._records_bytes = sum(entry.file_bytes for entry in self._entries.values())
        self._foreign_bytes = sum(other.file_bytes for other in self._foreign)
        # Whatever else lies here (lock, marker, directories, a person's notes) counts as well; our
        # own directory's size is asked for whenever it matters, because it grows with every name.
        known = self._records_bytes + self._foreign_bytes + self._directory_bytes()
        self._base_bytes = 0
        if self._first is None:
            served = sum(self._home.model_bytes(other) for other in self._beside)
            self._base_bytes = tree_bytes(self.files, self._home.fd) - known - served
        self._shrink()
        self.found.records = len(self._entries)
        self._warn_of_a_small_disk()

    def _warn_of_a_small_disk(self) -> None:
        missing = self._free_bytes() - self.files.free_bytes(self._fd)
        if missing > 0:
            log.warning(
                "disk store %s: the file system has %d bytes less than the bound promises; "
                "writes will fail when it is full",
                self._home.path,
                missing,
            )

    def _shrink(self) -> None:
        """The bound may be smaller than last time: others' records go first, then our coldest."""
        while self._foreign and self._free_bytes() < 0:
            self._remove_foreign(self._foreign.popleft())
            self.found.removed_for_room += 1
        for entry in coldest_first(self._entries.values()):
            if self._free_bytes() >= 0:
                return
            self._live_bytes -= entry.file_bytes
            del self._entries[entry.meta.id]
            self._remove_counted(entry.name, entry.file_bytes)
            self.found.removed_for_room += 1

    # --- what is there ------------------------------------------------------------------------

    def recovered(self) -> list[BlockMeta]:
        """Every block, parents before children. A parent may be missing: it was in a faster KV tier."""
        return sorted((e.meta for e in self._entries.values()), key=lambda meta: (meta.depth, meta.id))

    def __contains__(self, block: BlockId) -> bool:
        return block in self._entries

    def usage(self) -> StoreUsage:
        """Live records, and what they may take in all.

        The limit told is a little lower than the one kept (1/256 for the directory's own growth), so
        that a plan made with it is not refused at the last block.
        """
        with self._lock:
            may_take = self.limit_bytes - self.limit_bytes // 256 - self._base_bytes - self._directory_bytes()
            used = self._live_bytes + DIRECTORY_ENTRY_BYTES * len(self._entries)
            return StoreUsage(used, max(0, may_take), len(self._entries))

    def _directory_bytes(self) -> int:
        if not self._closed:  # afterwards the last answer stands
            self._last_directory_bytes = self.files.size_of_directory(self._fd)
        return self._last_directory_bytes

    def _free_bytes(self) -> int:
        used = self._records_bytes + self._foreign_bytes + self._directory_bytes()
        return self.limit_bytes - self._base_bytes - used

    # --- writing ------------------------------------------------------------------------------

    def write(self, block: BlockMeta, pages: Pages) -> int:
        """Put a block on disk; returns the record's sequence number. Replaces an older record.

        ``OSError``: it is not there (``StoreFull``: the bound; others: the disk), nothing else changed.
        """
        with self._lock:
            sequence = self._next_sequence
            self._next_sequence += 1
        head = encode(make_header(block, pages.payload, self.fingerprint, sequence))
        entry = ScanEntry(block, sequence, pages.size_bytes, len(head))
        self._write_file(entry, [Pages.of(head).whole, pages.whole])
        with self._lock:
            older = self._entries.get(block.id)
            if older is not None:
                self._bury(older)
            self._entries[block.id] = entry
            self._live_bytes += entry.file_bytes
        self.reap()
        return sequence

    def _write_file(self, entry: ScanEntry, buffers: list[memoryview]) -> None:
        """Over a spare file of the same size if there is one; else into fresh space."""
        with self._lock:
            temporary = self._spares.take(entry.file_bytes)
        try:
            if temporary is not None:
                self.files.overwrite(temporary, self._fd, buffers)
            else:
                self._reserve(entry.file_bytes)
                temporary = entry.name + ".tmp"
                self.files.write_new(temporary, self._fd, buffers)
            self.files.rename(temporary, entry.name, self._fd)
        except OSError:
            if temporary is not None:  # None: nothing was reserved
                self._remove_counted(temporary, entry.file_bytes)
            raise

    def _reserve(self, file_bytes: int) -> None:
        """Count the bytes before they exist, so that the bound holds at every moment.

        Spare files make room first, then the records of other models, oldest first.
        """
        needed = file_bytes + _DIRECTORY_GROWTH_BYTES
        while True:
            with self._lock:
                free = self._free_bytes()
                if free >= needed:
                    self._records_bytes += file_bytes
                    return
                if free + self._spares.bytes + self._foreign_bytes < needed:
                    raise StoreFull(file_bytes)
                dispensable = self._take_dispensable()
            if dispensable is None:
                raise StoreFull(file_bytes)
            self._remove_dispensable(dispensable)

    def _take_dispensable(self) -> tuple[str, int] | Foreign | None:
        """Under the lock: what goes first for room, and is removed by no other thread from now on."""
        spare = self._spares.give_up()
        return self._foreign.popleft() if spare is None and self._foreign else spare

    def _remove_dispensable(self, one: tuple[str, int] | Foreign) -> None:
        if isinstance(one, Foreign):
            self._remove_foreign(one)
        else:
            self._remove_counted(*one)

    def _remove_counted(self, name: str, file_bytes: int) -> None:
        """Remove one of our files. If that fails, its bytes stay counted: they are still there."""
        if remove_file(self.files, name, self._fd):
            with self._lock:
                self._records_bytes -= file_bytes

    def _remove_foreign(self, other: Foreign) -> None:
        """Another model's record. If it cannot be removed its bytes stay counted."""
        try:
            fd = self._home.open_model(other.model)
        except OSError:
            return
        try:
            removed = remove_file(self.files, other.info.name, fd)
        finally:
            self.files.close(fd)
        if removed:
            with self._lock:
                self._foreign_bytes -= other.file_bytes

    # --- reading ------------------------------------------------------------------------------

    def pin(self, block: BlockId) -> ScanEntry | None:
        """Keep the record's file until ``unpin``, even if the block is forgotten meanwhile."""
        with self._lock:
            entry = self._entries.get(block)
            if entry is not None:
                entry.pins += 1
            return entry

    def unpin(self, entry: ScanEntry) -> None:
        with self._lock:
            entry.pins -= 1

    def read(self, entry: ScanEntry, block: BlockMeta, pages: Pages) -> None:
        """The bytes of ``block``, verified, into ``pages`` (of ``entry.payload_bytes``).

        ``Damaged``: they are not what was written, and the record is forgotten. ``OSError``: the disk.
        After either, what is in ``pages`` is undefined.
        """
        head = aligned_buffer(entry.header_bytes)
        try:
            count = self.files.read_into(entry.name, self._fd, [head, pages.whole])
            if count != entry.file_bytes:
                raise Damaged("the record is cut short")
            header = decode(memoryview(head))
            self._require_same(entry, block, header)
            verify_payload(header, pages.payload)
        except Damaged:
            self.forget(entry.meta.id, entry.sequence)
            raise
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.EIO, errno.ELOOP):
                self.forget(entry.meta.id, entry.sequence)
            raise

    def _require_same(self, entry: ScanEntry, block: BlockMeta, header: RecordHeader) -> None:
        require_named(header, RecordName(block.id, entry.sequence), self.fingerprint)
        if header.meta() != block or header.payload_bytes != entry.payload_bytes:
            raise Damaged("the header does not describe this block")

    # --- dropping -----------------------------------------------------------------------------

    def forget(self, block: BlockId, sequence: int | None = None) -> None:
        """The block is not offered any more, at once; ``reap`` removes its file.

        With ``sequence``: only if it is still that record.
        """
        with self._lock:
            entry = self._entries.get(block)
            if entry is not None and sequence in (None, entry.sequence):
                del self._entries[block]
                self._bury(entry)

    def _bury(self, entry: ScanEntry) -> None:
        self._live_bytes -= entry.file_bytes
        entry.forgotten = True
        self._graveyard.append(entry)

    def reap(self) -> None:
        """Make spares of the files of forgotten blocks that are not being read. From the writing thread."""
        with self._lock:
            ready = [entry for entry in self._graveyard if not entry.pins]
            self._graveyard = deque(entry for entry in self._graveyard if entry.pins)
        for entry in ready:
            self._retire(entry)

    def _retire(self, entry: ScanEntry) -> None:
        if self._spares.bytes + entry.file_bytes > self._spares.most_bytes:
            return self._remove_counted(entry.name, entry.file_bytes)
        spare = f"spare-{entry.sequence:016x}.tmp"  # what a crash leaves of it is cleared like any .tmp
        try:
            self.files.rename(entry.name, spare, self._fd)
        except OSError:
            return self._remove_counted(entry.name, entry.file_bytes)
        with self._lock:
            return self._spares.add(spare, entry.file_bytes)

    # --- end ----------------------------------------------------------------------------------

    def resize(self, limit_bytes: int) -> int:
        """Another bound, or one as near to it as what lies here allows; returns it. Spare files and the
        records of models that are not served leave for it."""
        for _ in range(_REMOVED_AT_ONCE):
            with self._lock:
                over = self.limit_bytes - limit_bytes - self._free_bytes()
                dispensable = self._take_dispensable() if over > 0 else None
            if dispensable is None:
                break
            self._remove_dispensable(dispensable)
        with self._lock:
            over = self.limit_bytes - limit_bytes - self._free_bytes()
            self.limit_bytes = limit_bytes + max(0, over)
            self._spares.most_bytes = self.limit_bytes // _SPARE_SHARE
            return self.limit_bytes

    def check(self) -> None:
        """Assert that the book adds up and the bound holds. Touches no file."""
        with self._lock:
            assert self._live_bytes == sum(entry.file_bytes for entry in self._entries.values())
            assert self._live_bytes + self._spares.bytes <= self._records_bytes
            assert self._foreign_bytes >= sum(other.file_bytes for other in self._foreign)
            assert self._free_bytes() >= 0 or not self._records_bytes, "the disk store is over its bound"
            assert all(not entry.forgotten for entry in self._entries.values())
            assert all(entry.pins >= 0 for entry in self._entries.values())

    def close(self) -> None:
        """Remove what was forgotten and give the lock back. A second call does nothing."""
        if self._closed:
            return
        self.reap()
        while (spare := self._spares.give_up()) is not None:
            self._remove_counted(*spare)
        self._directory_bytes()
        self._closed = True
        self.files.close(self._fd)
        if self._first is None:
            self._home.close()


__all__ = ["DiskStore", "ScanEntry", "StoreFull", "StoreUsage"]
