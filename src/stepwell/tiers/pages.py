"""Page-aligned memory: what direct I/O reads into and writes from without another copy."""

from __future__ import annotations

import mmap

from stepwell.tiers.files import aligned_buffer
from stepwell.tiers.record import padded

Buffer = bytes | bytearray | memoryview


class Pages:
    """Whole pages that hold ``size_bytes`` of payload and zeros behind it."""

    __slots__ = ("_memory", "size_bytes")

    def __init__(self, size_bytes: int, memory: mmap.mmap | None = None) -> None:
        self._memory = aligned_buffer(max(size_bytes, 1)) if memory is None else memory
        self.size_bytes = size_bytes
        if padded(size_bytes) > len(self._memory):
            raise ValueError(f"{size_bytes} bytes do not fit into {len(self._memory)}")

    @classmethod
    def of(cls, data: Buffer) -> Pages:
        """A copy of ``data``."""
        pages = cls(memoryview(data).nbytes)
        pages.fill(data)
        return pages

    def fill(self, data: Buffer) -> None:
        """Take over ``data`` (exactly ``size_bytes``), and clear the rest of the last page.

        The rest is cleared because it goes to disk too, and may hold another customer's bytes.
        """
        whole = self.whole
        whole[: self.size_bytes] = memoryview(data).cast("B")
        whole[self.size_bytes :] = bytes(len(whole) - self.size_bytes)

    @property
    def capacity_bytes(self) -> int:
        return len(self._memory)

    @property
    def payload(self) -> memoryview:
        return memoryview(self._memory)[: self.size_bytes]

    @property
    def whole(self) -> memoryview:
        """The payload padded to whole pages."""
        return memoryview(self._memory)[: padded(self.size_bytes)]

    def reuse(self, size_bytes: int) -> Pages:
        """The same memory for another payload; this object must not be used any more."""
        return Pages(size_bytes, self._memory)
