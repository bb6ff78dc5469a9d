"""Room on a KV tier is made whole or not at all: nothing leaves for a block that then does not come."""

from __future__ import annotations

from dataclasses import dataclass, replace

from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.block_index import Block
from stepwell.policy.block_manager import BlockManager
from stepwell.policy.costs import Costs
from stepwell.policy.eviction import EvictionContext, make_eviction
from stepwell.policy.promotion import room_by_copies
from stepwell.policy.types import BlockMeta, Drop, KvTier, Moved
from tests.policy.eviction_world import BLOCK_BYTES, config_of

SIZES = st.integers(1, 8).map(lambda eighths: eighths * BLOCK_BYTES // 8)
"""Whole blocks, and tails that are smaller."""


@dataclass
class Stored:
    """A block manager with blocks on host and disk, the first one used first."""

    manager: BlockManager
    context: EvictionContext
    host: list[Block]
    disk: list[Block]
    now_us: int = 1_000_000

    def used_before(self, block: Block, us: int) -> None:
        block.last_use_us = self.context.now_us = self.now_us - us
        for kv_tier in KvTier:
            if block.is_on(kv_tier):
                self.manager.eviction.block_used(block, kv_tier)
        self.context.now_us = self.now_us


def a_block(number: int, size_bytes: int) -> BlockMeta:
    name = number.to_bytes(16, "big")
    return BlockMeta(name, None, 0, 16, (name,), "t", size_bytes)


def stored(host: list[int], disk: list[int], *, policy: str, written_per_day: int | None = None) -> Stored:
    """``host`` and ``disk``: sizes of blocks that fill those KV tiers to the last byte."""
    room = {"host_bytes": sum(host), "disk_bytes": sum(disk)}
    config = replace(config_of(policy), **room, disk_write_bytes_per_day=written_per_day)
    context = EvictionContext(config, Costs())
    manager = BlockManager(config, make_eviction(policy, context), context)
    on_disk = [a_block(100 + n, size) for n, size in enumerate(disk)]
    on_host = [a_block(200 + n, size) for n, size in enumerate(host)]
    manager.recovered(on_disk)
    for meta in on_host:
        manager.index.add(meta)
        manager.arrive(manager.index.blocks[meta.id], KvTier.HOST)
    manager.actions = []
    blocks = manager.index.blocks
    return Stored(manager, context, [blocks[m.id] for m in on_host], [blocks[m.id] for m in on_disk])


@given(
    st.lists(SIZES, min_size=1, max_size=6),
    st.lists(SIZES, min_size=1, max_size=6),
    st.lists(st.integers(0, 9), min_size=12, max_size=12),
    st.sampled_from(["lru", "ttl", "stepwell", "priority-lru"]),
    st.sampled_from([None, 500, 10**9]),
)
def test_a_write_that_is_refused_costs_no_record(
    host: list[int], disk: list[int], ages: list[int], policy: str, written_per_day: int | None
) -> None:
    world = stored(host, disk, policy=policy, written_per_day=written_per_day)
    for block, age in zip([*world.host, *world.disk], ages, strict=False):
        world.used_before(block, age)
    for block in world.host:
        before = (list(world.manager.actions), world.manager.disk_used)
        if not world.manager.start_write(block):
            assert (list(world.manager.actions), world.manager.disk_used) == before
        assert world.manager.disk_used <= world.manager.config.disk_bytes


@given(
    st.lists(SIZES, min_size=1, max_size=6),
    st.lists(SIZES, min_size=1, max_size=6),
    st.lists(st.integers(0, 9), min_size=12, max_size=12),
    st.sampled_from(["lru", "ttl", "stepwell", "priority-lru"]),
    st.booleans(),
)
def test_a_read_that_is_refused_costs_no_block(
    host: list[int], disk: list[int], ages: list[int], policy: str, ahead: bool
) -> None:
    world = stored(host, disk, policy=policy)
    for block, age in zip([*world.host, *world.disk], ages, strict=False):
        world.used_before(block, age)
    world.host[0].claims = 1  # it may not leave, so room is short where it is large
    for block in world.disk:
        before = (list(world.manager.actions), world.manager.host_used)
        fits = room_by_copies(world.manager, block) if ahead else world.manager._room_on_host(block)
        if not fits:
            assert (list(world.manager.actions), world.manager.host_used) == before


def test_two_blocks_do_not_chase_each_other_over_a_small_disk() -> None:
    """The colder one's record left for the warmer one, which then found no room after all; so the colder
    one was written again, and so on for ever (found by the random life of a server)."""
    world = stored([8, 5], [5, 5], policy="lru")
    manager, (large, small) = world.manager, world.host
    for age, block in ((3, world.disk[0]), (2, small), (1, large), (0, world.disk[1])):
        world.used_before(block, age)  # one record is colder than all there is, the other warmer
    assert not manager.start_write(large)
    assert not [action for action in manager.actions if isinstance(action, Drop)]
    assert manager.start_write(small)
    moved = Moved(small.id, KvTier.HOST, KvTier.DISK, True, 5, 1)
    manager.moved(moved)
    assert small.disk and not manager.start_write(large) and small.disk
