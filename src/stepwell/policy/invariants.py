"""What must stay true of the book of the KV tiers: after every step in tests, while idle in production."""

from __future__ import annotations

from stepwell.policy.index import Block
from stepwell.policy.memory import Memory
from stepwell.policy.types import KvTier


def check_memory(memory: Memory, private_frames: int) -> None:
    """Assert that every KV tier holds what the book says, and no more than its bound."""
    memory.index.check()
    config = memory.config
    blocks = list(memory.index.blocks.values())
    assert memory.device_count == sum(b.device for b in blocks)
    assert memory.device_used == memory.device_count + private_frames <= config.device_blocks
    assert memory.pinned == sum(1 for b in blocks if b.pins)
    on_host = sum(b.meta.size_bytes for b in blocks if b.host)
    reading = sum(b.meta.size_bytes for b in blocks if b.moving is KvTier.HOST)
    assert memory.host_used == on_host + reading <= config.host_bytes
    assert memory.reading_bytes == reading
    assert memory.clean_bytes == sum(b.meta.size_bytes for b in blocks if b.host and (b.device or b.disk))
    on_disk = sum(config.disk_size_of(b.meta.size_bytes) for b in blocks if b.disk)
    writing = sum(config.disk_size_of(b.meta.size_bytes) for b in blocks if b.moving is KvTier.DISK)
    assert memory.disk_used == on_disk + writing <= max(config.disk_bytes, on_disk)
    for block in blocks:
        _check_family(memory, block)


def _check_family(memory: Memory, block: Block) -> None:
    parent = memory.index.get(block.meta.parent) if block.meta.parent else None
    if block.device and block.meta.parent:
        assert parent is not None and parent.device, "a block on the device without its parent"
