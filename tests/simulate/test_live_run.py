"""What a recording and its clients say of a machine: a machine that is known is found again, and its clients
see the same times once more."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import RequestId
from stepwell.recording.file import Recorder
from stepwell.simulate.generated import generated
from stepwell.simulate.live_run import (
    ClientTurn,
    ClosedLoop,
    LiveRun,
    fit_machine,
    front_us_of,
    matched,
    play_live,
    read_live,
    step_errors,
)
from stepwell.simulate.llamacpp_costs import LlamaCppCosts
from stepwell.simulate.machine import ComingTurn, Due, Machine
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.player import Declared, PlayedTurn, Player
from stepwell.simulate.run import Room, config_for

MODEL = LlamaCppCosts(
    lone_ps=7_000_000_000, lone_depth_ps=1_900_000, step_ps=4_000_000_000, prompt_token_ps=900_000_000,
    sequence_ps=1_500_000_000, depth_ps=700_000, tile_depth_ps=300_000, tile_sequence_ps=9_000_000,
    token_bytes=64, copy_us_per_block=200, read_bytes_per_s=10**9, write_bytes_per_s=10**9,
)  # fmt: skip
FRONT_US = 30_000


class Heard:
    """A source that keeps what its clients saw."""

    def __init__(self, player: Player) -> None:
        self.player = player
        self.machine: Machine | None = None
        self.clients: list[ClientTurn] = []

    def start(self) -> Iterator[Due]:
        yield from self.player.start()

    def ended(self, call: ComingTurn, request: RequestId, now_us: int, reason: str) -> Iterator[Due]:
        assert self.machine is not None and isinstance(call, PlayedTurn)
        turn, agent = self.machine.meter.turns[request], call.play.session.agents[call.spec.agent].name
        assert turn.ttft_us is not None and turn.done_us is not None
        sent_us = turn.arrived_us - FRONT_US
        seen = (turn.ttft_us + FRONT_US) / 1e6, (turn.done_us + FRONT_US) / 1e6
        self.clients.append(ClientTurn(agent, turn.session, sent_us / 1e6, *seen, turn.new_tokens))
        yield from self.player.ended(call, request, now_us, reason)


def live(file: Path) -> list[ClientTurn]:
    """A few sessions on a machine that is known, recorded as a server would."""
    work = generated(sessions=5, seed=4)
    config = config_for(work, MODEL, Room(600, 600, 0), "stepwell")
    source = Heard(Player(work, Declared(None)))
    meter = SimulatedMeter(MODEL, work.unit_tokens)
    machine = Machine(Scheduler(config), MODEL, source, meter, bounded=False, strides=False)
    source.machine = machine
    machine.loop.observers.append(Recorder(file, config))
    machine.run()
    machine.loop.close()
    return source.clients


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[LiveRun, list[ClientTurn]]:
    file = tmp_path_factory.mktemp("live") / "run.jsonl"
    clients = live(file)
    return read_live(file), clients


def test_the_machine_is_found_again(lived: tuple[LiveRun, list[ClientTurn]]) -> None:
    run, _ = lived
    assert len(run.steps) > 500
    model = fit_machine(run.steps[::2], run.moves, run.config)
    assert max(map(abs, step_errors(run.steps[1::2], model))) < 0.02
    assert model.copy_us_per_block in (0, MODEL.copy_us_per_block)


def test_what_a_turn_spends_outside_the_loop_is_found(lived: tuple[LiveRun, list[ClientTurn]]) -> None:
    run, clients = lived
    assert front_us_of(run, clients) == pytest.approx(FRONT_US, rel=0.05)


def test_its_clients_see_the_same_times_once_more(lived: tuple[LiveRun, list[ClientTurn]]) -> None:
    run, clients = lived
    loop = matched(run, clients, FRONT_US)
    assert len(loop.turns) == len(clients) == len(loop.first) + len(loop.after)
    found = play_live(run, loop, MODEL, FRONT_US)
    assert found.keys() == loop.turns.keys()
    for request, times in found.items():
        client = loop.turns[request]
        assert times.ttft_s == pytest.approx(client.ttft_s, rel=0.1, abs=0.05)
        assert times.e2e_s == pytest.approx(client.e2e_s, rel=0.1, abs=0.05)


def test_a_slower_machine_moves_everything_after_it(lived: tuple[LiveRun, list[ClientTurn]]) -> None:
    run, clients = lived
    lines = ("lone_ps", "lone_depth_ps", "step_ps", "prompt_token_ps", "sequence_ps", "depth_ps")
    slow = replace(MODEL, **{name: 4 * getattr(MODEL, name) for name in lines})
    loop = matched(run, clients, FRONT_US)
    assert loop.after
    for request, (gap_us, following) in loop.after.items():
        for end_us in (10**6, 10**9):  # whenever a turn ends, the next of its session begins its pause later
            (began,) = loop.ended(run.turns[request], request, end_us, "stop")
            assert began == (end_us + gap_us, following)
    quick, slower = (play_live(run, loop, model, FRONT_US) for model in (MODEL, slow))
    assert sum(t.e2e_s for t in slower.values()) > 2 * sum(t.e2e_s for t in quick.values())


def test_turns_of_others_and_unknown_clients_are_left_out(lived: tuple[LiveRun, list[ClientTurn]]) -> None:
    run, clients = lived
    loop = matched(run, [*clients[:1], ClientTurn("x", "nobody", 0.0, 1.0, 2.0, 3)], 0)
    assert isinstance(loop, ClosedLoop) and len(loop.turns) == 1
    assert matched(run, [], 0).turns == {}


def test_a_turn_of_one_token_has_no_time_per_token() -> None:
    assert ClientTurn("a", "s", 0.0, 1.0, 1.0, 1).tpot_s is None
    assert ClientTurn("a", "s", 0.0, 1.0, 3.0, 5).tpot_s == 0.5
