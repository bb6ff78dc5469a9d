"""``SharedBelow``: a node's disk store, and below it the object store that several nodes share.

What is written to the disk is put into the object store as well, behind the write. What the disk does not
have is read from there, by the same rules: a deadline, a checksum, and any failure is a miss. To
``LocalTiers`` it is a disk store.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.policy.types import BlockId, BlockMeta
from stepwell.tiers.objects.store import ColdStore
from stepwell.tiers.pages import Pages
from stepwell.tiers.record import Damaged
from stepwell.tiers.scan import ScanEntry
from stepwell.tiers.shared.store import ToWrite
from stepwell.tiers.store import DiskStore, StoreUsage


@dataclass(slots=True, eq=False)
class SharedEntry:
    """A block of the object store that is about to be read."""

    payload_bytes: int
    """At most: its length in whole pages."""
    forgotten: bool = False
    """It has turned out not to be there, or not to be what it says."""


class SharedBelow:
    """Calls come from the threads of ``DiskStore``'s; ``look`` from one more."""

    def __init__(self, disk: DiskStore, cold: ColdStore) -> None:
        self.disk, self.cold = disk, cold
        self.look()  # what lies there is listed by a thread from now on

    # --- what the object store has ------------------------------------------------------------

    def look(self) -> bool:
        """Find out what other nodes have written, unless that was done a moment ago. Waits for the store;
        False: it does not answer."""
        try:
            self.cold.changes()
        except OSError:
            return False
        return True

    def offers(self, keys: Sequence[BlockId]) -> list[bool]:
        """Which blocks the object store has, as far as is known, and the disk has not. From any thread."""
        return [key not in self.disk and self.cold.size_of(key) is not None for key in keys]

    # --- a disk store -------------------------------------------------------------------------

    @property
    def limit_bytes(self) -> int:
        return self.disk.limit_bytes

    def recovered(self) -> list[BlockMeta]:
        return self.disk.recovered()

    def __contains__(self, block: BlockId) -> bool:
        return block in self.disk

    def usage(self) -> StoreUsage:
        return self.disk.usage()

    def write(self, block: BlockMeta, pages: Pages) -> int:
        """Also into the object store, whose copy is not waited for."""
        try:
            return self.disk.write(block, pages)
        finally:
            self._share(block, pages)

    def _share(self, block: BlockMeta, pages: Pages) -> None:
        if self.cold.wants(block.id, pages.size_bytes):
            used_us = self.cold.clock_us() - block.depth  # of one moment, the deepest goes first
            copy = Pages.of(pages.payload)
            self.cold.write([ToWrite(block.id, block.tenant, copy, used_us, block)])

    def pin(self, block: BlockId) -> ScanEntry | SharedEntry | None:
        entry = self.disk.pin(block)
        if entry is not None:
            return entry
        size_bytes = self.cold.size_of(block)
        return None if size_bytes is None else SharedEntry(size_bytes)

    def unpin(self, entry: ScanEntry | SharedEntry) -> None:
        if isinstance(entry, ScanEntry):
            self.disk.unpin(entry)

    def read(self, entry: ScanEntry | SharedEntry, block: BlockMeta, pages: Pages) -> None:
        if isinstance(entry, ScanEntry):
            return self.disk.read(entry, block, pages)
        try:
            return self.cold.fetch(block, pages)
        except Damaged:
            entry.forgotten = True
            raise
        except FileNotFoundError as error:
            entry.forgotten = True
            raise OSError(errno.ENOENT, os.strerror(errno.ENOENT)) from error

    def forget(self, block: BlockId, sequence: int | None = None) -> None:
        """On this disk. The object store is shared by all nodes."""
        self.disk.forget(block, sequence)

    def reap(self) -> None:
        self.disk.reap()

    def resize(self, limit_bytes: int) -> int:
        return self.disk.resize(limit_bytes)

    def check(self) -> None:
        self.disk.check()
        self.cold.check()

    def close(self) -> None:
        self.cold.close()
        self.disk.close()
