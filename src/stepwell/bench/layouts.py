"""The ways of laying KV blocks out on disk that ``stepwell bench disk-layout`` compares.

All write the same bytes (a 4 KiB header with the payload's checksum, then the payload) with direct I/O
and without fsync, verify the checksum at reading, and keep within the same bound. They are as short as
a fair measurement allows; only the one that was chosen (``StoreLayout``) is crash-safe in every detail.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from stepwell.policy.types import BlockMeta
from stepwell.tiers.pages import Pages
from stepwell.tiers.record import PAGE_BYTES, Damaged, decode, encode, make_header, padded, verify_payload
from stepwell.tiers.store import DiskStore

_O_DIRECT = getattr(os, "O_DIRECT", 0)


class Layout(Protocol):
    """One way. ``fits`` says whether a write of this block would succeed now."""

    written_bytes: int
    """Bytes given to the disk so far, copies made while making room included."""

    def fits(self, block: BlockMeta) -> bool: ...

    def write(self, block: BlockMeta, pages: Pages) -> None: ...

    def read(self, block: BlockMeta, pages: Pages) -> None: ...

    def drop(self, block: BlockMeta) -> None: ...

    def restart(self) -> int:
        """Forget everything in memory and find it again; returns how many blocks."""

    def close(self) -> None: ...


class StoreLayout:
    """What Stepwell uses: a file per block, files of dropped blocks written over."""

    def __init__(self, path: Path, limit_bytes: int, block_bytes: int) -> None:
        self._path, self._limit_bytes = path, limit_bytes
        self._store = DiskStore(path, limit_bytes, "layout")
        self.written_bytes = 0

    def fits(self, block: BlockMeta) -> bool:
        usage = self._store.usage()
        return usage.used_bytes + PAGE_BYTES + padded(block.size_bytes) + 128 <= usage.limit_bytes

    def write(self, block: BlockMeta, pages: Pages) -> None:
        self._store.write(block, pages)
        self.written_bytes += PAGE_BYTES + padded(block.size_bytes)

    def read(self, block: BlockMeta, pages: Pages) -> None:
        entry = self._store.pin(block.id)
        assert entry is not None
        self._store.read(entry, block, pages)
        self._store.unpin(entry)

    def drop(self, block: BlockMeta) -> None:
        self._store.forget(block.id)
        self._store.reap()

    def restart(self) -> int:
        self._store.close()
        self._store = DiskStore(self._path, self._limit_bytes, "layout")
        return self._store.usage().blocks

    def close(self) -> None:
        self._store.close()


class FilesLayout:
    """A file per block, made new and removed again."""

    def __init__(self, path: Path, limit_bytes: int, block_bytes: int, *, sync: bool = False) -> None:
        self._path, self._limit_bytes, self._sync = path, limit_bytes, sync
        self._sizes: dict[bytes, int] = {}
        self._used_bytes = 0
        self.written_bytes = 0

    def fits(self, block: BlockMeta) -> bool:
        return self._used_bytes + PAGE_BYTES + padded(block.size_bytes) <= self._limit_bytes

    def write(self, block: BlockMeta, pages: Pages) -> None:
        temporary = self._path / "new.tmp"
        fd = os.open(temporary, os.O_WRONLY | os.O_CREAT | _O_DIRECT, 0o600)
        size_bytes = os.pwritev(fd, _record(block, pages), 0)
        if self._sync:
            os.fdatasync(fd)
        os.close(fd)
        temporary.rename(self._path / block.id.hex())
        self._sizes[block.id] = size_bytes
        self._used_bytes += size_bytes
        self.written_bytes += size_bytes

    def read(self, block: BlockMeta, pages: Pages) -> None:
        fd = os.open(self._path / block.id.hex(), os.O_RDONLY | _O_DIRECT)
        _read_record(fd, 0, block, pages)
        os.close(fd)

    def drop(self, block: BlockMeta) -> None:
        (self._path / block.id.hex()).unlink()
        self._used_bytes -= self._sizes.pop(block.id)

    def restart(self) -> int:
        self._sizes = {}
        for path in self._path.iterdir():
            fd = os.open(path, os.O_RDONLY | _O_DIRECT)
            header = _read_header(fd, 0)
            os.close(fd)
            assert header is not None
            self._sizes[header.id] = path.stat().st_size
        self._used_bytes = sum(self._sizes.values())
        return len(self._sizes)

    def close(self) -> None:
        self._sizes.clear()


class SlabLayout:
    """One preallocated file of frames of one full block each; a tail takes a whole frame."""

    def __init__(self, path: Path, limit_bytes: int, block_bytes: int) -> None:
        self._frame_bytes = PAGE_BYTES + padded(block_bytes)
        self._frames = limit_bytes // self._frame_bytes
        self._fd = os.open(path / "slab", os.O_RDWR | os.O_CREAT | _O_DIRECT, 0o600)
        os.posix_fallocate(self._fd, 0, self._frames * self._frame_bytes)
        self._where: dict[bytes, int] = {}
        self._free = list(range(self._frames - 1, -1, -1))
        self.written_bytes = 0

    def fits(self, block: BlockMeta) -> bool:
        return bool(self._free)

    def write(self, block: BlockMeta, pages: Pages) -> None:
        frame = self._free.pop()
        self.written_bytes += os.pwritev(self._fd, _record(block, pages), frame * self._frame_bytes)
        self._where[block.id] = frame

    def read(self, block: BlockMeta, pages: Pages) -> None:
        _read_record(self._fd, self._where[block.id] * self._frame_bytes, block, pages)

    def drop(self, block: BlockMeta) -> None:
        frame = self._where.pop(block.id)
        os.pwritev(self._fd, [Pages(PAGE_BYTES).whole], frame * self._frame_bytes)
        self._free.append(frame)

    def restart(self) -> int:
        self._where = {}
        for frame in range(self._frames):
            header = _read_header(self._fd, frame * self._frame_bytes)
            if header is not None:
                self._where[header.id] = frame
        return len(self._where)

    def close(self) -> None:
        os.close(self._fd)


@dataclass(slots=True)
class _Segment:
    fd: int
    head_bytes: int = 0
    live: dict[bytes, tuple[int, BlockMeta]] = field(default_factory=dict)

    @property
    def live_bytes(self) -> int:
        return sum(PAGE_BYTES + padded(block.size_bytes) for _, block in self.live.values())


class LogLayout:
    """Preallocated segments written from front to back; the emptiest is copied together when room ends.

    Two segments and a tenth of the others are kept free, or the copying never ends.
    """

    SEGMENTS = 16

    def __init__(self, path: Path, limit_bytes: int, block_bytes: int) -> None:
        self._segment_bytes = limit_bytes // self.SEGMENTS // PAGE_BYTES * PAGE_BYTES
        self._segments = [_Segment(self._make(path / f"segment-{n}")) for n in range(self.SEGMENTS)]
        self._free = list(self._segments[1:])
        self._current = self._segments[0]
        self._where: dict[bytes, _Segment] = {}
        self._live_bytes = 0
        record_bytes = PAGE_BYTES + padded(block_bytes)
        whole_bytes = self._segment_bytes // record_bytes * record_bytes  # records do not span segments
        self._most_live_bytes = int(whole_bytes * (self.SEGMENTS - 2) * 0.9)
        self._scratch = Pages(block_bytes)
        self.written_bytes = 0

    def _make(self, path: Path) -> int:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | _O_DIRECT, 0o600)
        os.posix_fallocate(fd, 0, self._segment_bytes)
        return fd

    def fits(self, block: BlockMeta) -> bool:
        return self._live_bytes + PAGE_BYTES + padded(block.size_bytes) <= self._most_live_bytes

    def write(self, block: BlockMeta, pages: Pages) -> None:
        self._append(block, pages)
        while len(self._free) < 2:
            self._clean()

    def _append(self, block: BlockMeta, pages: Pages) -> None:
        size_bytes = PAGE_BYTES + padded(block.size_bytes)
        if self._current.head_bytes + size_bytes > self._segment_bytes:
            self._current = self._free.pop(0)
            self._current.head_bytes = 0
        offset = self._current.head_bytes
        self.written_bytes += os.pwritev(self._current.fd, _record(block, pages), offset)
        self._current.head_bytes += size_bytes
        self._current.live[block.id] = (offset, block)
        self._where[block.id] = self._current
        self._live_bytes += size_bytes

    def _clean(self) -> None:
        used = [s for s in self._segments if s is not self._current and s not in self._free]
        victim = min(used, key=lambda segment: segment.live_bytes)
        for block in [block for _, block in victim.live.values()]:
            pages = self._scratch.reuse(block.size_bytes)
            self.read(block, pages)
            self.drop(block)
            self._append(block, pages)
        self._free.append(victim)

    def read(self, block: BlockMeta, pages: Pages) -> None:
        segment = self._where[block.id]
        _read_record(segment.fd, segment.live[block.id][0], block, pages)

    def drop(self, block: BlockMeta) -> None:
        del self._where.pop(block.id).live[block.id]
        self._live_bytes -= PAGE_BYTES + padded(block.size_bytes)

    def restart(self) -> int:
        """Walk every segment from header to header; which of them are still wanted a log must record
        as well (not done here), or dropped blocks come back."""
        return sum(1 for segment in self._segments for _ in self._walk(segment))

    def _walk(self, segment: _Segment) -> Iterator[bytes]:
        offset = 0
        while offset < self._segment_bytes:
            header = _read_header(segment.fd, offset)
            if header is None:
                return
            yield header.id
            offset += PAGE_BYTES + padded(header.payload_bytes)

    def close(self) -> None:
        for segment in self._segments:
            os.close(segment.fd)


@dataclass(frozen=True, slots=True)
class _Found:
    id: bytes
    payload_bytes: int


def _record(block: BlockMeta, pages: Pages) -> Sequence[memoryview]:
    head = Pages.of(encode(make_header(block, pages.payload, "layout", 1)))
    return [head.whole, pages.whole]


def _read_record(fd: int, offset: int, block: BlockMeta, pages: Pages) -> None:
    head = Pages(PAGE_BYTES)
    os.preadv(fd, [head.whole, pages.whole], offset)
    header = decode(head.whole)
    if header.id != block.id:
        raise Damaged("another block lies here")
    verify_payload(header, pages.payload)


def _read_header(fd: int, offset: int) -> _Found | None:
    head = Pages(PAGE_BYTES)
    os.preadv(fd, [head.whole], offset)
    try:
        header = decode(head.whole)
    except Damaged:
        return None
    return _Found(header.id, header.payload_bytes)
