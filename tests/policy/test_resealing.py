"""Two turns compute the same block: the second takes the first's place, and whoever waits for it keeps it."""

from __future__ import annotations

from stepwell.policy.block_manager import BlockManager
from stepwell.policy.costs import Costs
from stepwell.policy.eviction import EvictionContext, make_eviction
from stepwell.policy.invariants import check_blocks
from stepwell.policy.types import BlockMeta
from tests.policy.eviction_world import BLOCK_BYTES, config_of


def test_a_block_that_is_sealed_again_stays_the_node_that_waiting_turns_hold() -> None:
    config = config_of("lru")
    context = EvictionContext(config, Costs())
    block_manager = BlockManager(config, make_eviction("lru", context), context)
    meta = BlockMeta(b"0" * 16, None, 0, 16, (b"0" * 16,), "t", BLOCK_BYTES)
    block_manager.take_frames(2)
    block = block_manager.sealed(meta, 1)
    block_manager.unpin(block)
    block.claims += 1  # a waiting turn has it in its path
    assert block_manager.drop_device_copy(block)
    assert block_manager.sealed(meta, 2) is block
    assert (block.device, block.pins, block.claims) == (True, 1, 1)
    block_manager.unpin(block)
    check_blocks(block_manager, 0)
