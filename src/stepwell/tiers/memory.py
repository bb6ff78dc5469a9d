"""Tiers without threads or files: both below the device are dictionaries.

The null implementation of the contract. Transfers end at the next ``poll``, in the order they were
started, and say that they took the time a fixed speed gives, so a simulation is the same every time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field

from stepwell.policy.types import BlockId, BlockMeta, KvTier, Moved
from stepwell.tiers.base import Buffer, TierUsage

HOST, DISK = KvTier.HOST, KvTier.DISK


@dataclass(slots=True)
class _Room:
    """One KV tier: blocks with their bytes, and the bytes taken, promised ones included."""

    limit_bytes: int
    blocks: dict[BlockId, tuple[BlockMeta, Buffer]] = field(default_factory=dict)
    used_bytes: int = 0

    def take(self, size_bytes: int) -> bool:
        if self.used_bytes + size_bytes > self.limit_bytes:
            return False
        self.used_bytes += size_bytes
        return True

    def drop(self, block: BlockId) -> None:
        held = self.blocks.pop(block, None)
        if held is not None:
            self.used_bytes -= held[0].size_bytes


@dataclass(slots=True, eq=False)
class _Transfer:
    block: BlockMeta
    source: KvTier
    target: KvTier
    data: Buffer | None = None
    """What will arrive; None: nothing will."""
    promised_bytes: int = 0
    gone: bool = False


class MemoryTiers:
    """``Tiers`` in plain memory. ``read_bytes_per_s`` and ``write_bytes_per_s`` are the disk's.

    ``warm`` is what the disk holds from an earlier run.
    """

    def __init__(
        self,
        host_limit_bytes: int,
        disk_limit_bytes: int,
        *,
        read_bytes_per_s: int = 1_000_000_000,
        write_bytes_per_s: int = 1_000_000_000,
        warm: Iterable[tuple[BlockMeta, Buffer]] = (),
    ) -> None:
        self._rooms = {HOST: _Room(host_limit_bytes), DISK: _Room(disk_limit_bytes)}
        self._bytes_per_s = {HOST: read_bytes_per_s, DISK: write_bytes_per_s}
        self._under_way: list[_Transfer] = []
        self._callback: Callable[[], None] = _nothing
        for block, data in warm:
            if self._rooms[DISK].take(block.size_bytes):
                self._rooms[DISK].blocks[block.id] = (block, data)

    def recovered(self) -> Sequence[BlockMeta]:
        blocks = [meta for meta, _ in self._rooms[DISK].blocks.values()]
        return sorted(blocks, key=lambda meta: (meta.depth, meta.id))

    def put_host(self, block: BlockMeta, data: Buffer) -> bool:
        if memoryview(data).nbytes > block.size_bytes:
            raise ValueError(f"{memoryview(data).nbytes} bytes for a block of {block.size_bytes}")
        room = self._rooms[HOST]
        if block.id in room.blocks:
            return True
        if not room.take(block.size_bytes):
            return False
        room.blocks[block.id] = (block, bytes(data))
        return True

    def get_host(self, block: BlockId) -> Buffer | None:
        held = self._rooms[HOST].blocks.get(block)
        return None if held is None else held[1]

    def start(self, block: BlockMeta, source: KvTier, target: KvTier) -> None:
        if (source, target) not in ((HOST, DISK), (DISK, HOST)):
            raise ValueError(f"the tiers do not move blocks from {source} to {target}")
        transfer = _Transfer(block, source, target)
        room = self._rooms[target]
        there = room.blocks.get(block.id) if target is HOST else None
        held = there or self._rooms[source].blocks.get(block.id)
        transfer.gone = source is DISK and held is None
        if held is not None and (there or room.take(block.size_bytes)):
            transfer.data = held[1]
            transfer.promised_bytes = 0 if there else block.size_bytes
        self._under_way.append(transfer)
        self._callback()

    def drop(self, block: BlockId, tier: KvTier) -> None:
        if tier in self._rooms:
            self._rooms[tier].drop(block)
        for transfer in self._under_way:
            if transfer.block.id == block and transfer.target is tier:
                transfer.data = None

    def poll(self) -> list[Moved]:
        ended, self._under_way = self._under_way, []
        return [self._end(transfer) for transfer in ended]

    def _end(self, transfer: _Transfer) -> Moved:
        block, room = transfer.block, self._rooms[transfer.target]
        room.used_bytes -= transfer.promised_bytes
        ok = transfer.data is not None
        if transfer.data is not None and block.id not in room.blocks and room.take(block.size_bytes):
            room.blocks[block.id] = (block, transfer.data)
        duration_us = block.size_bytes * 1_000_000 // self._bytes_per_s[transfer.target] if ok else 0
        return Moved(
            block.id, transfer.source, transfer.target, ok, block.size_bytes, duration_us, transfer.gone
        )

    def on_ready(self, callback: Callable[[], None]) -> None:
        self._callback = callback

    def usage(self, tier: KvTier) -> TierUsage:
        if tier not in self._rooms:
            raise ValueError(f"the tiers do not hold blocks on the {tier}")
        room = self._rooms[tier]
        return TierUsage(room.used_bytes, room.limit_bytes, len(room.blocks))

    def check(self) -> None:
        for tier, room in self._rooms.items():
            promised = sum(t.promised_bytes for t in self._under_way if t.target is tier)
            held = sum(meta.size_bytes for meta, _ in room.blocks.values())
            assert room.used_bytes == held + promised <= room.limit_bytes

    def close(self) -> None:
        self._under_way.clear()


def _nothing() -> None:
    """Until a listener is given."""
