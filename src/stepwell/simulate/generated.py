"""Made-up sessions of agents, where there are no traces: the same shapes, drawn from a seed.

Pauses are lognormal around the medians of the agents' trace (9 s for a tool, 291 s for a person).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from stepwell.policy.types import Wait
from stepwell.simulate.traces import BLOCK_TOKENS, TIER_NOTE, customer
from stepwell.simulate.workload import AgentSpec, Runs, SessionSpec, TurnSpec, Workload, part, run_length

UNIT_TOKENS = 16
_PAUSE_S = {Wait.TOOL: (9.0, 1.6), Wait.PERSON: (291.0, 1.3)}
_CHILDREN = 0.12
"""Chance that a turn launches a child and waits for it."""


@dataclass(slots=True)
class _Session:
    draw: random.Random
    name: str
    turns: list[TurnSpec] = field(default_factory=list)
    agents: list[AgentSpec] = field(default_factory=list)
    names: int = 0
    """Unit names given so far."""

    def new_names(self, count: int) -> Runs:
        self.names += count
        return ((self.names - count, count),)


def generated(*, sessions: int = 40, seed: int = 1) -> Workload:
    """``sessions`` sessions of 4 to 16 turns, contexts of about 500 to 6,000 tokens, some with children."""
    draw = random.Random(seed)
    found, start_s = [], 0.0
    for number in range(sessions):
        tenant, service_tier = customer(draw)
        session = _Session(draw, f"s{number:03d}")
        _agent(session, "main", draw.randint(4, 16), 0.0, None)
        turns = tuple(sorted(session.turns, key=lambda turn: turn.number))
        spec = SessionSpec(
            session.name, tenant, service_tier, int(start_s * 1e6), tuple(session.agents), turns
        )
        found.append(spec)
        start_s += draw.expovariate(1.0)
    notes = (f"{sessions} made-up sessions of agents (seed {seed})", f"{TIER_NOTE}; three tenants each")
    return Workload("generated", tuple(found), UNIT_TOKENS, BLOCK_TOKENS, notes=notes)


def _agent(session: _Session, role: str, count: int, starts_s: float, parent: str | None) -> float:
    """Add an agent with all its turns, and its children; when the trace would have it end."""
    draw, number = session.draw, len(session.agents)
    name = f"{session.name}/{role}-{number}"
    session.agents.append(AgentSpec(name, role, parent, (), 500_000))
    own: list[int] = []
    context: Runs = session.new_names(draw.randint(20, 120))
    at_s, gap_s = starts_s, 0.0
    awaited: tuple[int, ...] = ()
    for place in range(count):
        turn = _turn(session, number, at_s, gap_s, context, awaited)
        wait = draw.choices((Wait.TOOL, Wait.PERSON), (0.9, 0.1))[0]
        median_s, sigma = _PAUSE_S[wait]
        gap_s = median_s * draw.lognormvariate(0.0, sigma)
        ends_s, awaited = at_s + turn.took_us / 1e6, ()
        last = place + 1 == count
        session.turns.append(turn)
        own.append(turn.number)
        if parent is None and not last and draw.random() < _CHILDREN:
            awaited, gap_s = (len(session.agents),), 1.0
            child_ends_s = _agent(session, "child", draw.randint(2, 5), ends_s + 0.5, name)
            wait, ends_s = Wait.CHILD, child_ends_s
        context = _grow(session, turn, context, last)
        at_s = ends_s + gap_s
        rest_us = None if last else int((at_s - turn.at_us / 1e6) * 1e6) - turn.took_us
        _settle(session, turn, Wait.DONE if last else wait, rest_us, context, awaited)
    session.agents[number] = replace(session.agents[number], turns=tuple(own))
    return at_s


def _turn(
    session: _Session, agent: int, at_s: float, gap_s: float, context: Runs, awaits: Sequence[int]
) -> TurnSpec:
    new_tokens = session.draw.randint(8, 120)
    return TurnSpec(
        number=len(session.turns),
        agent=agent,
        at_us=int(at_s * 1e6),
        gap_us=int(gap_s * 1e6),
        took_us=new_tokens * 10_000,
        prompt_tokens=run_length(context) * UNIT_TOKENS + session.draw.randrange(UNIT_TOKENS),
        new_tokens=new_tokens,
        prompt=context,
        grown=None,
        wait=Wait.UNKNOWN,
        seen_wait=Wait.UNKNOWN,
        rest_us=None,
        noise=session.draw.gauss(0.0, 1.0),
        awaits=tuple(awaits),
    )


def _grow(session: _Session, turn: TurnSpec, context: Runs, last: bool) -> Runs:
    """The next prompt: this one, the answer, and what the tool or the person says."""
    if last:
        return context
    answered = -(-(turn.prompt_tokens + turn.new_tokens) // UNIT_TOKENS) - run_length(context)
    return context + session.new_names(answered + session.draw.randint(1, 24))


def _settle(
    session: _Session,
    turn: TurnSpec,
    wait: Wait,
    rest_us: int | None,
    following: Runs,
    launches: tuple[int, ...],
) -> None:
    """What is known of a turn once the next one is."""
    units = (turn.prompt_tokens + turn.new_tokens) // UNIT_TOKENS
    known = run_length(turn.prompt)
    place = next(i for i, other in enumerate(session.turns) if other.number == turn.number)
    session.turns[place] = replace(
        turn,
        wait=wait,
        seen_wait=Wait.PERSON if wait in (Wait.PERSON, Wait.DONE) else Wait.TOOL,
        rest_us=rest_us,
        grown=None if rest_us is None else part(following, known, units),
        after_agent=launches[0] if launches else None,
        launches=launches,
    )
