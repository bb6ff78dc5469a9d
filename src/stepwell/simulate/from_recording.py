"""A live server's recording as a workload of the simulated fleet.

Turns are an open loop, as in ``stepwell replay``: each comes when it came, from the caller it came from,
whatever the simulated machines make of the one before. Names are the recording's own, so what was shared
between agents of a tenant still is.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.errors import BadInput
from stepwell.policy.types import Hinted, RequestId, Wait
from stepwell.recording.file import read_recording
from stepwell.simulate.recorded import Recorded, RecordedTurn, recorded_workload
from stepwell.simulate.workload import AgentSpec, Runs, SessionSpec, TurnSpec, Workload, runs_of


def workload_of_recording(path: Path, name: str, block_tokens: int) -> Workload:
    """Every turn of the recording. ``BadInput`` or ``RecordingError``: it holds none, or it is damaged."""
    config, steps = read_recording(path)
    found = recorded_workload(config, steps)
    if not found.turns:
        raise BadInput(f"{path} holds no turns: there is nothing to play")
    unit = config.unit_tokens
    numbers = _Numbers()
    waits, rests = _waits(found), _rests(found)
    sessions = tuple(
        _session(turn, request, numbers, unit, waits.get(request, Wait.UNKNOWN), rests.get(request))
        for request, turn in found.turns.items()
    )
    notes = [f"{len(sessions)} recorded turns, each comes when it came (open loop)"]
    if found.unfinished:
        notes.append(f"{found.unfinished} of them had not ended: they generate what is known of them")
    block = max(unit, block_tokens // unit * unit)
    return Workload(name, sessions, unit, block, shared=name, notes=tuple(notes))


@dataclass(slots=True)
class _Numbers:
    """Recorded names as integers, in the order in which they were seen: a prefix is a run."""

    known: dict[bytes, int] = field(default_factory=dict)

    def runs(self, names: Iterable[bytes]) -> Runs:
        return runs_of(self.known.setdefault(name, len(self.known)) for name in names)


def _session(
    turn: RecordedTurn, request: RequestId, numbers: _Numbers, unit: int, wait: Wait, rest_us: int | None
) -> SessionSpec:
    """One turn. Without an agent's name the player sends none, as the recording's caller did."""
    recorded, caller = turn.recorded, turn.recorded.caller
    prompt = tuple(recorded.units)
    whole = (recorded.prompt_tokens + turn.new_tokens) // unit
    spec = TurnSpec(
        number=0,
        agent=0,
        at_us=0,
        gap_us=0,
        took_us=max(0, turn.ended_us - turn.at_us),
        prompt_tokens=recorded.prompt_tokens,
        new_tokens=turn.new_tokens,
        prompt=numbers.runs(prompt),
        grown=numbers.runs(turn.units_known[len(prompt) : whole]) or None,
        wait=wait,
        seen_wait=wait,
        rest_us=rest_us,
    )
    agent = AgentSpec(caller.agent, caller.role, caller.parent_agent or None, (0,))
    return SessionSpec(
        caller.session or f"r{request}", caller.tenant, caller.service_tier, turn.at_us, (agent,), (spec,)
    )


def _waits(found: Recorded) -> dict[RequestId, Wait]:
    """What each agent waited for after its turn: what came with it, or what the server saw at its end."""
    waits = {request: turn.recorded.hint.wait for request, turn in found.turns.items()}
    for _, event in found.others:
        if isinstance(event, Hinted) and event.hint.wait is not Wait.UNKNOWN:
            waits[event.request] = event.hint.wait
    return waits


def _rests(found: Recorded) -> dict[RequestId, int]:
    """Microseconds from a turn's end to the next turn of its agent."""
    latest: dict[tuple[str, str, str], int] = {}
    rests: dict[RequestId, int] = {}
    for request, turn in reversed(found.turns.items()):
        caller = turn.recorded.caller
        key = (caller.tenant, caller.session, caller.agent)
        if caller.agent and key in latest:
            rests[request] = max(0, latest[key] - max(turn.ended_us, turn.at_us))
        latest[key] = turn.at_us
    return rests
