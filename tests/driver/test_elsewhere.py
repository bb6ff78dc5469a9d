"""Blocks that other nodes have: found by a turn, read or computed again, and never counted on this disk."""

from __future__ import annotations

from stepwell.policy.elsewhere import MOST_BLOCKS, blocks_of_prompt
from stepwell.policy.types import BlockMeta, Recovered, RequestArrived
from tests.driver.harness import Rig, expected_tokens, make_rig

PROMPT = tuple(range(100, 180))


def metas_of(rig: Rig, prompt: tuple[int, ...] = PROMPT) -> tuple[BlockMeta, ...]:
    """As the driver makes them of a request."""
    rig.ask(prompt, 2)
    arrival = next(event for event in rig.driver.inbox.events if isinstance(event, RequestArrived))
    return blocks_of_prompt(arrival, rig.driver.scheduler.config)


def test_they_are_just_the_blocks_that_a_turn_seals() -> None:
    rig = make_rig()
    metas = metas_of(rig)
    rig.settle()
    index = rig.driver.scheduler.block_manager.index
    sealed = [index.get(meta.id) for meta in metas]
    assert len(metas) == 5
    assert [block.meta for block in sealed if block is not None] == list(metas[: sum(map(bool, sealed))])
    assert sum(map(bool, sealed)) >= 4


def test_what_is_offered_and_not_there_is_computed_again() -> None:
    rig = make_rig()
    other = make_rig()
    rig.driver.inbox.put(Recovered(metas_of(other), elsewhere=True))
    answer = rig.ask(PROMPT)
    rig.settle()
    assert answer.tokens == expected_tokens(PROMPT, 8)
    manager = rig.driver.scheduler.block_manager
    assert not any(block.elsewhere for block in manager.index.blocks.values())


def test_they_take_no_room_on_the_disk_and_are_bounded() -> None:
    rig = make_rig()
    manager = rig.driver.scheduler.block_manager
    metas = metas_of(make_rig())
    used = manager.disk_used
    manager.elsewhere.offered(metas)
    manager.elsewhere.offered(metas)  # again: nothing new
    assert manager.disk_used == used
    assert sum(block.elsewhere for block in manager.index.blocks.values()) == len(metas)
    rig.driver.scheduler.check()
    many = [
        BlockMeta(name, None, 0, 16, (name[:15] + b"u", name), "acme", 128)
        for name in (number.to_bytes(16, "big") for number in range(1, MOST_BLOCKS + 10))
    ]
    manager.elsewhere.offered(many)
    assert sum(block.elsewhere for block in manager.index.blocks.values()) == MOST_BLOCKS
    assert manager.index.get(metas[0].id) is None
