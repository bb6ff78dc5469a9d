"""Pushing every idle block down: an operator's wish, and what a server does before it ends."""

from __future__ import annotations

from stepwell.policy.index import Block
from stepwell.policy.memory import Memory
from stepwell.policy.types import KvTier


def push_down(memory: Memory, target: KvTier, now_us: int) -> bool:
    """Push idle blocks towards ``target`` as far as one step can; True when no more can go."""
    before = len(memory.actions)
    for candidate in list(memory.placement.victims(KvTier.DEVICE, now_us)):
        block = memory.index.get(candidate)
        if block is None or block.pins or block.device_children:
            continue
        if block.host or _fits_on_host(memory, block):
            memory.evict_from_device(block, now_us)
    if target is KvTier.DISK and now_us >= memory.writes_paused_until_us:
        _write_down(memory, now_us)
    return len(memory.actions) == before and not memory.writes_in_flight


def _fits_on_host(memory: Memory, block: Block) -> bool:
    return memory.host_used + block.meta.size_bytes <= memory.config.host_bytes


def _write_down(memory: Memory, now_us: int) -> None:
    config = memory.config
    idle = [block for block in memory.idle(KvTier.HOST, now_us) if not block.device]
    for block in [b for b in idle if b.disk]:
        memory.evict_from_host(block)
    dirty = [block for block in idle if not block.disk]
    surplus = sum(config.disk_size_of(b.meta.size_bytes) for b in dirty) - config.disk_bytes
    for block in dirty:
        surplus -= config.disk_size_of(block.meta.size_bytes)
        if surplus < 0 and memory.writes_in_flight < config.disk_writes_in_flight:
            block.leaving = memory.start_write(block, now_us)
