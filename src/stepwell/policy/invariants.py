"""What must stay true of the book of the KV tiers: after every step in tests, while idle in production."""

from __future__ import annotations

from stepwell.policy.block_index import Block
from stepwell.policy.block_manager import BlockManager
from stepwell.policy.types import KvTier


def check_blocks(block_manager: BlockManager, private_frames: int) -> None:
    """Assert that every KV tier holds what the book says, and no more than its bound."""
    block_manager.index.check()
    config = block_manager.config
    blocks = list(block_manager.index.blocks.values())
    assert block_manager.device_count == sum(b.device for b in blocks)
    assert block_manager.device_used == block_manager.device_count + private_frames <= config.device_blocks
    assert block_manager.pinned == sum(1 for b in blocks if b.pins)
    on_host = sum(b.meta.size_bytes for b in blocks if b.host)
    reading = sum(b.meta.size_bytes for b in blocks if b.moving is KvTier.HOST)
    assert block_manager.host_used == on_host + reading
    assert block_manager.host_used <= config.host_bytes or block_manager.resized
    assert block_manager.reading_bytes == reading
    assert block_manager.clean_bytes == sum(
        b.meta.size_bytes for b in blocks if b.host and ((b.device and not b.bare) or b.disk)
    )
    on_disk = sum(config.disk_size_of(b.meta.size_bytes) for b in blocks if b.disk and not b.elsewhere)
    assert all(b.disk for b in blocks if b.elsewhere)
    writing = sum(config.disk_size_of(b.meta.size_bytes) for b in blocks if b.moving is KvTier.DISK)
    assert block_manager.disk_used == on_disk + writing
    assert block_manager.disk_used <= max(config.disk_bytes, on_disk) or block_manager.resized
    block_manager.states.check(blocks)
    for block in blocks:
        _check_family(block_manager, block)


def _check_family(block_manager: BlockManager, block: Block) -> None:
    parent = block_manager.index.get(block.meta.parent) if block.meta.parent else None
    if block.device and block.meta.parent:
        assert parent is not None and parent.device, "a block on the device without its parent"
