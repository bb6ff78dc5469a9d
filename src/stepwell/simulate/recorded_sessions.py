"""A live server's recording as sessions that answer to each other: agents wait for agents as they did then.

A turn comes after the turn of its agent before it. If its agent then waited for a tool, after nothing else;
otherwise also after every turn of its session that had ended when it came, because a crew begins a round when
all of the one before have answered. What is told between turns stands with the last turn that had ended.

The role (the digest of a system prompt where no name was given), the tools and the end of the session
are the recording's own. Names of customers, sessions and blocks are not kept.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from stepwell.errors import BadInput
from stepwell.policy.types import Hint, Hinted, RequestId, Wait
from stepwell.recording.file import read_recording
from stepwell.simulate.recorded import Recorded, RecordedTurn, recorded_workload
from stepwell.simulate.workload import (
    AgentSpec,
    SaidLater,
    SaidPause,
    SessionSpec,
    TurnSpec,
    Workload,
    runs_of,
)

_END = 1 << 62


@dataclass(slots=True)
class _Session:
    """One session's turns, in the order in which they came."""

    name: str
    turns: list[RecordedTurn] = field(default_factory=list)
    agents: dict[str, int] = field(default_factory=dict)
    hints: list[tuple[int, Hinted]] = field(default_factory=list)
    """What was told between turns, and when."""
    seen: dict[RequestId, Hint] = field(default_factory=dict)
    """What the server saw in an answer."""


def sessions_of_recording(path: Path, name: str, block_tokens: int) -> Workload:
    """All sessions of the recording, each a closed loop of its own. ``BadInput`` or ``RecordingError``: it
    holds none, or it is damaged."""
    config, steps = read_recording(path)
    found = recorded_workload(config, steps)
    sessions = [_spec(one) for one in _sessions(found)]
    if not sessions:
        raise BadInput(f"{path} holds no turns: there is nothing to play")
    first_us = min(session.start_us for session in sessions)
    moved = tuple(replace(one, start_us=one.start_us - first_us) for one in sessions)
    note = f"{len(moved)} recorded sessions; a turn comes after those that it came after there"
    unit = config.unit_tokens
    return Workload(name, moved, unit, max(unit, block_tokens // unit * unit), notes=(note,))


def _sessions(found: Recorded) -> list[_Session]:
    sessions: dict[tuple[str, str], _Session] = {}
    of_agent: dict[tuple[str, str], _Session] = {}
    of_request: dict[RequestId, _Session] = {}
    for request, turn in found.turns.items():
        caller = turn.recorded.caller
        key = caller.tenant, caller.session or f"r{request}"
        session = sessions.setdefault(key, _Session(key[1]))
        session.turns.append(turn)
        session.agents.setdefault(caller.agent, len(session.agents))
        of_agent[caller.tenant, caller.agent] = of_request[request] = session
    for at_us, event in found.others:
        if not isinstance(event, Hinted):
            continue
        if event.request in of_request:
            of_request[event.request].seen[event.request] = event.hint
        elif (event.tenant, event.agent) in of_agent:
            of_agent[event.tenant, event.agent].hints.append((at_us, event))
    return list(sessions.values())


def _spec(session: _Session) -> SessionSpec:
    turns, caller = session.turns, session.turns[0].recorded.caller
    known: dict[bytes, int] = {}
    after: dict[int, tuple[int, ...]] = {}
    specs = []
    for number, turn in enumerate(turns):
        after[number] = _after(session, number, after)
        names = [known.setdefault(unit, len(known)) for unit in turn.recorded.units]
        specs.append(_turn(session, number, after[number], names))
    agents = []
    for name, place in session.agents.items():
        own = tuple(n for n, turn in enumerate(turns) if session.agents[turn.recorded.caller.agent] == place)
        first = turns[own[0]].recorded.caller
        agents.append(AgentSpec(name or "main", first.role, first.parent_agent or None, own))
    told = tuple(_with_hints(session, specs))
    return SessionSpec(
        session.name, caller.tenant, caller.service_tier, turns[0].at_us, tuple(agents), told, linked=True
    )


def _turn(session: _Session, number: int, after: Sequence[int], names: Sequence[int]) -> TurnSpec:
    turn = session.turns[number]
    recorded, begin_us = turn.recorded, session.turns[0].at_us
    waited_us = max((session.turns[n].ended_us for n in after), default=turn.at_us)
    pause = _pause(session, number)
    seen = session.seen.get(recorded.request, Hint(Wait.PERSON))
    agent = recorded.caller.agent
    following = next((t for t in session.turns[number + 1 :] if t.recorded.caller.agent == agent), None)
    return TurnSpec(
        number=number,
        agent=session.agents[agent],
        at_us=turn.at_us - begin_us,
        gap_us=max(0, turn.at_us - waited_us),
        took_us=max(0, turn.ended_us - turn.at_us),
        prompt_tokens=recorded.prompt_tokens,
        new_tokens=max(1, turn.total - recorded.prompt_tokens),
        prompt=runs_of(names),
        grown=None,
        wait=pause.wait if following is not None else Wait.DONE,
        seen_wait=seen.wait,
        rest_us=None if following is None else max(0, following.at_us - turn.ended_us),
        after=tuple(after),
        tool=pause.tool or seen.tool,
        said=_said(session, recorded.hint),
    )


def _after(session: _Session, number: int, before: Mapping[int, tuple[int, ...]]) -> tuple[int, ...]:
    """The last turns that it came after; those that they came after themselves are not named again."""
    turn = session.turns[number]
    own = [n for n in range(number) if _agent_of(session, n) == turn.recorded.caller.agent]
    if own and _pause(session, own[-1]).wait is Wait.TOOL:
        return (own[-1],)
    ended = [n for n in range(number) if session.turns[n].ended_us <= turn.at_us]
    found = dict.fromkeys([*ended, *own[-1:]])
    implied = {earlier for n in found for earlier in _all_before(n, before)}
    return tuple(sorted(n for n in found if n not in implied))


def _all_before(number: int, before: Mapping[int, tuple[int, ...]]) -> set[int]:
    found: set[int] = set()
    open_numbers = list(before[number])
    while open_numbers:
        one = open_numbers.pop()
        if one not in found:
            found.add(one)
            open_numbers += before[one]
    return found


def _agent_of(session: _Session, number: int) -> str:
    return session.turns[number].recorded.caller.agent


def _pause(session: _Session, number: int) -> Hint:
    """What the agent waited for after the turn, by what was told last before its next turn."""
    turn, agent = session.turns[number], _agent_of(session, number)
    later = session.turns[number + 1 :]
    until_us = next((t.at_us for t in later if t.recorded.caller.agent == agent), _END)
    told = [h.hint for at_us, h in session.hints if h.agent == agent and turn.ended_us <= at_us <= until_us]
    hint = told[-1] if told else turn.recorded.hint
    return session.seen.get(turn.recorded.request, hint) if hint.wait is Wait.UNKNOWN else hint


def _said(session: _Session, hint: Hint) -> SaidPause:
    return SaidPause(hint.wait, hint.expected_us, session.agents.get(hint.after_agent or ""), hint.tool)


def _with_hints(session: _Session, specs: Sequence[TurnSpec]) -> list[TurnSpec]:
    """What was told between turns, each with the turn that had ended last."""
    later: dict[int, list[SaidLater]] = {}
    for at_us, event in session.hints:
        ended = [(t.ended_us, n) for n, t in enumerate(session.turns) if t.ended_us <= at_us]
        if ended:
            ended_us, number = max(ended)
            said = SaidLater(session.agents[event.agent], at_us - ended_us, _said(session, event.hint))
            later.setdefault(number, []).append(said)
    return [replace(spec, said_later=tuple(later.get(spec.number, ()))) for spec in specs]
