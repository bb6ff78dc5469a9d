"""Blocks for a shared store, processes that die in the middle, and two of them on one directory."""

from __future__ import annotations

import contextlib
import itertools
import mmap
import os
from collections.abc import Sequence
from pathlib import Path

from stepwell.tiers.files import Files
from stepwell.tiers.pages import Pages
from stepwell.tiers.record import Damaged
from stepwell.tiers.shared.index import Record
from stepwell.tiers.shared.store import Bounds, SharedStore, ToWrite, Written
from tests.tiers.harness import name_of

LIMIT_BYTES = 4 << 20
SIZES = (200_000, 200_000, 350_000, 90_000)
FINGERPRINT = "tiny random llama, 32 tokens a block"
_ticks = itertools.count(1)


class Killed(BaseException):
    """Nothing may catch it: a killed process cleans nothing up."""


class MortalFiles(Files):
    """A process that dies just before its ``dies_in``-th operation that changes the disk."""

    def __init__(self) -> None:
        super().__init__()
        self.dies_in = 0

    def _step(self) -> None:
        if self.dies_in:
            self.dies_in -= 1
            if not self.dies_in:
                raise Killed

    def pwritev(self, fd: int, buffers: Sequence[memoryview | mmap.mmap], offset: int) -> int:
        self._step()
        return super().pwritev(fd, buffers, offset)

    def rename(self, old: str, new: str, directory: int) -> None:
        self._step()
        super().rename(old, new, directory)

    def unlink(self, name: str, directory: int) -> None:
        self._step()
        super().unlink(name, directory)


def size_of(number: int) -> int:
    return SIZES[number % len(SIZES)]


def content_of(number: int) -> bytes:
    """The only bytes that this block may ever have."""
    name = name_of(number)
    return (name * (size_of(number) // len(name) + 1))[: size_of(number)]


def to_write(number: int, used_us: int | None = None) -> ToWrite:
    used_us = next(_ticks) if used_us is None else used_us
    return ToWrite(name_of(number), f"tenant-{number % 3}", Pages.of(content_of(number)), used_us)


def open_store(path: Path, files: Files | None = None, limit_bytes: int = LIMIT_BYTES) -> SharedStore:
    bounds = Bounds(limit_bytes, tenants={"tenant-1": 700_000})
    return SharedStore(path, bounds, FINGERPRINT, files=files)


def write_numbers(store: SharedStore, *numbers: int) -> Written:
    return store.write([to_write(number) for number in numbers])


def read_record(store: SharedStore, record: Record, number: int) -> bytes | None:
    """The bytes, or None for a miss of any kind."""
    pages = Pages(size_of(number))
    with contextlib.suppress(Damaged, OSError):
        store.read(record, pages)
        return bytes(pages.payload)
    return None


def present(store: SharedStore) -> dict[bytes, Record]:
    """All records, as a process that has just come sees them."""
    store._index._seen = -1
    return store.changes().present


def die(store: SharedStore) -> None:
    """What the kernel does for a killed process: descriptors and locks go, files stay."""
    store._index.close()
    assert store._participants is not None
    os.close(store._participants._fd)
    for fd in store._fds.values():
        os.close(fd)
    store._home.close()
    store._closed = True
