"""A recorded crew as sessions: who waits for whom, and what was told reaches the policy as it did live."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepwell.errors import BadInput
from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import (
    Caller,
    Event,
    Hint,
    Hinted,
    Plan,
    Progressed,
    RequestArrived,
    RequestCancelled,
    Wait,
)
from stepwell.recording.file import Recorder
from stepwell.simulate.crews import crews
from stepwell.simulate.exchange import write_sessions
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.machine import Machine
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.recorded_sessions import sessions_of_recording
from stepwell.simulate.run import Room, config_for
from stepwell.simulate.workload import SaidPause, SessionSpec, Workload
from stepwell.simulate.workloads import Wanted, workload_of

UNIT = 16
CONFIG = PolicyConfig(
    block_tokens=64, unit_tokens=UNIT, device_blocks=8, block_bytes=64, token_bytes=1, host_bytes=0,
    disk_bytes=0,
)  # fmt: skip


def asks(request: int, agent: str, *names: int, hint: Hint | None = None) -> RequestArrived:
    """An agent of session ``run``; its prompt is whole units."""
    parent = None if agent == "lead" else "run/lead"
    caller = Caller("acme", "default", "run", f"run/{agent}", parent, role=agent[:4])
    units = tuple(bytes([name]) * 16 for name in names)
    return RequestArrived(request, caller, UNIT * len(names), 8, units, hint or Hint())


def answers(request: int, total: int) -> Progressed:
    return Progressed(request, total, total, (), b"", "stop")


def tells(agent: str, hint: Hint, request: int = 0) -> Hinted:
    return Hinted(request, "acme", f"run/{agent}", hint)


ROUND: tuple[tuple[int, Event], ...] = (
    (10, asks(1, "lead", 1, hint=Hint(Wait.CHILD, after_agent="run/"))),
    (20, answers(1, 20)),
    (22, asks(2, "hand-1", 2, 3, hint=Hint(Wait.AGENT, after_agent="run/lead"))),
    (22, asks(3, "hand-2", 2, 3)),
    (30, answers(3, 40)),
    (31, tells("hand-2", Hint(Wait.TOOL, 5_000_000, tool="sql"))),
    (35, asks(4, "hand-2", 2, 3, 4)),
    (40, answers(2, 37)),
    (50, answers(4, 60)),
    (53, asks(5, "lead", 1, 5)),
    (60, RequestCancelled(5)),
    (61, tells("lead", Hint(Wait.DONE))),
)


def recorded(path: Path, events: Sequence[tuple[int, Event]] = ROUND) -> Path:
    recorder = Recorder(path, CONFIG)
    for at_s, event in events:
        recorder.decided(at_s * 1_000_000, [event], Plan())
    recorder.close()
    return path


def session_of(path: Path) -> SessionSpec:
    (session,) = sessions_of_recording(recorded(path), "crew", 64).sessions
    return session


def test_a_turn_comes_after_those_that_it_came_after(tmp_path: Path) -> None:
    """One that its tool held up waits for its own turn alone; a round for all of the one before."""
    turns = session_of(tmp_path / "run.jsonl").turns
    assert [turn.after for turn in turns] == [(), (0,), (0,), (2,), (1, 3)]
    assert [turn.gap_us // 1_000_000 for turn in turns] == [0, 2, 2, 5, 3]
    assert [turn.new_tokens for turn in turns] == [4, 5, 8, 12, 1], "of a cancelled one what was there"
    assert [turn.wait for turn in turns] == [Wait.CHILD, Wait.DONE, Wait.TOOL, Wait.DONE, Wait.DONE]
    assert turns[0].rest_us == 33_000_000 and turns[4].rest_us is None


def test_roles_tools_and_the_end_are_the_recordings_own(tmp_path: Path) -> None:
    session = session_of(tmp_path / "run.jsonl")
    assert [(agent.role, agent.turns) for agent in session.agents] == [
        ("lead", (0, 4)), ("hand", (1,)), ("hand", (2, 3)),
    ]  # fmt: skip
    assert session.turns[1].said == SaidPause(Wait.AGENT, after=0)
    assert session.turns[2].tool == "sql"
    (told,) = session.turns[2].said_later
    assert (told.agent, told.delay_us, told.said) == (
        2,
        1_000_000,
        SaidPause(Wait.TOOL, 5_000_000, tool="sql"),
    )
    (done,) = session.turns[3].said_later
    assert (done.agent, done.said.wait) == (0, Wait.DONE)


def test_sessions_that_were_written_are_the_same_when_read(tmp_path: Path) -> None:
    made = sessions_of_recording(recorded(tmp_path / "run.jsonl"), "crew", 64)
    file = tmp_path / "crew.sessions.jsonl"
    assert write_sessions(made, file) == 1
    read, _ = workload_of(Wanted(str(file), block_tokens=64))
    assert (read.unit_tokens, read.block_tokens) == (UNIT, 64), "at their own length"
    (one,), (other,) = made.sessions, read.sessions
    names = {number: place for place, number in enumerate(t for a in one.agents for t in a.turns)}
    for turn in one.turns:
        back = other.turns[names[turn.number]]
        same = replace(
            back, number=turn.number, after=turn.after, noise=0.0, grown=None, took_us=turn.took_us,
            at_us=turn.at_us, rest_us=turn.rest_us,
        )  # fmt: skip
        assert same == turn
        assert back.after == tuple(names[number] for number in turn.after)
    assert [agent.role for agent in other.agents] == ["lead", "hand", "hand"]


def heard(workload: Workload, declared: str) -> list[tuple[str, Hint]]:
    """What the policy is told of each agent, in order: with its turns, and between them."""
    model, found = MachineModel(), []

    class Listener:
        def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
            for event in events:
                if isinstance(event, RequestArrived):
                    found.append((event.caller.agent, event.hint))
                elif isinstance(event, Hinted):
                    found.append((event.agent, event.hint))

        def close(self, now_us: int) -> None:
            pass

    blocks = -(-workload.context_tokens // workload.block_tokens) + 1
    config = config_for(workload, model, Room(4 * blocks, 8 * blocks, 8 * blocks), "stepwell")
    player = Player(workload, Declared.parse(declared))
    meter = SimulatedMeter(model, workload.unit_tokens)
    machine = Machine(Scheduler(config), model, player, meter, strict=True)
    machine.loop.observers.append(Listener())
    machine.run()
    assert meter.turns and all(turn.reason == "stop" for turn in meter.turns.values())
    return found


def test_what_was_told_live_is_told_again(tmp_path: Path) -> None:
    workload = sessions_of_recording(recorded(tmp_path / "run.jsonl"), "crew", 64)
    told = heard(workload, "recorded")
    assert ("run/hand-1", Hint(Wait.AGENT, after_agent="run/lead")) in told
    assert ("run/hand-2", Hint(Wait.TOOL, 5_000_000, tool="sql")) in told
    assert ("run/lead", Hint(Wait.DONE)) in told
    silent = [hint for _, hint in heard(workload, "silent")]
    assert {hint.wait for hint in silent} == {Wait.UNKNOWN, Wait.PERSON}, "the server saw plain answers"
    exact = [hint for agent, hint in heard(workload, "exact") if agent == "run/hand-2"]
    assert exact == [Hint(Wait.TOOL, 5_000_000, tool="sql"), Hint(Wait.DONE)]


def test_requests_that_wait_for_each_other_are_one_sentence(tmp_path: Path) -> None:
    file = tmp_path / "crew.sessions.jsonl"
    write_sessions(sessions_of_recording(recorded(tmp_path / "run.jsonl"), "crew", 64), file)
    record: dict[str, Any] = json.loads(file.read_text())
    record["requests"][0]["after"] = [4]
    file.write_text(json.dumps(record))
    with pytest.raises(BadInput, match="wait for each other"):
        workload_of(Wanted(str(file)))
    record["requests"][0]["after"] = [77]
    file.write_text(json.dumps(record))
    with pytest.raises(BadInput, match="do not fit together"):
        workload_of(Wanted(str(file)))


def test_only_a_recording_can_be_closed(tmp_path: Path) -> None:
    path = recorded(tmp_path / "run.jsonl")
    closed, _ = workload_of(Wanted(str(path), closed=True, block_tokens=64))
    assert closed.sessions[0].linked and not workload_of(Wanted(str(path)))[0].sessions[0].linked
    with pytest.raises(BadInput, match="--closed is for recordings"):
        workload_of(Wanted("generated", closed=True))


def test_the_crews_that_ship() -> None:
    workload = crews()
    assert len(workload.sessions) == 9 and sum(1 for _ in workload.turns()) == 80
    assert {turn.tool for turn in workload.turns()} == {"", "sql"}
    roles = {agent.role for session in workload.sessions for agent in session.agents}
    assert roles == {"planner", "reader", "verifier", "coder", "analyst"}
    told = heard(crews(sessions=6, seed=2), "recorded")
    assert {hint.wait for _, hint in told} >= {Wait.TOOL, Wait.AGENT, Wait.CHILD, Wait.PERSON, Wait.DONE}
