"""Two turns compute the same block: the second takes the first's place, and whoever waits for it keeps it."""

from __future__ import annotations

from stepwell.policy.costs import Costs
from stepwell.policy.invariants import check_memory
from stepwell.policy.memory import Memory
from stepwell.policy.placements import Outlook, make_placement
from stepwell.policy.types import BlockMeta
from tests.policy.placement_world import BLOCK_BYTES, config_of


def test_a_block_that_is_sealed_again_stays_the_node_that_waiting_turns_hold() -> None:
    config = config_of("lru")
    outlook = Outlook(config, Costs())
    memory = Memory(config, make_placement("lru", outlook), outlook)
    meta = BlockMeta(b"0" * 16, None, 0, 16, (b"0" * 16,), "t", BLOCK_BYTES)
    memory.take_frames(2, 0)
    block = memory.sealed(meta, 0, 1)
    memory.unpin(block)
    block.claims += 1  # a waiting turn has it in its path
    assert memory.drop_device_copy(block)
    assert memory.sealed(meta, 1, 2) is block
    assert (block.device, block.pins, block.claims) == (True, 1, 1)
    memory.unpin(block)
    check_memory(memory, 0)
