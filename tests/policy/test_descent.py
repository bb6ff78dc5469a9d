"""Nothing is lost that somebody may want while something else can go."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Hint, KvTier, Wait
from stepwell.simulate.generated import generated
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.machine import Machine
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.run import Room, config_for
from tests.driver.harness import Rig, make_rig


def rig_of(device: int, host: int, disk: int, **config: Any) -> Rig:
    return make_rig(device, host, disk, eviction="stepwell", **config)


def turn(rig: Rig, agent: str, seed: int, tokens: int = 62, hint: Hint | None = None) -> None:
    prompt = (97 + seed % 26, 97 + seed // 26, *((97 + (seed * 5 + i * 3) % 26) for i in range(tokens - 2)))
    answer = rig.ask(prompt, 2, agent=agent, hint=hint or Hint(Wait.TOOL, 60_000_000), tenant="t")
    rig.settle()
    assert answer.ended


def where(rig: Rig, agent: str) -> dict[KvTier, int]:
    return next(view.kv_tokens for view in rig.driver.snapshot().agents if view.agent == agent)


@pytest.mark.parametrize("host", [1, 2, 5])
def test_a_small_host_is_a_passage_to_the_disk_and_not_its_size(host: int) -> None:
    """Ten contexts of four blocks go down through a host that holds less than one of them."""
    rig = rig_of(device=6, host=host, disk=60)
    for number in range(10):
        turn(rig, f"a{number}", number)
    counters = rig.driver.snapshot().counters
    assert counters["lost_blocks_wanted"] == 0
    assert all(sum(where(rig, f"a{number}").values()) == 63 for number in range(10))


def test_with_no_room_anywhere_the_loss_is_counted_and_was_not_needless() -> None:
    rig = rig_of(device=6, host=4, disk=8)
    for number in range(10):
        turn(rig, f"a{number}", number)
    counters = rig.driver.snapshot().counters
    assert counters["lost_blocks_wanted"] > 0
    assert counters["lost_blocks_needless"] == 0


def test_dead_blocks_are_dropped_and_not_taken_down() -> None:
    rig = rig_of(device=6, host=4, disk=60)
    turn(rig, "wanted", 1)
    for number in range(6):
        turn(rig, f"done{number}", 10 + number, hint=Hint(Wait.DONE))
    assert sum(where(rig, "wanted").values()) == 63
    assert rig.driver.snapshot().counters["lost_blocks_wanted"] == 0


@settings(max_examples=6, deadline=None)
@given(
    seed=st.integers(0, 50),
    device=st.integers(12, 40),
    host=st.integers(0, 40),
    disk=st.integers(0, 200),
    declared=st.sampled_from(["silent", "exact", "0.3"]),
)
def test_a_run_ends_and_counts_what_it_lost(
    seed: int, device: int, host: int, disk: int, declared: str
) -> None:
    workload, model = generated(sessions=3, seed=seed), MachineModel()
    room = Room(max(device, -(-workload.context_tokens // workload.block_tokens) + 1), host, disk)
    config: PolicyConfig = config_for(workload, model, room, "stepwell")
    scheduler = Scheduler(config)
    machine = Machine(
        scheduler,
        model,
        Player(workload, Declared.parse(declared)),
        SimulatedMeter(model, workload.unit_tokens),
    )
    machine.run()
    descent = scheduler.block_manager.descent
    assert descent.needless_losses <= descent.wanted_losses


def test_a_running_turn_waits_for_a_slow_disk_only_so_long() -> None:
    """Its next frame costs somebody a block then; nothing spins meanwhile, and no wait is left behind."""
    rig = rig_of(device=6, host=2, disk=60)
    turn(rig, "resting", 1)
    rig.tiers.stalled = True
    answer = rig.ask((120, *range(97, 109)), 70, agent="running", tenant="t")
    descent = rig.driver.scheduler.block_manager.descent
    waited = 0
    for _ in range(400):
        wake_at_us = rig.driver.step()
        if answer.ended:
            break
        if descent.stalls_until_us is not None:
            waited += 1
            assert wake_at_us is not None
            rig.clock.sleep_us(max(0, wake_at_us - rig.clock.now_us()))
    assert answer.ended
    assert 0 < waited < 40
    assert descent.wanted_losses > descent.needless_losses == 0
    assert descent.stalls_until_us is None


@settings(max_examples=40, deadline=None)
@given(
    tokens=st.lists(st.integers(4, 90), min_size=8, max_size=24),
    device=st.integers(7, 10),
    host=st.integers(1, 5),
    disk=st.integers(1, 9),
)
def test_blocks_of_many_sizes_never_take_each_others_records_for_ever(
    tokens: list[int], device: int, host: int, disk: int
) -> None:
    """On a full disk the record of a block on the host is not spare: once it was, writes went on for ever and
    every turn waited for them."""
    rig = rig_of(device=device, host=host, disk=disk)
    for number, count in enumerate(tokens):
        turn(rig, f"a{number % 5}", number, tokens=count)
    assert rig.driver.snapshot().waiting == 0


def test_a_turn_that_was_cancelled_takes_its_impatience_with_it() -> None:
    """The next one that has to wait is as patient as if it were the first, however long ago that was."""
    rig = rig_of(device=6, host=2, disk=60)
    turn(rig, "resting", 1)
    rig.tiers.stalled = True
    table = rig.driver.scheduler.table
    rig.ask((120, *range(97, 180)), 2, agent="given up")
    rig.driver.step()
    assert len(table.waiting) == 1, "it waits for writes"
    rig.driver.cancel(rig.driver._next_request)
    rig.driver.step()
    rig.clock.sleep_us(60_000_000)
    rig.ask((121, *range(97, 180)), 2, agent="next")
    rig.driver.step()
    assert len(table.waiting) == 1, "it waits too"
    rig.clock.sleep_us(1_000_000)
    rig.driver.step()
    assert len(table.running) == 1, "but not for ever"


def test_writes_that_a_turn_needs_start_together_and_those_ahead_of_need_a_few_at_a_time() -> None:
    """Room is made between steps: a few writes for each would leave the disk idle for most of a step."""
    rig = rig_of(device=40, host=40, disk=200)
    for number in range(10):
        turn(rig, f"cold{number}", number)
    memory = rig.driver.scheduler.block_manager
    rig.tiers.stalled = True
    rig.driver.demote_idle(KvTier.HOST)
    rig.driver.step()
    assert memory.host_used > 30 * memory.config.block_bytes
    assert memory.writes_in_flight <= 8, "ahead of need"
    rig.settle()
    for number in range(10):
        turn(rig, f"warm{number}", 30 + number)
    rig.tiers.stalled = True
    answer = rig.ask([5, *range(1, 250), *range(1, 250)], 4, agent="long")
    for _ in range(3):
        rig.driver.step()
    assert memory.writes_in_flight > 12, "for its room"
    rig.settle()
    assert answer.ended
