"""Crews of hundreds of agents, in the shapes that a runtime meets, run through its public door."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2

from stepwell.agents import events
from stepwell.agents.agent import Agent
from stepwell.agents.client import Client
from stepwell.agents.crews.definition import Crew, Role, SessionLimits
from stepwell.agents.planner import plan_flow, with_writer
from stepwell.agents.result import Result
from stepwell.agents.session import Flow, Session
from stepwell.agents.state import Outcome, SessionFile
from stepwell.agents.tools.base import Tool
from stepwell.bench.crews import crew_script
from stepwell.bench.crews.busy import BusyWatch
from stepwell.errors import StepwellError

ASK = "What do all parts together say?"
NESTED_SQUADS = 20
"""Agents between the entry and the workers."""
VERDICT = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "score": {"type": "integer"}, "reason": {"type": "string"}},
    "required": ["ok", "score", "reason"],
}


@dataclass(frozen=True, slots=True)
class CrewSize:
    """How many agents a crew makes, and how many of them work at once."""

    agents: int
    concurrent: int

    def limits(self) -> SessionLimits:
        most = 4 * self.agents  # what stops these crews is their shape
        return SessionLimits(
            concurrent=self.concurrent,
            agents=most,
            turns_per_agent=most,
            rounds=most,
            tokens=1 << 40,
            seconds=3_600,
        )


@dataclass(frozen=True, slots=True)
class CrewShape:
    """A crew and what leads it. ``inside``: the server is played in the process and takes no time."""

    name: str
    what: str
    crew: Callable[[CrewSize], Crew]
    flow: Callable[[CrewSize], Flow] | None
    inside: bool
    rounds: Callable[[CrewSize], int] = lambda size: 1
    batch: int = crew_script.STEPS


# --- crews and flows -----------------------------------------------------------------------------


def _led(size: CrewSize) -> Crew:
    """An entry that the bench leads in place of a planner, and children that only answer."""
    roles = {
        "chief": Role("chief", "You lead.", may_spawn=("squad", "part"), plans=True, max_tokens=8),
        "squad": Role("squad", "You lead a squad.", may_spawn=("part",), max_tokens=8),
        "part": Role("part", "You do one part of the work.", max_tokens=8),
    }
    return Crew("bench", "chief", roles, size.limits())


def scripted_crew(size: CrewSize) -> Crew:
    """Roles whose answers ``crew_script`` gives; workers call a tool."""
    roles = {
        "planner": Role("planner", "You plan.", may_spawn=("worker",), plans=True, output="json"),
        "worker": Role("worker", "You do one part of the work.", tools=("note",)),
        "verifier": Role("verifier", "You judge.", output="json", schema=VERDICT),
    }
    return Crew("bench", "planner", roles, size.limits())


def _by_verbs(size: CrewSize) -> Crew:
    roles = {
        "lead": Role("lead", "You lead.", may_spawn=("worker",)),
        "worker": Role("worker", "You do one part of the work.", tools=("note",)),
    }
    return Crew("bench", "lead", roles, size.limits())


async def _spawned(session: Session, count: int, role: str, parent: str, name: str) -> list[str]:
    """Spawn as places come free."""
    made = []
    for number in range(count):
        await session.free_place()
        child = session.spawn(role, f"Part {number}.", parent=parent, key=f"{name}-{number}")
        made.append(child.id)
    return made


def waves(size: CrewSize) -> Flow:
    """All children of the entry, each with a second task when all have done the first."""

    async def lead(session: Session, root: Agent, question: str) -> Outcome:
        names = await _spawned(session, size.agents, "part", root.id, "first")
        await session.wait(names)
        for number, name in enumerate(names):
            await session.free_place()
            session.followup(name, "And then?", key=f"second-{number}", by=root.id)
        await session.wait(names)
        return await _answered(session, root, question)

    return lead


def nested(size: CrewSize) -> Flow:
    """Squads below the entry, and below each its parts; a squad sums up what its parts have found."""
    squads = max(1, min(NESTED_SQUADS, size.agents // 4))
    parts = (size.agents - squads) // squads

    async def squad(session: Session, name: str) -> None:
        await session.wait([name])
        await session.wait(await _spawned(session, parts, "part", name, name), waiting=name)
        await session.free_place()
        session.followup(name, "What did they find?", key=f"{name}-end", by=session.crew.entry)
        await session.wait([name])

    async def lead(session: Session, root: Agent, question: str) -> Outcome:
        names = await _spawned(session, squads, "squad", root.id, "squad")
        async with asyncio.TaskGroup() as group:
            for name in names:
                group.create_task(squad(session, name))
        return await _answered(session, root, question)

    return lead


async def _answered(session: Session, root: Agent, question: str) -> Outcome:
    session.assign(root, question, "end")
    session.answered_by = "end"
    await root.closed.wait()
    return root.outcome or Outcome("refused", "no answer")


def _planning(size: CrewSize) -> Flow:
    return plan_flow


def _plans(size: CrewSize) -> int:
    return -(-size.agents // crew_script.STEPS)


SHAPES = (
    CrewShape("waves", "children of one entry, two tasks each", _led, waves, inside=False),
    CrewShape("nested", f"{NESTED_SQUADS} squads with their parts", _led, nested, inside=False),
    CrewShape("waves, inside", "as waves; the server in the process", _led, waves, inside=True),
    CrewShape("planned, inside", "plans; tools", scripted_crew, _planning, inside=True, rounds=_plans),
    CrewShape(
        "verbs, inside", "the model spawns and waits; tools", _by_verbs, None, inside=True,
        rounds=lambda size: size.agents // min(10, size.concurrent), batch=10,
    ),
)  # fmt: skip


# --- running -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Ran:
    """What one run came to. ``ends_us``: busy time of the loop when each turn ended."""

    shape: str
    result: Result | None = None
    busy_us: int = 0
    wall_us: int = 0
    cpu_us: int = 0
    commits: int = 0
    hints: int = 0
    ends_us: list[int] = field(default_factory=list)

    @property
    def between_us(self) -> list[int]:
        """Per turn: busy time since the turn that ended before it."""
        return [late - early for early, late in zip([0, *self.ends_us], self.ends_us, strict=False)]

    @property
    def per_turn_us(self) -> float:
        """All that the runtime did, beginning and end of the session included, by turns."""
        return self.busy_us / max(1, len(self.ends_us))


def run_shape(shape: CrewShape, size: CrewSize, server: str, path: Path) -> Ran:
    """One session, from nothing to its answer. Raises ``StepwellError`` when it has none."""
    watch, ran = BusyWatch(), Ran(shape.name)
    inside = Inside(watch, shape.rounds(size), min(shape.batch, size.concurrent)) if shape.inside else None
    cpu_us, began = time.process_time_ns() // 1_000, time.perf_counter_ns()
    ran.result = watch.run(_session(shape, size, server, path, inside, watch, ran))
    ran.busy_us, ran.wall_us = watch.busy_us(), (time.perf_counter_ns() - began) // 1_000
    ran.cpu_us = time.process_time_ns() // 1_000 - cpu_us - watch.elsewhere_cpu_ns // 1_000
    if ran.result.status != "completed":
        raise StepwellError(f"{shape.name}: {ran.result.status}: {ran.result.sentence}")
    return ran


async def _session(
    shape: CrewShape,
    size: CrewSize,
    server: str,
    path: Path,
    inside: Inside | None,
    watch: BusyWatch,
    ran: Ran,
) -> Result:
    store = CountingStore(path)
    try:
        async with Client(server, transport=inside) as client:
            crew = shape.crew(size) if shape.crew is _led else with_writer(shape.crew(size))
            flow = None if shape.flow is None else shape.flow(size)
            session = Session(crew, client, store, toolbox, flow=flow)
            session.tell.listeners.append(lambda event: _note(event, watch, ran))
            return await session.run(ASK)
    finally:
        ran.commits = store.commits
        store.close()


def _note(event: events.Event, watch: BusyWatch, ran: Ran) -> None:
    if isinstance(event, events.TurnEnded):
        ran.ends_us.append(watch.busy_us())
    elif isinstance(event, events.Waiting):
        ran.hints += 1


class CountingStore(SessionFile):
    """Counts commits."""

    commits = 0

    def committed(self) -> None:
        self.commits += 1


async def _note_tool(arguments: Mapping[str, Any]) -> str:
    return "noted"


NOTE = Tool(
    "note",
    "Write down.",
    {"type": "object", "properties": {"text": {"type": "string"}}, "required": ["text"]},
    _note_tool,
    expected_ms=5,
    idempotent=True,
)


def toolbox(names: Sequence[str]) -> list[Tool]:
    """The one tool of these crews."""
    return [NOTE for name in names if name == NOTE.name]


class Inside(httpx2.AsyncBaseTransport):
    """The scripted server inside the process: its own work is not counted, and not waited for."""

    def __init__(self, watch: BusyWatch, rounds: int, batch: int) -> None:
        self.watch, self.rounds, self.batch = watch, rounds, batch

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        await asyncio.sleep(0)
        with self.watch.elsewhere():
            return self._answer(request)

    def _answer(self, request: httpx2.Request) -> httpx2.Response:
        path = request.url.path
        if path.endswith("/models"):
            return httpx2.Response(200, json={"data": [{"id": crew_script.MODEL}]})
        if not path.endswith("/chat/completions"):
            return httpx2.Response(200, json={})
        messages = json.loads(request.content)["messages"]
        role, agent = request.headers["x-agent-name"], request.headers["x-agent-id"]
        said = crew_script.answer(role, agent, messages, self.rounds, self.batch)
        return httpx2.Response(200, json=crew_script.reply(said, messages))
