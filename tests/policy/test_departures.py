"""What agents leave behind: which of it comes back is learned, and what does not goes first."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.forecast import Forecaster, Left
from stepwell.policy.eviction.next_use import NextUse
from stepwell.policy.eviction.orphans import Orphans, kind_of
from stepwell.policy.eviction.value import CERTAIN, EvictionTuning
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import BlockId, BlockMeta, Hint, KvTier, Wait
from tests.policy.eviction_world import World, name_of

SECOND_US = 1_000_000
DEAD_BELOW = EvictionTuning().write_chance


def block_of(name: str, uses: int = 1) -> Block:
    block = Block(BlockMeta(name.encode(), None, 0, 16, (name.encode(),), "t", 1_000), device=True, ranked=1)
    block.uses = uses
    return block


def dead_of(orphans: Orphans) -> list[BlockId]:
    return [block.id for block in orphans.dead(0)]


@given(st.integers(1, 6), st.integers(0, 6), st.integers(1, 9))
def test_what_is_left_is_told_apart_by_how_much_it_is_and_whether_it_was_gone_on_from(
    gone: int, same: int, uses: int
) -> None:
    kind = kind_of([block_of(str(n), uses) for n in range(gone)], same)
    assert (kind in (Left.BRANCH, Left.CONTEXT)) == (uses > 2)
    assert (kind in (Left.ANSWER, Left.BRANCH)) == (same >= gone)


@given(st.sampled_from(Left), st.lists(st.integers(1, 100), min_size=40, max_size=50))
def test_a_kind_that_comes_back_is_kept_and_one_that_never_does_is_dead(
    kind: Left, after_s: list[int]
) -> None:
    """Whatever was expected of the kind at first, and with its blocks gone as well as with them there."""
    comes, goes = Orphans(Forecaster(), DEAD_BELOW), Orphans(Forecaster(), DEAD_BELOW)
    now_us = 0
    for n, seconds in enumerate(after_s):
        for orphans in (comes, goes):
            orphans.leave([block_of(f"{n}")], "t", kind, now_us)
        now_us += seconds * SECOND_US
        comes.returned(f"{n}".encode(), now_us)
        for _ in range(40):
            goes.look(now_us + 10**6 * SECOND_US)
    for orphans in (comes, goes):
        orphans.leave([block_of("last")], "t", kind, now_us)
    assert b"last" not in dead_of(comes)
    assert b"last" in dead_of(goes)


@given(st.lists(st.sampled_from(["leave", "return", "drop", "gone", "look"]), max_size=40), st.data())
def test_the_books_hold_each_block_once(steps: list[str], data: st.DataObject) -> None:
    orphans, there, now_us = Orphans(Forecaster(), DEAD_BELOW), dict[str, Block](), 0
    for number, step in enumerate(steps):
        now_us += data.draw(st.sampled_from([1, SECOND_US, 10**5 * SECOND_US]))
        if step == "leave":
            there[f"{number}"] = block_of(f"{number}")
            kind = data.draw(st.sampled_from(Left))
            orphans.leave([there[f"{number}"]], data.draw(st.sampled_from("tu")), kind, now_us)
        elif step == "look":
            orphans.look(now_us)
        elif there:
            block = there[name := data.draw(st.sampled_from(sorted(there)))]
            if step == "return":
                orphans.used(block, now_us)
            else:
                del there[name]
                block.ranked = 0
                (orphans.drop(block) if step == "drop" else orphans.block_left(block, 0))
        found = dead_of(orphans) + [block.id for _, block in orphans.alive(0, now_us)]
        assert sorted(found) == sorted(block.id for block in there.values())
        assert orphans.count(0) == len(there)


@pytest.mark.parametrize("kv_tier", list(KvTier))
def test_an_answer_that_was_left_goes_before_everything_else_on_every_kv_tier(kv_tier: KvTier) -> None:
    world = World("stepwell")
    world.begin("resting")
    world.end("resting", labels=["y0", "y1"], hint=Hint(Wait.PERSON))
    world.wait(3_600 * SECOND_US)
    for labels in (["x0", "x1", "answer"], ["x0", "x1", "next"]):
        world.begin("a")
        world.end("a", labels=labels, hint=Hint(Wait.TOOL))
    left = world.blocks[name_of(["x0", "x1", "answer"])]
    for block in world.blocks.values():
        for lower in (KvTier.HOST, KvTier.DISK):
            world.put(block, lower)
    if (
        kv_tier is not KvTier.DEVICE
    ):  # while the device has it as well, its copy there is spare like any other
        world.eviction.block_left(left, KvTier.DEVICE)
        left.device = False
    assert world.victims(kv_tier)[0] == left.id
    assert not world.eviction.wants_disk(left), "it is dead, however much room there is"


def done_after_two_turns(world: World, agent: str, parent: str | None, begins: list[str]) -> list[Block]:
    """The agent's blocks: those of its first turn, and two more of its second."""
    labels = [*begins, f"{agent}-0", f"{agent}-1"]
    for context, hint in ((begins, Hint(Wait.TOOL)), (labels, Hint(Wait.DONE))):
        world.begin(agent)
        world.actors["t", agent].record.parent_agent = parent
        world.end(agent, labels=context, hint=hint)
    return [world.blocks[name_of(labels[: depth + 1])] for depth in range(len(labels))]


@pytest.mark.parametrize("kv_tier", list(KvTier))
def test_what_a_child_began_with_outlives_it(kv_tier: KvTier) -> None:
    """The prompt of its kind, with which the next one will begin; the rest of its context is dead at once."""
    world = World("stepwell")
    *begins, first, second = done_after_two_turns(world, "child", "main", ["system", "tools"])
    for block in (second, first, *reversed(begins)):
        for lower in (KvTier.HOST, KvTier.DISK):
            world.put(block, lower)
        if kv_tier is not KvTier.DEVICE:
            world.drop(block, KvTier.DEVICE)
    assert world.victims(kv_tier) == [block.id for block in (second, first, *reversed(begins))]
    assert [world.eviction.is_dead(block) for block in (*begins, first, second)] == [False, False, True, True]


@pytest.mark.parametrize("parent", [None, "main"])
def test_whether_others_begin_as_one_that_is_done_is_learned(parent: str | None) -> None:
    """Of children it is expected at first, of agents that work for none it is not."""
    alike, apart = World("stepwell"), World("stepwell")
    for number in range(24):
        for world, begins in ((alike, ["system"]), (apart, [f"system-{number}"])):
            blocks = done_after_two_turns(world, f"a{number}", parent, begins)
            if number in (0, 23):
                dead = parent is None if number == 0 else world is apart
                assert world.eviction.is_dead(blocks[0]) == dead, f"{number}"
            for _ in range(40):
                world.wait((60 if world is alike else 10_000) * SECOND_US)


def test_an_agent_that_comes_back_though_it_was_done_has_its_context() -> None:
    world = World("stepwell")
    blocks = done_after_two_turns(world, "child", "main", ["system", "tools"])
    world.begin("child")
    world.end("child", labels=["system", "tools", "child-0", "child-1", "more"], hint=Hint(Wait.TOOL))
    assert not any(world.eviction.is_dead(block) for block in blocks)
    assert world.victims(KvTier.DEVICE)[-1] == blocks[0].id, "it is one context again, from its end"


def answered(name: str = "child") -> AgentRecord:
    return AgentRecord("t", "default", "s", name, "parent", hint=Hint(Wait.PERSON))


def test_a_child_that_has_answered_is_worth_little_until_its_kind_proves_otherwise() -> None:
    """Not nothing: a crew asks the same readers again, and at first nobody can know."""
    forecaster, now_us = Forecaster(), 0
    main = AgentRecord("t", "default", "s", "main", None, hint=Hint(Wait.PERSON))
    at_first = forecaster.chance(forecaster.begin(answered(), now_us), now_us)
    assert DEAD_BELOW < at_first < forecaster.chance(forecaster.begin(main, now_us), now_us) // 4
    for _ in range(8):
        idle = forecaster.begin(answered(), now_us)
        now_us += 10 * SECOND_US
        forecaster.end(idle, now_us)
    assert forecaster.chance(forecaster.begin(answered(), now_us), now_us) > CERTAIN // 4


@given(st.integers(16, 40))
def test_children_that_stay_away_teach_that_the_next_one_is_dead(count: int) -> None:
    forecaster = Forecaster()
    for number in range(count):
        forecaster.advance(forecaster.begin(answered(f"child-{number}"), 0), 10**6 * SECOND_US)
    for tenant in ("t", "another"):
        child = AgentRecord(tenant, "default", "s", "next", "parent", hint=Hint(Wait.PERSON))
        chance = forecaster.chance(forecaster.begin(child, 0), 0)
        assert chance < DEAD_BELOW, f"{tenant}: a new tenant begins with what others have in common"


def test_a_child_that_says_when_it_comes_back_is_believed() -> None:
    forecaster = Forecaster()
    hint = Hint(Wait.PERSON, expected_us=5 * SECOND_US)
    child = AgentRecord("t", "default", "s", "child", "parent", hint=hint)
    assert forecaster.chance(forecaster.begin(child, 0), 0) > CERTAIN // 4


def test_conversations_of_nobody_are_learned_by_their_turns() -> None:
    """Of those that had one turn none comes back, of those that had two all do."""
    world = World("stepwell")
    eviction = world.eviction
    assert isinstance(eviction, NextUse)
    chances = []
    for number in range(24):
        record = AgentRecord("t", "default", "", f"request-{number}", None, unknown=True)
        for record.turns in (1, 2):
            idle = eviction.forecaster.begin(record, world.now_us)
            if number == 23:
                chances.append(eviction.forecaster.chance(idle, world.now_us))
            if record.turns == 2:
                eviction.forecaster.end(idle, world.now_us + 20 * SECOND_US)
            else:
                eviction.forecaster.advance(idle, world.now_us + 10**6 * SECOND_US)
    assert chances[0] < CERTAIN // 4 < CERTAIN // 2 < chances[1]
