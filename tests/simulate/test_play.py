"""Playing a workload: turns follow each other as in the trace, and what is declared is what was asked."""

from __future__ import annotations

import itertools
import math
import xml.etree.ElementTree as ET
from dataclasses import replace

import pytest

from stepwell.errors import BadInput
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Event, Hinted, KvTier, Moved, Open, Plan, RequestArrived, Wait
from stepwell.simulate.bound import Bound
from stepwell.simulate.calibrate import calibrated, facts_of, working_set_blocks
from stepwell.simulate.chart import chart
from stepwell.simulate.generated import generated
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.machine import Machine, SimulationError
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.report import RunReport, latency
from stepwell.simulate.run import Room, config_for, simulate
from stepwell.simulate.workload import AgentSpec, SessionSpec, TurnSpec, Workload, part

MODEL = MachineModel()
PLENTY = Room(4_000, 4_000, 4_000)


class Watched(Scheduler):
    """Notes every event with its time."""

    seen: list[tuple[int, Event]]

    def step(self, now_us: int, events: list[Event]) -> Plan:  # type: ignore[override]
        self.seen += [(now_us, event) for event in events]
        return super().step(now_us, events)


def watch(workload: Workload, declared: str, room: Room = PLENTY) -> tuple[Watched, Machine]:
    scheduler = Watched(config_for(workload, MODEL, room, "lru"))
    scheduler.seen = []
    player = Player(workload, Declared.parse(declared))
    machine = Machine(scheduler, MODEL, player, SimulatedMeter(MODEL, workload.unit_tokens), strict=True)
    machine.run()
    return scheduler, machine


def a_turn(number: int, agent: int, **more: object) -> TurnSpec:
    prompt = ((number * 40, 20),)
    plain = TurnSpec(
        number, agent, number * 10_000_000, 0, 0, 320, 4, prompt, None, Wait.TOOL, Wait.TOOL, None
    )
    return replace(plain, **more)  # type: ignore[arg-type]


def parent_and_child() -> Workload:
    """The parent calls a child and goes on two seconds after the child has ended."""
    turns = (
        a_turn(0, 0, wait=Wait.CHILD, rest_us=30_000_000, launches=(1,), after_agent=1, noise=1.0),
        a_turn(1, 0, gap_us=2_000_000, awaits=(1,), wait=Wait.DONE),
        a_turn(2, 1, rest_us=5_000_000, noise=-2.0),
        a_turn(3, 1, gap_us=5_000_000, wait=Wait.DONE, seen_wait=Wait.PERSON),
    )
    agents = (AgentSpec("s/main", "main", None, (0, 1)), AgentSpec("s/kid", "kid", "s/main", (2, 3), 700_000))
    session = SessionSpec("s", "t", "default", 1_000_000, agents, turns)
    return Workload("small", (session,), 16, 64)


def arrivals(scheduler: Watched) -> list[tuple[int, RequestArrived]]:
    return [(at_us, event) for at_us, event in scheduler.seen if isinstance(event, RequestArrived)]


def test_a_parent_waits_for_its_child() -> None:
    scheduler, machine = watch(parent_and_child(), "silent")
    came = arrivals(scheduler)
    assert [event.caller.agent for _, event in came] == ["s/main", "s/kid", "s/kid", "s/main"]
    turns = list(machine.meter.turns.values())
    ends = [turn.arrived_us + (turn.done_us or 0) for turn in turns]
    assert turns[0].arrived_us == 1_000_000
    assert turns[1].arrived_us == ends[0] + 700_000
    assert turns[2].arrived_us == ends[1] + 5_000_000
    assert turns[3].arrived_us == ends[2] + 2_000_000
    assert (came[1][1].caller.parent_agent, came[1][1].caller.role) == ("s/main", "kid")


def test_nothing_declared_means_only_what_the_server_sees() -> None:
    scheduler, _ = watch(parent_and_child(), "silent")
    assert all(event.hint.wait is Wait.UNKNOWN for _, event in arrivals(scheduler))
    hinted = [event for _, event in scheduler.seen if isinstance(event, Hinted)]
    assert [h.hint.wait for h in hinted] == [Wait.TOOL, Wait.TOOL, Wait.PERSON, Wait.TOOL]
    assert all(h.hint.expected_us is None for h in hinted)


def test_what_is_declared_is_off_by_the_stated_error() -> None:
    for text, factor in (("exact", 0.0), ("0.5", 0.5)):
        scheduler, _ = watch(parent_and_child(), text)
        assert not any(isinstance(event, Hinted) for _, event in scheduler.seen)
        first, kid, kid_last, last = (event.hint for _, event in arrivals(scheduler))
        assert first.wait is Wait.CHILD and first.after_agent == "s/kid"
        assert first.expected_us == int(30_000_000 * math.exp(factor))
        assert kid.expected_us == int(5_000_000 * math.exp(-2 * factor))
        assert kid_last.wait is Wait.DONE and last.wait is Wait.DONE
        assert kid_last.expected_us is None and last.expected_us is None


@pytest.mark.parametrize("text", ["loud", "-1", "11", "nan"])
def test_a_wrong_error_is_one_sentence(text: str) -> None:
    with pytest.raises(BadInput, match="--declared"):
        Declared.parse(text)


def test_the_future_of_a_closed_loop() -> None:
    """A block of the child's first turn: next used in its second turn, then never."""
    workload = parent_and_child()
    turns = workload.sessions[0].turns
    session = replace(workload.sessions[0], turns=(*turns[:3], replace(turns[3], prompt=turns[2].prompt)))
    workload = replace(workload, sessions=(session,))
    player = Player(workload, Declared.parse("exact"))
    scheduler = Watched(config_for(workload, MODEL, PLENTY, "lru"))
    scheduler.seen = []
    future, asked = player.future(), []

    class Asking(SimulatedMeter):
        def ended(self, request: int, now_us: int, reason: str, new_tokens: int = 0) -> None:
            super().ended(request, now_us, reason, new_tokens)
            blocks = [b for b in scheduler.block_manager.index.blocks.values() if b.meta.depth == 0]
            asked.append((now_us, [future(block, now_us) for block in blocks]))

    Machine(scheduler, MODEL, player, Asking(MODEL, 16)).run()
    kid_second_us = arrivals(scheduler)[2][0]
    assert [len(answers) for _, answers in asked] == [1, 2, 2, 3]
    # While a turn ends it is still open to the player, so its blocks are in use now.
    assert asked[1][1][1] == asked[1][0]
    assert asked[1][1][0] is None, "nobody uses the parent's first prompt again"
    assert asked[3][1][1] is None, "the child has ended"
    assert kid_second_us > asked[1][0]


def test_an_endless_memory_computes_nothing_twice() -> None:
    workload, facts = calibrated(generated(sessions=12, seed=2), MODEL)
    run = simulate(workload, MODEL, config_for(workload, MODEL, PLENTY, "lru"), Declared.parse("silent"))
    assert run.again_tokens == 0 and run.miss_s == run.copy_in_s == 0.0
    assert run.turns == facts.turns and run.refused == 0
    assert run.prompt_tokens - run.tokens_from["device"] == pytest.approx(facts.prefill_tokens, rel=0.02)


def test_a_room_that_is_too_small_costs_and_hints_do_not_change_lru() -> None:
    workload, _ = calibrated(generated(sessions=12, seed=2), MODEL)
    device = working_set_blocks(workload) // 4
    config = config_for(workload, MODEL, Room(device, device, device), "lru")
    silent, told = (simulate(workload, MODEL, config, Declared.parse(d)) for d in ("silent", "exact"))
    assert silent.again_tokens > 0 and silent.recompute_tax > 0
    assert silent.miss_s == silent.again_s + silent.copy_in_s + silent.disk_wait_s
    assert sum(silent.tokens_from.values()) + silent.again_tokens < silent.prompt_tokens
    assert replace(told, declared="silent", steps=silent.steps, cpu_s=0.0) == replace(silent, cpu_s=0.0)


def test_the_same_seed_gives_the_same_figures() -> None:
    runs = []
    for _ in range(2):
        workload, _ = calibrated(generated(sessions=8, seed=3), MODEL)
        device = working_set_blocks(workload) // 3
        config = config_for(workload, MODEL, Room(device, device, 4 * device), "lru")
        runs.append(simulate(workload, MODEL, config, Declared.parse("0.3")))
    assert runs[0] == runs[1]


def test_strides_change_no_figure() -> None:
    workload, _ = calibrated(generated(sessions=10, seed=5), MODEL)
    device = working_set_blocks(workload) // 4
    config = config_for(workload, MODEL, Room(device, device, 4 * device), "lru")
    found = []
    for strides in (False, True):
        meter = SimulatedMeter(MODEL, workload.unit_tokens)
        machine = Machine(Scheduler(config), MODEL, Player(workload, Declared(None)), meter, strides=strides)
        machine.run()
        times = [(turn.arrived_us, turn.ttft_us, turn.done_us) for turn in meter.turns.values()]
        figures = (meter.again_us, meter.copy_in_us, meter.disk_wait_us, meter.bytes_moved, machine.now_us)
        found.append((times, figures, machine.steps))
    assert found[0][:2] == found[1][:2]
    assert found[1][2] < found[0][2] / 2


def test_a_context_that_cannot_fit_is_refused_and_the_session_goes_on() -> None:
    workload = parent_and_child()
    scheduler, machine = watch(workload, "silent", Room(3, 3, 3))
    reasons = [turn.reason for turn in machine.meter.turns.values()]
    assert reasons == ["context_length_exceeded"] * 4
    assert len(arrivals(scheduler)) == 4


def test_a_policy_that_lets_a_turn_wait_for_ever_is_found_out() -> None:
    class Deaf(Scheduler):
        def step(self, now_us: int, events: object) -> Plan:
            return Plan()

    workload = parent_and_child()
    scheduler = Deaf(config_for(workload, MODEL, PLENTY, "lru"))
    with pytest.raises(SimulationError, match="1 turns wait"):
        Machine(scheduler, MODEL, Player(workload, Declared(None)), SimulatedMeter(MODEL, 16)).run()


def test_facts_and_the_working_set_of_a_small_workload() -> None:
    """Two turns share 16 of 20 units; a block lives from its first to its last use."""
    first = a_turn(0, 0, prompt=((0, 20),), rest_us=1)
    second = a_turn(1, 0, prompt=((0, 16), (90, 4)))
    agent = AgentSpec("a", "", None, (0, 1))
    session = SessionSpec("s", "t", "flex", 0, (agent,), (first, second))
    workload = Workload("w", (session, replace(session, name="s2", start_us=100_000_000)), 16, 64)
    facts = facts_of(workload, MODEL)
    assert (facts.turns, facts.units, facts.units_hit, facts.unique_units) == (4, 80, 32, 48)
    assert facts.prefill_tokens == 2 * (320 + 64)
    assert working_set_blocks(workload) == 4  # the sessions do not overlap, the last block is used once
    assert working_set_blocks(replace(workload, shared="all")) == 6  # all are used by the second session too


def test_generated_sessions_hold_together() -> None:
    workload = generated(sessions=30, seed=4)
    assert workload == generated(sessions=30, seed=4) != generated(sessions=30, seed=5)
    children = 0
    for session in workload.sessions:
        for agent in session.agents:
            turns = [session.turns[number] for number in agent.turns]
            children += agent.parent is not None
            assert turns[-1].wait is Wait.DONE and turns[-1].rest_us is None
            for before, after in itertools.pairwise(turns):
                units = (before.prompt_tokens + before.new_tokens) // workload.unit_tokens
                assert part(after.prompt, 0, units) == part(before.prompt + (before.grown or ()), 0, units)
                assert after.awaits == before.launches and after.at_us > before.at_us
    assert children > 3
    assert {session.service_tier for session in workload.sessions} == {"priority", "default", "flex"}


# --- figures ----------------------------------------------------------------------------------


def runs_of_three() -> list[RunReport]:
    workload, _ = calibrated(generated(sessions=10, seed=6), MODEL)
    device = working_set_blocks(workload) // 6
    found = []
    for name in ("lru", "ttl", "oracle"):
        config = config_for(workload, MODEL, Room(device, 2 * device, 4 * device), name)
        found.append(simulate(workload, MODEL, config, Declared.parse("silent")))
    return found


def test_the_oracle_costs_less_than_lru() -> None:
    lru, _, oracle = runs_of_three()
    assert oracle.miss_s < lru.miss_s
    assert lru.bound is None and lru.times_bound is None


def test_the_chart_is_a_picture_with_every_policy_in_it() -> None:
    runs = [replace(run, bound=Bound(run.miss_s / 2, 0.0, run.miss_s / 2)) for run in runs_of_three()]
    svg = ET.fromstring(chart("generated <1/6>", runs))
    assert svg.tag == "{http://www.w3.org/2000/svg}svg"
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    assert {"lru", "ttl", "oracle", "2.00x", "generated <1/6>: cost of misses"} <= set(texts)
    bars = [e for e in svg.iter("{http://www.w3.org/2000/svg}rect") if e.get("class") == "again"]
    assert len(bars) == 1 + len(runs)
    again = sorted(float(bar.get("width", "0")) for bar in bars[1:])
    assert again[-1] == max(again) > 0


def test_a_policy_that_thrashes_does_not_hide_the_others() -> None:
    """Its bar is cut and marked; the others keep their length."""
    runs = runs_of_three()
    wide = replace(runs[1], miss_s=90 * runs[0].miss_s, again_s=90 * runs[0].miss_s)
    svg = ET.fromstring(chart("t", [runs[0], wide]))
    texts = [element.text for element in svg.iter("{http://www.w3.org/2000/svg}text")]
    bars = [e for e in svg.iter("{http://www.w3.org/2000/svg}rect") if e.get("y") == "84"]
    assert texts.count("»") == 1
    assert sum(float(bar.get("width", "0")) for bar in bars) == pytest.approx(540 / 2.5, abs=1)


def test_percentiles_are_those_of_the_nearest_rank() -> None:
    assert latency([]).count == 0
    some = latency([1_000_000 * n for n in range(1, 101)])
    assert (some.count, some.p50_s, some.p90_s, some.p99_s) == (100, 50.0, 90.0, 99.0)
    assert latency([7_000_000]).p99_s == 7.0


def test_hits_are_counted_where_a_turn_found_its_prompt() -> None:
    """One agent's second turn finds what its first left: on the device."""
    first = a_turn(0, 0, prompt=((0, 20),), rest_us=1_000)
    second = a_turn(1, 0, prompt=((0, 20), (90, 8)), prompt_tokens=448, gap_us=1_000)
    session = SessionSpec("s", "t", "flex", 0, (AgentSpec("a", "", None, (0, 1)),), (first, second))
    _, machine = watch(Workload("w", (session,), 16, 64), "silent")
    assert machine.meter.tokens_from == {KvTier.DEVICE: 320, KvTier.HOST: 0, KvTier.DISK: 0}
    assert machine.meter.prefill_tokens == 320 + 128 and machine.meter.decode_tokens == 6


def test_a_read_is_of_use_when_a_turn_is_admitted_with_it() -> None:
    """Two blocks come up from disk, one of them is used, and only once counted."""
    meter = SimulatedMeter(MODEL, 16)
    for name in (b"used", b"idle"):
        meter.moved(Moved(name, KvTier.DISK, KvTier.HOST, True, 1_000, 5))
    meter.moved(Moved(b"used", KvTier.HOST, KvTier.DEVICE, True, 1_000, 5))
    for request in (1, 2):
        meter.opened(Open(request, (b"used", b"other"), 128, 64, 0, 64, 0))
    assert (meter.useful_read_bytes, meter.bytes_moved["disk_host"]) == (1_000, 2_000)
    assert meter.tokens_from[KvTier.DISK] == 128 and meter.copy_in_us == 5


@pytest.mark.parametrize(
    ("start", "total", "again_tokens"),
    [(6, 8, 0), (4, 8, 2), (0, 8, 6), (6, 9, 2)],
)
def test_the_unit_of_the_last_token_is_no_miss(start: int, total: int, again_tokens: int) -> None:
    """It is computed for the sake of the next token, with all of it stored as well."""
    meter, units = SimulatedMeter(MODEL, 2), [name.encode() for name in "abcd"]
    meter.computed(units, 0, 8, 8, prefilled=True)
    assert meter.again_tokens == 0
    meter.computed(units, start, total, total, prefilled=True)
    assert meter.again_tokens == again_tokens
    assert meter.again_us == MODEL.prefill_us(start, start + again_tokens)
