"""Idle blocks that leave the device though no frame is wanted: an operator wishes it, the server is about to
end, or the engine has no names left for frames of their depth."""

from __future__ import annotations

from stepwell.policy.block_index import Block
from stepwell.policy.block_manager import BlockManager
from stepwell.policy.types import KvTier


def demote_idle(block_manager: BlockManager, target: KvTier, now_us: int) -> bool:
    """Push idle blocks towards ``target`` as far as one step can; True when no more can go."""
    before = len(block_manager.actions)
    for candidate in list(block_manager.eviction.victims(KvTier.DEVICE, now_us)):
        block = block_manager.index.get(candidate)
        if block is None or block.pins or block.device_children:
            continue
        if block.host or _fits_on_host(block_manager, block):
            block_manager.evict_from_device(block, now_us, at_any_price=True)
    if target is KvTier.DISK and now_us >= block_manager.writes_paused_until_us:
        _write_down(block_manager, now_us)
    return len(block_manager.actions) == before and not block_manager.writes_in_flight


def _fits_on_host(block_manager: BlockManager, block: Block) -> bool:
    return block_manager.host_used + block.meta.size_bytes <= block_manager.config.host_bytes


def _write_down(block_manager: BlockManager, now_us: int) -> None:
    config = block_manager.config
    idle = [block for block in block_manager.idle(KvTier.HOST, now_us) if not block.device]
    for block in [b for b in idle if b.disk]:
        block_manager.evict_from_host(block, now_us)
    dirty = [block for block in idle if not block.disk]
    surplus = sum(config.disk_size_of(b.meta.size_bytes) for b in dirty) - config.disk_bytes
    for block in dirty:
        surplus -= config.disk_size_of(block.meta.size_bytes)
        if surplus < 0 and block_manager.writes_in_flight < config.disk_writes_in_flight:
            block.leaving = block_manager.start_write(block, now_us)


def keep_depths(block_manager: BlockManager, now_us: int) -> None:
    """Evict idle blocks from the device until no depth holds more than it may, see ``depth_limit``."""
    depths, index = block_manager.depths, block_manager.index
    for depth in depths.over():
        while depth in depths.over():
            order = block_manager.eviction.victims(KvTier.DEVICE, now_us)
            leaving = depths.leaving(depth, index, [index.blocks[block] for block in order])
            if not leaving:
                break
            for block in leaving:
                block_manager.evict_from_device(block, now_us)
