"""Runs of blocks that go from the device to the host together, or come up.

The actions, and what the books hold afterwards, are those of ``BlockManager.step_down`` and ``load`` block by
block; what the blocks have in common is looked at once.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from stepwell.policy.block_index import Block
from stepwell.policy.types import DEVICE, HOST, Drop, Move

if TYPE_CHECKING:
    from stepwell.policy.block_manager import BlockManager


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
    for at, (block, gone) in enumerate(zip(run, spare, strict=True)):
        _sink(memory, block, gone)
        _count_child(memory, block, run[at + 1] if at + 1 < len(run) else None, -1)
    memory.device_count -= len(run)
    memory.device_used -= len(run)
    memory.descent.arrivals_unseen += len(coming)
    memory.evictions["device_host"] += len(run)
    eviction.went_down(run, spare)
    return len(run)


def _sink(memory: BlockManager, block: Block, gone: Block | None) -> None:
    """From the device to the host, from which ``gone`` leaves, a copy of what lies elsewhere; None: the
    block is on both already."""
    actions, by = memory.actions, memory.beneficiary
    if gone is None:
        memory.count_clean(block, -1)
    else:
        actions.append(Drop(gone.id, HOST, by or block.maker))
        actions.append(Move(block.meta, DEVICE, HOST))
        memory.count_clean(gone, -1)
        gone.host, block.host = False, True
        if not gone.device:
            memory.evictions["host_disk"] += 1
    actions.append(Drop(block.id, DEVICE, by))
    block.device = False
    if block.disk:
        memory.count_clean(block, 1)


def _count_child(memory: BlockManager, block: Block, likely: Block | None, step: int) -> None:
    """One more or less of its children is on the device, for the block before this one: ``likely`` it."""
    name = block.meta.parent
    if not name:
        return
    parent = likely if likely is not None and likely.id == name else memory.index.blocks.get(name)
    if parent is not None:
        parent.device_children += step


def load_run(memory: BlockManager, blocks: Sequence[Block]) -> None:
    """Bring blocks up from the host; the frames for them are taken."""
    if memory.states.limited or memory.depths.most:
        for block in blocks:
            memory.load(block)
        return
    before: Block | None = None
    for block in blocks:
        meta = block.meta
        memory.actions.append(Move(meta, HOST, DEVICE))
        if block.read_unused:
            block.read_unused = False
            memory.useful_read_bytes += meta.size_bytes
        if block.disk:
            memory.count_clean(block, -1)
        block.device = True
        memory.count_clean(block, 1)
        _count_child(memory, block, before, 1)
        before = block
    memory.device_count += len(blocks)
    memory.eviction.came_up(blocks)
