"""Idle blocks that leave a KV tier though their room is not needed: an operator wishes it, the server is
about to end, the engine has no names left for frames of their depth, or a bound has become smaller."""

from __future__ import annotations

from stepwell.policy.block_index import Block
from stepwell.policy.block_manager import BlockManager
from stepwell.policy.types import KvTier


def demote_idle(block_manager: BlockManager, target: KvTier) -> bool:
    """Push idle blocks towards ``target`` as far as one step can; True when no more can go."""
    before = len(block_manager.actions)
    for candidate in list(block_manager.eviction.victims(KvTier.DEVICE)):
        block = block_manager.index.get(candidate)
        if block is None or block.pins or block.device_children:
            continue
        if block.host or _fits_on_host(block_manager, block):
            block_manager.evict_from_device(block, at_any_price=True)
    if target is KvTier.DISK and block_manager.now_us >= block_manager.writes_paused_until_us:
        _write_down(block_manager)
    return len(block_manager.actions) == before and not block_manager.writes_in_flight


def _fits_on_host(block_manager: BlockManager, block: Block) -> bool:
    return block_manager.host_used + block.meta.size_bytes <= block_manager.config.host_bytes


def _write_down(block_manager: BlockManager) -> None:
    config = block_manager.config
    idle = [block for block in block_manager.idle(KvTier.HOST) if not block.device]
    for block in [b for b in idle if b.disk]:
        block_manager.evict_from_host(block)
    dirty = [block for block in idle if not block.disk]
    surplus = sum(config.disk_size_of(b.meta.size_bytes) for b in dirty) - config.disk_bytes
    for block in dirty:
        surplus -= config.disk_size_of(block.meta.size_bytes)
        if surplus < 0 and block_manager.writes_in_flight < config.disk_writes_in_flight:
            block.leaving = block_manager.start_write(block)


def give_up_device(block_manager: BlockManager) -> None:
    """Every idle block leaves the device: one KV tier down where there is room for it, else it is gone."""
    while block_manager.device_count:
        victims = block_manager.device_victims(block_manager.device_count)
        if not victims:
            return
        for block in victims:
            block_manager.evict_from_device(block, at_any_price=True)


def shrink(block_manager: BlockManager) -> None:
    """Give up what host and disk hold beyond their bounds, which have become smaller. What the disk can keep
    is written before it leaves the host."""
    config = block_manager.config
    if block_manager.disk_used > config.disk_bytes:
        for block in list(block_manager.idle(KvTier.DISK)):
            if block_manager.disk_used <= config.disk_bytes:
                break
            block_manager.evict_from_disk(block)
    if block_manager.host_used > config.host_bytes:
        _shrink_host(block_manager)
    within = block_manager.host_used <= config.host_bytes and block_manager.disk_used <= config.disk_bytes
    block_manager.resized = not within


def _shrink_host(block_manager: BlockManager) -> None:
    config = block_manager.config
    writes = block_manager.now_us >= block_manager.writes_paused_until_us and bool(config.disk_bytes)
    written_bytes = sum(b.meta.size_bytes for b in block_manager.index.blocks.values() if b.leaving)
    for block in list(block_manager.idle(KvTier.HOST)):
        if block_manager.host_used - written_bytes <= config.host_bytes:
            return
        if block.disk or (block.device and not block.bare) or not writes:
            block_manager.evict_from_host(block)
        elif block_manager.writes_in_flight >= config.disk_writes_in_flight:
            return  # the rest when these have ended
        elif block_manager.start_write(block):
            block.leaving = True
            written_bytes += block.meta.size_bytes
        else:
            block_manager.evict_from_host(block)


def keep_depths(block_manager: BlockManager) -> None:
    """Evict idle blocks from the device until no depth holds more than it may, see ``depth_limit``."""
    depths, index = block_manager.depths, block_manager.index
    for depth in depths.over():
        while depth in depths.over():
            order = block_manager.eviction.victims(KvTier.DEVICE)
            leaving = depths.leaving(depth, index, [index.blocks[block] for block in order])
            if not leaving:
                break
            for block in leaving:
                block_manager.evict_from_device(block)
