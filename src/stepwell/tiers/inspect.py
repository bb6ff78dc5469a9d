"""Looking at a disk store from outside: check every record, count what is there, remove it, time it.

``stepwell disk`` and ``stepwell doctor`` are thin covers over these functions.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from stepwell.policy.types import BlockMeta, KvTier
from stepwell.tiers.directory import (
    RecordName,
    StoreDirectory,
    is_current_model,
    model_directory,
    parse_record_name,
    records_of,
    tree_bytes,
)
from stepwell.tiers.files import FileInfo, Files, aligned_buffer
from stepwell.tiers.local import LocalTiers, TransferLimits
from stepwell.tiers.record import (
    PAGE_BYTES,
    Damaged,
    RecordHeader,
    decode,
    header_size,
    padded,
    verify_payload,
)
from stepwell.tiers.scan import read_header
from stepwell.tiers.store import RECORD_OVERHEAD_BYTES, DiskStore

Progress = Callable[[int, int], None]
"""Called with (bytes done, bytes in all)."""


# --- verify -----------------------------------------------------------------------------------


@dataclass(slots=True)
class VerifyResult:
    """What a full check found. Only ``damaged`` is bad: torn records and leftovers come from a crash
    and are removed at the next start, foreign files are not ours to judge."""

    records: int = 0
    ok: int = 0
    damaged: int = 0
    torn: int = 0
    foreign: int = 0
    bytes_checked: int = 0
    seconds: float = 0.0
    damaged_files: list[str] = field(default_factory=list)
    """The first 20, with what is wrong."""

    def as_json(self) -> dict[str, Any]:
        return asdict(self)

    def count_damaged(self, file: str, why: str) -> None:
        self.damaged += 1
        if len(self.damaged_files) < 20:
            self.damaged_files.append(f"{file}: {why}")


def verify_store(directory: Path, progress: Progress | None = None) -> VerifyResult:
    """Read every record in full and check all its checksums. Changes nothing.

    Raises ``DiskBusy`` while a server uses the directory, ``NotAStore`` when it is none.
    """
    files = Files()
    home = StoreDirectory(directory, files, create=False)
    try:
        return _verify(home, files, progress or _silent)
    finally:
        home.close()


def _verify(home: StoreDirectory, files: Files, progress: Progress) -> VerifyResult:
    result, started = VerifyResult(), time.perf_counter()
    work = [(model, home.listing(model)) for model in home.models()]
    total = sum(info.size_bytes for _, listing in work for info in listing)
    done = 0
    for model, listing in work:
        fd = home.open_model(model)
        try:
            for info in listing:
                _verify_file(files, fd, model, info, result)
                done += info.size_bytes
                progress(done, total)
        finally:
            files.close(fd)
    result.bytes_checked, result.seconds = done, time.perf_counter() - started
    return result


def _verify_file(files: Files, fd: int, model: str, info: FileInfo, result: VerifyResult) -> None:
    name = parse_record_name(info.name)
    if info.is_file and info.name.endswith(".tmp"):
        result.torn += 1
    elif name is None or not info.is_file or not is_current_model(model):
        result.foreign += 1
    else:
        result.records += 1
        try:
            torn = _is_torn(files, fd, model, name, info)
            result.torn += torn
            result.ok += not torn
        except Damaged as error:
            result.count_damaged(f"{model}/{info.name}", str(error))
        except OSError as error:
            result.count_damaged(f"{model}/{info.name}", str(error.strerror))


def _is_torn(files: Files, fd: int, model: str, name: RecordName, info: FileInfo) -> bool:
    """Whether the record ends before its time; ``Damaged`` if it is wrong in any other way."""
    pages = aligned_buffer(max(info.size_bytes, PAGE_BYTES))
    count = files.read_into(info.name, fd, [pages])
    data = memoryview(pages)[:count]
    if count < PAGE_BYTES:
        return True
    header_bytes = header_size(data)
    header = decode(data)
    if header.id != name.id or header.sequence != name.sequence:
        raise Damaged("the header belongs to another record")
    if model_directory(header.fingerprint) != model:
        raise Damaged("the header belongs to another model")
    if info.size_bytes < header_bytes + padded(header.payload_bytes):
        return True
    verify_payload(header, data[header_bytes : header_bytes + header.payload_bytes])
    return False


# --- stat -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Share:
    """What one tenant has in a model's part of the store."""

    blocks: int = 0
    tokens: int = 0
    size_bytes: int = 0

    def add(self, header: RecordHeader, info: FileInfo) -> None:
        self.blocks += 1
        self.tokens += header.n_tokens
        self.size_bytes += info.size_bytes


@dataclass(slots=True)
class ModelStat:
    """The records of one model fingerprint."""

    fingerprint: str
    total: Share = field(default_factory=Share)
    tenants: dict[str, Share] = field(default_factory=dict)
    oldest_age_s: float = 0.0
    newest_age_s: float = float("inf")

    def add(self, header: RecordHeader, info: FileInfo, now_s: float) -> None:
        self.total.add(header, info)
        self.tenants.setdefault(header.tenant, Share()).add(header, info)
        age_s = max(0.0, now_s - info.modified_s)
        self.oldest_age_s = max(self.oldest_age_s, age_s)
        self.newest_age_s = min(self.newest_age_s, age_s)


@dataclass(slots=True)
class StoreStat:
    """What lies in a store, from the headers alone (payloads are not read: ``verify`` does that)."""

    directory: str
    limit_bytes: int | None
    used_bytes: int
    in_use_by: str | None
    models: list[ModelStat] = field(default_factory=list)
    unreadable: int = 0

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


def stat_store(directory: Path, progress: Progress | None = None) -> StoreStat:
    """Count the records. Also works while a server uses the directory. ``NotAStore`` when it is none."""
    files = Files()
    home = StoreDirectory(directory, files, create=False, lock=False)
    try:
        stat = StoreStat(str(directory), home.limit_bytes(), tree_bytes(files, home.fd), home.holder())
        work = [(model, list(records_of(home.listing(model)))) for model in home.models()]
        total, done = sum(len(records) for _, records in work), 0
        for model, records in work:
            for header, info in _headers(home, files, model, records, stat):
                _model_of(stat, header.fingerprint).add(header, info, time.time())
                done += 1
                (progress or _silent)(done, total)
        return stat
    finally:
        home.close()


def _model_of(stat: StoreStat, fingerprint: str) -> ModelStat:
    for model in stat.models:
        if model.fingerprint == fingerprint:
            return model
    stat.models.append(ModelStat(fingerprint))
    return stat.models[-1]


def _headers(
    home: StoreDirectory,
    files: Files,
    model: str,
    records: list[tuple[RecordName, FileInfo]],
    stat: StoreStat,
) -> Iterator[tuple[RecordHeader, FileInfo]]:
    fd = home.open_model(model)
    try:
        for _, info in records:
            try:
                yield read_header(files, info.name, fd)[0], info
            except FileNotFoundError:
                continue  # the server that runs has dropped it meanwhile
            except (Damaged, OSError):
                stat.unreadable += 1
    finally:
        files.close(fd)


# --- clear ------------------------------------------------------------------------------------


@dataclass(slots=True)
class ClearResult:
    """What ``clear`` removed, and what it left because Stepwell did not write it."""

    records: int = 0
    size_bytes: int = 0
    left: int = 0


def clear_store(directory: Path, progress: Progress | None = None) -> ClearResult:
    """Remove every record of every model, and nothing else. ``DiskBusy`` while a server runs."""
    files = Files()
    home = StoreDirectory(directory, files, create=False)
    try:
        result = ClearResult()
        work = [(model, home.listing(model)) for model in home.models()]
        total = sum(len(listing) for _, listing in work)
        for model, listing in work:
            _clear_model(home, files, model, listing, result)
            (progress or _silent)(result.records + result.left, total)
        return result
    finally:
        home.close()


def _clear_model(
    home: StoreDirectory, files: Files, model: str, listing: list[FileInfo], result: ClearResult
) -> None:
    fd = home.open_model(model)
    left_before = result.left
    try:
        for info in listing:
            if info.is_file and (parse_record_name(info.name) or info.name.endswith(".tmp")):
                files.unlink(info.name, fd)
                result.records += 1
                result.size_bytes += info.size_bytes
            else:
                result.left += 1
    finally:
        files.close(fd)
    if result.left == left_before:
        files.remove_directory(model, home.fd)


# --- measure ----------------------------------------------------------------------------------


def measure_disk(directory: Path, block_bytes: int, blocks: int = 16) -> dict[str, Any]:
    """How quick the real store is where ``directory`` is: write ``blocks`` blocks, read them back.

    Beside the store, never in it, so that neither its bound nor a running server is touched; removed
    afterwards. ``OSError`` when the place cannot be written to. The result holds bytes per second both
    ways, the time until all blocks were back and verified, and whether direct I/O works there (without
    it the reads may come from the page cache).
    """
    place = Path(tempfile.mkdtemp(prefix=".stepwell-measure-", dir=_existing_parent(directory)))
    try:
        return _measure_in(place, block_bytes, blocks)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _existing_parent(directory: Path) -> Path:
    """The nearest directory above that exists: on the same file system unless the store is a mount."""
    parent = directory.absolute()
    if parent.is_mount():
        return parent
    while not (parent := parent.parent).is_dir():
        pass
    return parent


def _measure_in(place: Path, block_bytes: int, blocks: int) -> dict[str, Any]:
    room = blocks * (block_bytes + RECORD_OVERHEAD_BYTES) * 2 + (1 << 20)
    store = DiskStore(place, room, "measure")
    tiers = LocalTiers(blocks * block_bytes, store, limits=TransferLimits(read_deadline_s=60.0))
    try:
        metas = [_sample_block(number, block_bytes) for number in range(blocks)]
        data = os.urandom(block_bytes)  # a disk that compresses must not look quicker than it is
        for meta in metas:
            tiers.put_host(meta, data)
        write_s = _move_all(tiers, metas, KvTier.HOST, KvTier.DISK)
        for meta in metas:
            tiers.drop(meta.id, KvTier.HOST)
        read_s = min(_read_again(tiers, metas) for _ in range(3))
        return {
            "block_bytes": block_bytes,
            "blocks": blocks,
            "write_s": write_s,
            "read_s": read_s,
            "write_bytes_per_s": round(blocks * block_bytes / write_s),
            "read_bytes_per_s": round(blocks * block_bytes / read_s),
            "direct_io": store.files.direct,
        }
    finally:
        tiers.close()


def _sample_block(number: int, size_bytes: int) -> BlockMeta:
    name = number.to_bytes(16, "big")
    return BlockMeta(name, None, 0, 1, (name,), "measure", size_bytes)


def _read_again(tiers: LocalTiers, metas: list[BlockMeta]) -> float:
    seconds = _move_all(tiers, metas, KvTier.DISK, KvTier.HOST)
    for meta in metas:
        tiers.drop(meta.id, KvTier.HOST)
    return seconds


def _move_all(tiers: LocalTiers, metas: list[BlockMeta], source: KvTier, target: KvTier) -> float:
    """Seconds from the first ``start`` until the last block has been reported."""
    started, ended = time.perf_counter(), 0
    for meta in metas:
        tiers.start(meta, source, target)
    while ended < len(metas):
        for moved in tiers.poll():
            if not moved.ok:
                raise OSError(f"the disk did not take or give back a block ({source} to {target})")
            ended += 1
        time.sleep(0.0002)
    return time.perf_counter() - started


def _silent(done: int, total: int) -> None:
    """No progress is shown."""
