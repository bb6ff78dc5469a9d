"""Sessions whose turns say after which others they come, in files: written and read.

kv-cache-tester's format knows a main agent and children that run once. The agents of a crew are called again
and again, each after several others, so a request may say more; a reader of the plain format passes it over:

    n            the request's number within the session
    after        numbers of the requests that must have ended before it; ``think_time`` counts from the last
    wait, tool   what its agent waited for afterwards, and which tool
    said         what the runtime told the server with it: next, expected_ms, after_agent, tool
    said_later   what it told after it: the same, the agent that it is about, and after how many ms
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

from stepwell.errors import BadInput
from stepwell.policy.types import Wait
from stepwell.simulate.workload import SaidLater, SaidPause, SessionSpec, TurnSpec

Record = dict[str, Any]


def own_name(name: str, session: str) -> str:
    """An agent's name without that of its session."""
    return name.removeprefix(f"{session}/")


# --- written ----------------------------------------------------------------------------------


def links_of(session: SessionSpec, turn: TurnSpec) -> Record:
    """What a request of a linked session says beyond the plain format."""
    names = [own_name(agent.name, session.name) for agent in session.agents]
    found: Record = {"n": turn.number, "after": list(turn.after), "wait": turn.wait.value}
    if turn.tool:
        found["tool"] = turn.tool
    if turn.said != SaidPause():
        found["said"] = _written(turn.said, names)
    if turn.said_later:
        found["said_later"] = [
            {"agent": names[one.agent], "after_ms": one.delay_us / 1000, **_written(one.said, names)}
            for one in turn.said_later
        ]
    return found


def _written(said: SaidPause, names: Sequence[str]) -> Record:
    found: Record = {"next": said.wait.value}
    if said.expected_us is not None:
        found["expected_ms"] = said.expected_us / 1000
    if said.after is not None:
        found["after_agent"] = names[said.after]
    if said.tool:
        found["tool"] = said.tool
    return found


# --- read -------------------------------------------------------------------------------------


def linked_turns(
    requests: Sequence[Mapping[str, Any]], turns: Sequence[TurnSpec], names: Sequence[str]
) -> list[TurnSpec]:
    """The turns with what their requests say beyond the plain format. ``names``: of the agents.

    ``BadInput``: an agent, a wait or a request that there is not, or one that waits for itself.
    """
    try:
        numbers = {request["n"]: turn.number for request, turn in zip(requests, turns, strict=True)}
        found = [
            _linked(request, turn, numbers, names) for request, turn in zip(requests, turns, strict=True)
        ]
    except (KeyError, ValueError, TypeError) as error:
        raise BadInput(f"a session's requests do not fit together: {error}") from error
    if not _can_end(found):
        raise BadInput("a session's requests wait for each other, so none of them would ever come")
    return [replace(turn, rest_us=rest) for turn, rest in zip(found, _rests(found), strict=True)]


def _linked(
    request: Mapping[str, Any], turn: TurnSpec, numbers: Mapping[int, int], names: Sequence[str]
) -> TurnSpec:
    later = [
        SaidLater(names.index(one["agent"]), int(one["after_ms"] * 1000), _read(one, names))
        for one in request.get("said_later", ())
    ]
    return replace(
        turn,
        after=tuple(numbers[number] for number in request["after"]),
        gap_us=int(request["think_time"] * 1e6),
        awaits=(),
        launches=(),
        after_agent=None,
        wait=Wait(request["wait"]),
        tool=str(request.get("tool", "")),
        said=_read(request.get("said", {}), names),
        said_later=tuple(later),
    )


def _read(said: Mapping[str, Any], names: Sequence[str]) -> SaidPause:
    after, expected_ms = said.get("after_agent"), said.get("expected_ms")
    return SaidPause(
        Wait(said.get("next", Wait.UNKNOWN)),
        None if expected_ms is None else int(expected_ms * 1000),
        None if after is None else names.index(after),
        str(said.get("tool", "")),
    )


def _rests(turns: Sequence[TurnSpec]) -> Iterator[int | None]:
    """From each turn's end to the next one of its agent; None: there is none."""
    following: dict[int, int] = {}
    found: list[int | None] = []
    for turn in reversed(turns):
        next_us = following.get(turn.agent)
        found.append(None if next_us is None else max(0, next_us - turn.at_us - turn.took_us))
        following[turn.agent] = turn.at_us
    return reversed(found)


def _can_end(turns: Sequence[TurnSpec]) -> bool:
    ended: set[int] = set()
    while freed := [t.number for t in turns if t.number not in ended and ended.issuperset(t.after)]:
        ended.update(freed)
    return len(ended) == len(turns)
