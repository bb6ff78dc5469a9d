"""The host pool: KV blocks in main memory, bounded in bytes.

Every block lies in page-aligned memory of its own, so that the disk reads into it and writes from it
without another copy. Memory of dropped blocks is kept and used again for blocks of the same size,
because the first touch of fresh pages costs more than the copy (0.6 ms against 0.1 ms for 1.5 MB):
full blocks all have one size, tails lose, they mostly get fresh pages.

Honest about waste: the bound is on the sizes the policy counts. Real memory is that, plus at most a
page per block, plus kept spare memory; kept memory never lifts the total by more than 1/32 over the
bound.
"""

from __future__ import annotations

from collections import OrderedDict

from stepwell.policy.types import BlockId
from stepwell.tiers.pages import Buffer, Pages
from stepwell.tiers.record import padded

_SPARE_SHARE = 32


class HostPlace:
    """One block's place: reserved, then filled. Freed when dropped and no transfer needs it."""

    __slots__ = ("counted_bytes", "dropped", "pages", "pins")

    def __init__(self, pages: Pages, counted_bytes: int) -> None:
        self.pages = pages
        self.counted_bytes = counted_bytes
        self.pins = 0
        self.dropped = False


class HostPool:
    """Bytes of blocks by id, never more than ``limit_bytes`` of them. One thread."""

    def __init__(self, limit_bytes: int) -> None:
        self.limit_bytes = limit_bytes
        self.used_bytes = 0
        """Every place that is taken: blocks, reservations, and dropped blocks still being written."""
        self._blocks: dict[BlockId, HostPlace] = {}
        self._taken: set[HostPlace] = set()
        self._taken_real_bytes = 0
        self._spare: OrderedDict[int, list[Pages]] = OrderedDict()
        self._spare_bytes = 0

    def __len__(self) -> int:
        return len(self._blocks)

    def __contains__(self, block: BlockId) -> bool:
        return block in self._blocks

    # --- places -------------------------------------------------------------------------------

    def reserve(self, payload_bytes: int, counted_bytes: int) -> HostPlace | None:
        """A place that is not a block yet; None when the bound would be passed."""
        if self.used_bytes + counted_bytes > self.limit_bytes:
            return None
        place = HostPlace(self._take_pages(payload_bytes), counted_bytes)
        self.used_bytes += counted_bytes
        self._taken.add(place)
        self._taken_real_bytes += place.pages.capacity_bytes
        return place

    def adopt(self, block: BlockId, place: HostPlace) -> None:
        """A reserved place is now this block."""
        self._blocks[block] = place

    def release(self, place: HostPlace) -> None:
        """Give a place back: now, or when the last transfer that needs it unpins it."""
        place.dropped = True
        if place.pins:
            return
        self._taken.remove(place)
        self.used_bytes -= place.counted_bytes
        self._taken_real_bytes -= place.pages.capacity_bytes
        self._keep_spare(place.pages)

    def pin(self, block: BlockId) -> HostPlace | None:
        """The block's place, kept until ``unpin`` even if the block is dropped meanwhile."""
        place = self._blocks.get(block)
        if place is not None:
            place.pins += 1
        return place

    def unpin(self, place: HostPlace) -> None:
        place.pins -= 1
        if place.dropped:
            self.release(place)

    # --- blocks -------------------------------------------------------------------------------

    def put(self, block: BlockId, data: Buffer, counted_bytes: int) -> bool:
        """Copy ``data`` in. False when the bound would be passed; a block that is there stays."""
        if block in self._blocks:
            return True
        place = self.reserve(memoryview(data).nbytes, counted_bytes)
        if place is None:
            return False
        place.pages.fill(data)
        self.adopt(block, place)
        return True

    def get(self, block: BlockId) -> memoryview | None:
        """The bytes, without a copy; valid until the block is dropped."""
        place = self._blocks.get(block)
        return None if place is None else place.pages.payload

    def drop(self, block: BlockId) -> None:
        place = self._blocks.pop(block, None)
        if place is not None:
            self.release(place)

    # --- memory -------------------------------------------------------------------------------

    @property
    def real_bytes(self) -> int:
        """Memory really held, spare included."""
        return self._taken_real_bytes + self._spare_bytes

    def _take_pages(self, payload_bytes: int) -> Pages:
        capacity_bytes = padded(max(payload_bytes, 1))
        same_size = self._spare.get(capacity_bytes)
        if same_size:
            self._spare_bytes -= capacity_bytes
            pages = same_size.pop().reuse(payload_bytes)
            if not same_size:
                del self._spare[capacity_bytes]
            return pages
        self._shrink_spare(capacity_bytes)
        return Pages(payload_bytes)

    def _keep_spare(self, pages: Pages) -> None:
        self._spare.setdefault(pages.capacity_bytes, []).append(pages)
        self._spare_bytes += pages.capacity_bytes
        self._spare.move_to_end(pages.capacity_bytes)
        self._shrink_spare(0)

    def _shrink_spare(self, wanted_bytes: int) -> None:
        """Let go of the sizes that were dropped longest ago. The memory is unmapped with its object."""
        ceiling = self.limit_bytes + self.limit_bytes // _SPARE_SHARE
        while self._spare and self.real_bytes + wanted_bytes > ceiling:
            capacity_bytes, same_size = next(iter(self._spare.items()))
            same_size.pop()
            self._spare_bytes -= capacity_bytes
            if not same_size:
                del self._spare[capacity_bytes]

    def check(self) -> None:
        """Assert that bytes are the sum of the places and within the bound."""
        assert self.used_bytes == sum(place.counted_bytes for place in self._taken) <= self.limit_bytes
        assert self._taken_real_bytes == sum(place.pages.capacity_bytes for place in self._taken)
        assert self._spare_bytes == sum(size * len(kept) for size, kept in self._spare.items())
        assert all(place in self._taken and not place.dropped for place in self._blocks.values())
        assert all(place.pins or not place.dropped for place in self._taken)
