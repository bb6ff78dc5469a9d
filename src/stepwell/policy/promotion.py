"""Blocks that come up from disk to the host before a turn asks for them."""

from __future__ import annotations

from stepwell.policy.block_index import Block
from stepwell.policy.block_manager import BlockManager


def promote(memory: BlockManager) -> None:
    """Bring up from disk what will be used soon, into room that is free or held by copies of what
    is worth less. It never makes anything be lost and never hurries before a read that is waited for."""
    if memory.reads_in_flight >= memory.eviction.tuning.promotions_in_flight:
        return
    for block in memory.eviction.promotable():
        if block.moving is not None or memory.now_us < block.shunned_until_us:
            continue
        if not room_by_copies(memory, block) or not memory.start_read(block):
            return
        if memory.reads_in_flight >= memory.eviction.tuning.promotions_in_flight:
            return


def room_by_copies(memory: BlockManager, newcomer: Block) -> bool:
    """Room on the host that copies of less worth give."""
    return memory.make_room_on_host(
        newcomer, lambda victim: memory.eviction.gives_way_to_promotion(victim, newcomer)
    )
