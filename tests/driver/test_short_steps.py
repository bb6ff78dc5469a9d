"""While a turn waits for the disk, the step beside it is short: what has come is noticed at a step's end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import pytest

from stepwell.loop.requests import Finished
from stepwell.policy.types import Event, KvTier, Plan
from tests.driver.harness import Rig, make_rig

BLOCK, STEP = 16, 64
KEPT = [*range(1, 50)]
LONG = [7, *range(1, 200)]


@dataclass
class Steps:
    """An observer that keeps how many tokens each step had."""

    tokens: list[int] = field(default_factory=list)

    def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        self.tokens.append(sum(piece.count for piece in plan.batch))

    def close(self, now_us: int) -> None:
        pass


def beside_a_long_prompt(eviction: str) -> tuple[Rig, Steps]:
    """A context lies on disk alone and a long prompt is being computed; transfers stand still."""
    rig = make_rig(device=32, eviction=eviction)
    rig.ask(KEPT, 4, agent="kept")
    rig.settle()
    rig.driver.demote_idle(KvTier.DISK)
    rig.settle()
    steps = Steps()
    rig.driver.loop.observers.append(steps)
    rig.ask(LONG, 4, agent="long")
    rig.driver.step()
    assert steps.tokens[-1] == STEP
    rig.tiers.stalled = True
    return rig, steps


def test_steps_are_short_for_as_long_as_a_turn_waits_for_the_disk() -> None:
    rig, steps = beside_a_long_prompt("stepwell")
    answer = rig.ask([*KEPT, 50, 51], 4, agent="kept")
    rig.driver.step()
    assert rig.driver.scheduler.block_manager.reads_in_flight
    assert steps.tokens[-1] == BLOCK, "as long as the read is expected to take, and a block at least"
    rig.driver.step()
    assert steps.tokens[-1] == BLOCK
    rig.tiers.stalled = False
    rig.driver.step()
    rig.driver.step()
    assert steps.tokens[-1] > 2 * BLOCK, "it has come, and steps are whole again"
    rig.settle()
    assert isinstance(answer.end, Finished)


def test_a_read_that_takes_long_leaves_the_step_what_is_computed_meanwhile() -> None:
    rig, steps = beside_a_long_prompt("stepwell")
    memory = rig.driver.scheduler.block_manager
    two_blocks_us = memory.costs.compute_us(STEP, STEP + 2 * BLOCK)
    per_kib = memory.costs.ns_per_kib
    per_kib[KvTier.DISK, KvTier.HOST] = two_blocks_us * 1_000 * 1_024 // (3 * memory.config.block_bytes) + 1
    rig.ask([*KEPT, 50, 51], 4, agent="kept")
    rig.driver.step()
    assert memory.reading_bytes >= 3 * memory.config.block_bytes
    assert 2 * BLOCK <= steps.tokens[-1] < STEP
    rig.settle()


@pytest.mark.parametrize("asked", [False, True])
def test_who_does_not_wait_for_the_disk_shortens_nothing(asked: bool) -> None:
    rig, steps = beside_a_long_prompt("stepwell")
    if asked:
        rig.ask([9, 9, 9, 9], 4, agent="new")
    rig.driver.step()
    assert steps.tokens[-1] > 2 * BLOCK
    rig.settle()


def test_the_baselines_take_whole_steps_as_the_servers_do_that_they_stand_for() -> None:
    rig, steps = beside_a_long_prompt("lru")
    rig.ask([*KEPT, 50, 51], 4, agent="kept")
    rig.driver.step()
    assert rig.driver.scheduler.block_manager.reads_in_flight
    assert steps.tokens[-1] == STEP
    rig.settle()
