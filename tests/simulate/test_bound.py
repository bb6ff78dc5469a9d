"""The lower bound on the cost of misses: right where it can be computed by hand, and never beaten."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.policy.scheduler import Scheduler
from stepwell.simulate.bound import Bound, miss_bound, uses_of
from stepwell.simulate.calibrate import calibrated, working_set_blocks
from stepwell.simulate.generated import generated
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.machine import Machine
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.run import Room, bound_of, config_for, simulate
from stepwell.simulate.timeline import Episode, Timeline

pytest.importorskip("highspy", reason="the solver is not installed")

MODEL = MachineModel()
UNIT = 16


def episode(name: str, ready_us: int, closed_us: int, units: int = 8, held: int | None = None) -> Episode:
    """A turn of one context; contexts of different names share nothing."""
    names = [f"{name}{n}".encode() for n in range(max(units, held or 0))]
    return Episode(names, units, ready_us, closed_us, held or units)


def bound(episodes: list[Episode], device: int, below: int) -> Bound:
    """``device`` and ``below`` in blocks of 64 tokens."""
    timeline = Timeline(UNIT, episodes)
    return miss_bound(timeline, MODEL, device=device, everything=device + below, block_tokens=64)


TWO_AGENTS = [episode("a", 10, 20), episode("b", 30, 40), episode("a", 50, 60), episode("b", 70, 80)]
"""Two contexts of 128 tokens (two blocks), used in turn."""
AGAIN_S = MODEL.prefill_us(0, 128) / 1e6
COPY_S = 2 * MODEL.copy_us_per_block / 1e6


@pytest.mark.parametrize(
    ("device", "below", "again_s", "copy_s"),
    [
        (4, 0, 0.0, 0.0),  # both stay on the device
        (2, 2, 0.0, 2 * COPY_S),  # one rests on the host while the other runs
        (2, 0, 2 * AGAIN_S, 0.0),  # each drives out the other
        (2, 1, AGAIN_S, COPY_S),  # half of each is kept, at the average cost of its tokens
    ],
)
def test_two_agents_by_hand(device: int, below: int, again_s: float, copy_s: float) -> None:
    found = bound(TWO_AGENTS, device, below)
    assert found.again_s == pytest.approx(again_s)
    assert found.copy_s == pytest.approx(copy_s)
    assert found.miss_s == pytest.approx(again_s + copy_s)


def test_what_two_running_turns_share_is_held_once_and_never_missed() -> None:
    uses = uses_of(Timeline(UNIT, [episode("a", 10, 50), episode("a", 20, 40)]))
    assert uses.reuses == []
    assert sorted(uses.held) == [(10, 8), (50, -8)]


def test_a_deeper_unit_is_of_no_use_without_those_before_it() -> None:
    """The beginning is held by a running turn of somebody else, the rest was used long before."""
    first, second = episode("a", 10, 20, units=8), episode("a", 30, 40, units=4)
    third = episode("a", 50, 60, units=8)
    uses = uses_of(Timeline(UNIT, [first, second, third]))
    assert [(use.first, use.stop, use.above) for use in uses.reuses] == [
        (0, 4, None),
        (0, 4, None),
        (4, 8, 1),
    ]


def test_nothing_used_twice_costs_nothing() -> None:
    assert bound([episode("a", 10, 20), episode("b", 30, 40)], 1, 0) == Bound(0.0, 0.0, 0.0)
    assert bound([], 1, 0) == Bound(0.0, 0.0, 0.0)


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(1, 30), st.integers(1, 30), st.integers(1, 12)),
        min_size=1,
        max_size=12,
    ),
    st.integers(1, 6),
    st.integers(0, 6),
)
def test_more_room_never_costs_more(turns: list[tuple[str, int, int, int]], device: int, below: int) -> None:
    now_us, episodes = 0, []
    for name, pause_us, takes_us, units in turns:
        episodes.append(episode(name, now_us + pause_us, now_us + pause_us + takes_us, units))
        now_us += pause_us
    smaller, larger = bound(episodes, device, below), bound(episodes, device + 1, below + 1)
    assert 0 <= larger.miss_s <= smaller.miss_s + 1e-9


@given(
    st.integers(0, 10**6),
    st.integers(2, 8),
    st.sampled_from(["lru", "stepwell", "oracle", "priority-lru"]),
    st.sampled_from([(0, 0), (1, 0), (2, 4)]),
)
@settings(max_examples=12, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_no_policy_beats_it(seed: int, share: int, policy: str, below: tuple[int, int]) -> None:
    workload, _ = calibrated(generated(sessions=5, seed=seed), MODEL)
    device = max(8, working_set_blocks(workload) // share)
    config = config_for(workload, MODEL, Room(device, below[0] * device, below[1] * device), policy)
    run = simulate(workload, MODEL, config, Declared.parse("silent"), bounded=True)
    assert run.bound is not None and run.miss_s >= run.bound.miss_s - 1e-9


def test_a_run_holds_what_its_turns_hold() -> None:
    """At no moment do running turns hold more than there is on the device."""
    workload, _ = calibrated(generated(sessions=6, seed=4), MODEL)
    config = config_for(workload, MODEL, Room(working_set_blocks(workload) // 4, 8, 8), "lru")
    player = Player(workload, Declared.parse("silent"))
    machine = Machine(Scheduler(config), MODEL, player, SimulatedMeter(MODEL, workload.unit_tokens))
    machine.run()
    changes: dict[int, int] = {}
    for at_us, change in uses_of(machine.timeline).held:
        changes[at_us] = changes.get(at_us, 0) + change
    held = 0
    for at_us in sorted(changes):
        held += changes[at_us]
        assert 0 <= held * workload.unit_tokens <= config.device_blocks * config.block_tokens
    assert held == 0 and bound_of(machine).miss_s > 0
    assert all(episode.closed_us >= episode.ready_us for episode in machine.timeline.episodes)
