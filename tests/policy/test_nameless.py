"""Conversations without a name: what several of them begin with, and who gives way to whom on a full disk."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.forecast import Forecaster, IdlePeriod
from stepwell.policy.eviction.next_use import NextUse
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import KvTier
from tests.policy.eviction_world import World, name_of

SECOND_US = 1_000_000


def nextuse(world: World) -> NextUse:
    assert isinstance(world.eviction, NextUse)
    return world.eviction


def converse(world: World, conversation: str, labels: list[str], *, nameless: bool = True) -> None:
    """One turn, after which everything of it lies on the disk as well."""
    world.begin(conversation)
    world.actors["t", conversation].record.unknown = nameless
    world.end(conversation, labels=labels)
    for depth in range(len(labels)):
        block = world.blocks[name_of(labels[: depth + 1])]
        if not block.disk:
            world.put(block, KvTier.DISK)


def test_a_beginning_that_nameless_conversations_share_does_not_die_with_the_first_of_them() -> None:
    """None of them ever goes on, but each begins with the document."""
    world = World("stepwell")
    for number in range(40):
        converse(world, f"request-{number}", ["document", f"question {number}"])
        world.wait(40 * SECOND_US)
    world.wait(10**6 * SECOND_US)
    converse(world, "request-last", ["document", "the last question"])
    world.wait(SECOND_US)
    document = world.blocks[name_of(["document"])]
    assert world.eviction.is_dead(world.blocks[name_of(["document", "question 0"])])
    assert not world.eviction.is_dead(document)
    assert world.eviction.wants_disk(document)


def two_at_rest(older_s: int, younger_s: int, *, nameless: bool) -> tuple[World, Block, Block]:
    """The blocks of two that have been idle for ``older_s`` and ``younger_s``."""
    world = World("stepwell")
    converse(world, "older", ["x"], nameless=nameless)
    world.wait((older_s - younger_s) * SECOND_US)
    converse(world, "younger", ["y"], nameless=nameless)
    world.wait(younger_s * SECOND_US)
    return world, world.blocks[name_of(["x"])], world.blocks[name_of(["y"])]


@given(st.integers(1, 300), st.integers(1, 300), st.booleans())
def test_on_a_full_disk_what_is_worth_more_replaces_a_record_and_of_agents_what_is_worth_twice_as_much(
    younger_s: int, more_s: int, nameless: bool
) -> None:
    world, record, newcomer = two_at_rest(younger_s + more_s, younger_s, nameless=nameless)
    eviction = nextuse(world)
    margin = 1 if nameless else eviction.tuning.disk_margin
    wins = eviction.outranks(newcomer, record, KvTier.DISK, margin)
    assert eviction.gives_way(record, newcomer, KvTier.DISK) == wins


def test_a_nameless_newcomer_that_is_worth_half_as_much_again_is_not_lost_for_an_old_record() -> None:
    for nameless in (True, False):
        world, record, newcomer = two_at_rest(60, 40, nameless=nameless)
        assert world.eviction.gives_way(record, newcomer, KvTier.DISK) == nameless


def test_what_has_waited_for_longest_is_not_worth_more_than_what_came_after_it() -> None:
    """A conversation every ten seconds; one in ten comes back after two minutes, one in twenty after half an
    hour. No rest is longer than 50 minutes, and a full disk must not keep the longest ones for that."""
    forecaster, at_rest = Forecaster(), dict[int, tuple[int, IdlePeriod]]()
    for number in range(300):
        now_us = number * 10 * SECOND_US
        record = AgentRecord("t", "default", "", f"request-{number}", None, unknown=True, turns=1)
        at_rest[number] = now_us, forecaster.begin(record, now_us)
        for earlier, (since_us, idle) in [*at_rest.items()]:
            age_s = (now_us - since_us) // SECOND_US
            if (age_s == 120 and earlier % 10 == 0) or (age_s == 1_800 and earlier % 20 == 5):
                forecaster.end(idle, now_us)
                del at_rest[earlier]
            else:
                forecaster.advance(idle, now_us)
    worth = {number: forecaster.index(idle, now_us) for number, (_, idle) in at_rest.items()}
    assert worth[1] < worth[247] < worth[297], "50 minutes, 9 and 20 seconds"
