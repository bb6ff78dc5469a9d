"""Runs of blocks that go from the device to the host together, or come up.

The actions, and what the books hold afterwards, are those of ``BlockManager.step_down`` and ``load`` block by
block; what the blocks have in common is looked at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stepwell.policy.block_index import Block
from stepwell.policy.types import Drop, KvTier, Move

if TYPE_CHECKING:
    from stepwell.policy.block_manager import BlockManager

DEVICE, HOST = KvTier.DEVICE, KvTier.HOST


def sink_run(memory: BlockManager, victims: Sequence[Block], start: int) -> int:
    """Send the first of ``victims[start:]`` down, each for a spare block that leaves the full host.
    How many have gone; 0: they are no run."""
    missing = memory.host_used + memory.config.block_bytes - memory.config.host_bytes
    if memory.states.limited or memory.depths.most or not 0 < missing <= memory.config.block_bytes:
        return 0
    eviction = memory.eviction
    spare = eviction.spare_for(victims, start)
    run = victims[start : start + len(spare)]
    coming = [block for block in run if not block.host]
    if not run or (coming and not eviction.wants_host(coming[-1])):  # the nearest to the root pays least
        return 0
    for block, gone in zip(run, spare, strict=True):
        _move(memory, block, gone)
    memory.device_count -= len(run)
    memory.device_used -= len(run)
    memory.descent.arrivals_unseen += len(coming)
    memory.evictions["device_host"] += len(run)
    eviction.went_down(run, spare)
    return len(run)


def _move(memory: BlockManager, block: Block, gone: Block | None) -> None:
    meta, by = block.meta, memory.beneficiary
    if gone is None:
        memory.recount(block, -1)
    else:
        memory.actions.append(Drop(gone.id, HOST, by or block.maker))
        memory.actions.append(Move(meta, DEVICE, HOST))
        memory.recount(gone, -1)
        gone.host, block.host = False, True
        memory.evictions["host_disk"] += not gone.device
    memory.actions.append(Drop(block.id, DEVICE, by))
    block.device = False
    memory.recount(block, 1)
    parent = memory.index.blocks.get(meta.parent) if meta.parent else None
    if parent is not None:
        parent.device_children -= 1


def load_run(memory: BlockManager, blocks: Sequence[Block]) -> None:
    """Bring blocks up from the host; the frames for them are taken."""
    if memory.states.limited or memory.depths.most:
        for block in blocks:
            memory.load(block)
        return
    for block in blocks:
        meta = block.meta
        memory.actions.append(Move(meta, HOST, DEVICE))
        if block.read_unused:
            block.read_unused = False
            memory.useful_read_bytes += meta.size_bytes
        memory.recount(block, -1)
        block.device = True
        memory.recount(block, 1)
        parent = memory.index.blocks.get(meta.parent) if meta.parent else None
        if parent is not None:
            parent.device_children += 1
    memory.device_count += len(blocks)
    memory.eviction.came_up(blocks)
