"""Blocks whose bytes follow from their names, disks that misbehave, and time that tests control."""

from __future__ import annotations

import errno
import mmap
import os
import tempfile
import time
from collections import deque
from collections.abc import Callable, Sequence
from hashlib import blake2b
from pathlib import Path

from stepwell.policy.types import BlockMeta, Moved
from stepwell.tiers.base import Tiers
from stepwell.tiers.files import Files
from stepwell.tiers.pages import Pages
from stepwell.tiers.record import Damaged
from stepwell.tiers.store import DiskStore
from stepwell.tiers.workers import Job

BLOCK_BYTES = 10_000
FINGERPRINT = "model-a f16"


def name_of(number: int) -> bytes:
    return blake2b(number.to_bytes(8, "big"), digest_size=16).digest()


def block(number: int, *, parent: BlockMeta | None = None, size_bytes: int = BLOCK_BYTES) -> BlockMeta:
    name = name_of(number)
    units = (name_of(number + 1_000_000), name)
    depth = 0 if parent is None else parent.depth + 1
    return BlockMeta(name, parent and parent.id, depth, 64, units, f"tenant-{number % 2}", size_bytes)


def content(meta: BlockMeta) -> bytes:
    """The only bytes this block may ever have."""
    return (meta.id * (meta.size_bytes // len(meta.id) + 1))[: meta.size_bytes]


def write(store: DiskStore, meta: BlockMeta) -> None:
    store.write(meta, Pages.of(content(meta)))


def read(store: DiskStore, meta: BlockMeta) -> bytes | None:
    """The bytes, or None for a miss of any kind."""
    entry = store.pin(meta.id)
    if entry is None:
        return None
    try:
        pages = Pages(entry.payload_bytes)
        store.read(entry, meta, pages)
        return bytes(pages.payload)
    except (Damaged, OSError):
        return None
    finally:
        store.unpin(entry)


def drop(store: DiskStore, meta: BlockMeta) -> None:
    store.forget(meta.id)
    store.reap()


def directory_bytes(path: Path) -> int:
    """What a directory takes: every file in whole pages, and the directories themselves."""
    total = path.lstat().st_size
    for place, directories, files in os.walk(path):
        total += sum((Path(place) / name).lstat().st_size for name in directories)
        total += sum(-(-(Path(place) / name).lstat().st_size // 4096) * 4096 for name in files)
    return total


def scratch_directory() -> Path:
    """A new directory in memory where there is one: state machines write thousands of files."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="stepwell-test-", dir=memory if os.access(memory, os.W_OK) else None))


def record_files(path: Path) -> list[Path]:
    return sorted(path.glob("v*/*.kv"))


def settle(tiers: Tiers, count: int) -> list[Moved]:
    """Poll until ``count`` transfers have ended."""
    moved: list[Moved] = []
    for _ in range(20_000):
        moved += tiers.poll()
        if len(moved) >= count:
            return moved
        time.sleep(0.001)
    raise AssertionError(f"only {len(moved)} of {count} transfers ended")


class FaultyFiles(Files):
    """Files on a disk that can be told to fail."""

    def __init__(self) -> None:
        super().__init__()
        self.write_errno = 0
        self.read_errno = 0
        self.short_write_bytes: int | None = None
        self.unlink_errno = 0
        self.rename_errno = 0
        self.writes = 0
        self.during: Callable[[], object] | None = None
        """What happens in the other thread while the next transfer's bytes are on their way."""

    def _meanwhile(self) -> None:
        happening, self.during = self.during, None
        if happening is not None:
            happening()

    def pwritev(self, fd: int, buffers: Sequence[memoryview | mmap.mmap], offset: int) -> int:
        self.writes += 1
        self._meanwhile()
        if self.short_write_bytes is not None:
            os.pwrite(fd, memoryview(buffers[0])[: self.short_write_bytes], offset)
            return self.short_write_bytes
        _fail(self.write_errno)
        return super().pwritev(fd, buffers, offset)

    def preadv(self, fd: int, buffers: Sequence[memoryview | mmap.mmap], offset: int) -> int:
        self._meanwhile()
        _fail(self.read_errno)
        return super().preadv(fd, buffers, offset)

    def unlink(self, name: str, directory: int) -> None:
        _fail(self.unlink_errno)
        super().unlink(name, directory)

    def rename(self, old: str, new: str, directory: int) -> None:
        _fail(self.rename_errno)
        super().rename(old, new, directory)

    def read_only(self) -> None:
        self.write_errno = self.unlink_errno = self.rename_errno = errno.EROFS


def _fail(number: int) -> None:
    if number:
        raise OSError(number, os.strerror(number))


class ManualClock:
    def __init__(self) -> None:
        self.now_s = 1000.0

    def __call__(self) -> float:
        return self.now_s


class ManualWorker:
    """Runs a job when the test says so: a disk of any slowness."""

    def __init__(self, name: str = "") -> None:
        self.jobs: deque[Job] = deque()

    def submit(self, job: Job) -> None:
        self.jobs.append(job)

    def run(self, count: int = 1) -> None:
        for _ in range(min(count, len(self.jobs))):
            self.jobs.popleft()()

    def run_all(self) -> None:
        self.run(len(self.jobs))

    def close(self, timeout_s: float) -> bool:
        self.run_all()
        return True


class ManualWorkers:
    """Makes manual workers and remembers them by thread name."""

    def __init__(self) -> None:
        self.by_name: dict[str, ManualWorker] = {}

    def __call__(self, name: str) -> ManualWorker:
        return self.by_name.setdefault(name, ManualWorker())

    @property
    def reader(self) -> ManualWorker:
        return self.by_name["stepwell-read"]

    @property
    def writer(self) -> ManualWorker:
        return self.by_name["stepwell-write"]


Make = Callable[..., Tiers]
