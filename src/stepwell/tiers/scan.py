"""What a start finds in a store's directory: records to offer again, and what must go.

Every record's header is read and judged; nothing outside the records is trusted. What a crash left
half-written, what is cut short and what is damaged is removed here; payloads are verified later, when
they are read, so that a start costs about 50 us a block and not a full pass over the disk.
"""

from __future__ import annotations

import logging
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from stepwell.policy.types import BlockId, BlockMeta
from stepwell.tiers.directory import RecordName, StoreDirectory, parse_record_name, records_of
from stepwell.tiers.files import FileInfo, Files, aligned_buffer
from stepwell.tiers.record import PAGE_BYTES, Damaged, RecordHeader, decode, header_size, padded

log = logging.getLogger(__name__)


@dataclass(slots=True, eq=False)
class ScanEntry:
    """One record: what it holds and what still needs its file."""

    meta: BlockMeta
    sequence: int
    payload_bytes: int
    header_bytes: int
    modified_s: float = 0.0
    pins: int = 0
    forgotten: bool = False

    @property
    def name(self) -> str:
        return str(RecordName(self.meta.id, self.sequence))

    @property
    def file_bytes(self) -> int:
        return self.header_bytes + padded(self.payload_bytes)


@dataclass(slots=True)
class Foreign:
    """A record of another model: counted in the bound, taken first when room is needed."""

    model: str
    info: FileInfo

    @property
    def file_bytes(self) -> int:
        return padded(self.info.size_bytes)


@dataclass(slots=True)
class ScanResult:
    """What a start found. ``damaged``, ``torn`` and ``leftovers`` were removed, unreadable ones left."""

    records: int = 0
    damaged: int = 0
    torn: int = 0
    unreadable: int = 0
    leftovers: int = 0
    foreign: int = 0
    removed_for_room: int = 0


@dataclass(slots=True)
class Scan:
    """The contents of a store. ``foreign`` is ordered oldest first."""

    found: ScanResult = field(default_factory=ScanResult)
    entries: dict[BlockId, ScanEntry] = field(default_factory=dict)
    foreign: list[Foreign] = field(default_factory=list)
    next_sequence: int = 1


def scan_store(
    home: StoreDirectory, model: str, fd: int, fingerprint: str, served: Collection[str] = ()
) -> Scan:
    """Look at everything in a locked store; ``fd`` is the open directory of our own ``model``. Those of other
    models that are ``served`` here as well are left alone."""
    scan = Scan()
    for name, info in records_of(_without_leftovers(home.files, fd, scan.found)):
        scan.next_sequence = max(scan.next_sequence, name.sequence + 1)
        _take_in(home.files, fd, name, info, fingerprint, scan)
    for other in home.models():
        if other != model and other not in served:
            _count_foreign(home, other, scan)
    scan.foreign.sort(key=lambda record: (record.info.modified_s, record.info.name))
    return scan


def _without_leftovers(files: Files, fd: int, found: ScanResult) -> list[FileInfo]:
    """The files of a model without what a crash left half-written, which is removed."""
    kept = []
    for info in files.list(fd):
        if info.is_file and info.name.endswith(".tmp"):
            found.leftovers += remove_file(files, info.name, fd)
        else:
            kept.append(info)
    return kept


def _take_in(files: Files, fd: int, name: RecordName, info: FileInfo, fingerprint: str, scan: Scan) -> None:
    """Offer a record again if its header says that it is whole and ours; else remove it."""
    try:
        header, header_bytes = read_header(files, info.name, fd)
        require_named(header, name, fingerprint)
    except OSError as error:
        scan.found.unreadable += 1
        log.warning("disk store: record %s cannot be read (%s)", info.name, error.strerror)
        return
    except Damaged as error:
        scan.found.damaged += 1
        log.info("disk store: record %s removed: %s", info.name, error)
        remove_file(files, info.name, fd)
        return
    entry = ScanEntry(header.meta(), name.sequence, header.payload_bytes, header_bytes, info.modified_s)
    if info.size_bytes != entry.file_bytes:
        scan.found.torn += 1
        remove_file(files, info.name, fd)
        return
    older = scan.entries.get(name.id)
    if older is not None:  # killed between the new record's rename and the old one's removal
        remove_file(files, older.name, fd)
    scan.entries[name.id] = entry


def _count_foreign(home: StoreDirectory, model: str, scan: Scan) -> None:
    try:
        fd = home.open_model(model)
    except OSError:
        return
    try:
        listing = _without_leftovers(home.files, fd, scan.found)
    finally:
        home.files.close(fd)
    known = [Foreign(model, info) for info in listing if info.is_file and parse_record_name(info.name)]
    scan.found.foreign += len(known)
    scan.foreign += known


def read_header(files: Files, name: str, directory: int) -> tuple[RecordHeader, int]:
    """A record's header and how many bytes it takes. ``Damaged`` or ``OSError``."""
    buffer = aligned_buffer(PAGE_BYTES)
    count = files.read_into(name, directory, [buffer])
    needed = header_size(memoryview(buffer)[:count])
    if needed > PAGE_BYTES:
        buffer = aligned_buffer(needed)
        count = files.read_into(name, directory, [buffer])
    return decode(memoryview(buffer)[:count]), needed


def require_named(header: RecordHeader, name: RecordName, fingerprint: str) -> None:
    """``Damaged`` unless the header is of the record its file name promises, and of this model.

    After a power cut a file may carry an old name and newer content: a spare's renaming can be lost
    while the bytes written over it are not.
    """
    if header.id != name.id or header.sequence != name.sequence:
        raise Damaged("the header belongs to another record")
    if header.fingerprint != fingerprint:
        raise Damaged("the header belongs to another model")


def remove_file(files: Files, name: str, directory: int) -> bool:
    """Whether the file is gone. One that cannot be removed stays counted until the next start."""
    try:
        files.unlink(name, directory)
    except FileNotFoundError:
        return True
    except OSError as error:
        log.warning("disk store: cannot remove %s (%s)", name, error.strerror)
        return False
    return True


def coldest_first(entries: Iterable[ScanEntry]) -> list[ScanEntry]:
    """Oldest first, but a parent never before its children: without it they are out of reach."""
    by_depth = sorted(entries, key=lambda entry: -entry.meta.depth)
    newest: dict[BlockId, float] = {}
    for entry in by_depth:
        modified_s = max(entry.modified_s, newest.get(entry.meta.id, 0.0))
        newest[entry.meta.id] = modified_s
        if entry.meta.parent is not None:
            newest[entry.meta.parent] = max(modified_s, newest.get(entry.meta.parent, 0.0))
    return sorted(by_depth, key=lambda entry: (newest[entry.meta.id], -entry.meta.depth, entry.meta.id))
