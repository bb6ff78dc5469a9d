"""The crews of ``bench hints``: planned rounds of readers whose tools take time, a writer, a verifier.

What agents answer is drawn by seed and depends on the agent and its turn alone, so that all arms do the same
work. The runtime is the real one with its real hints; the tools really wait, on the clock of the loop.
"""

from __future__ import annotations

import asyncio
import json
import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import httpx2

from stepwell.agents import events
from stepwell.agents.client import Client
from stepwell.agents.crews.definition import Crew, Role, SessionLimits
from stepwell.agents.planner import open_session
from stepwell.agents.tools.base import Tool
from stepwell.bench.crews.virtual import CALL
from stepwell.engines.prose import prose
from stepwell.errors import StepwellError
from stepwell.loop.requests import Generation

READER, ENTRY, WRITER, VERIFIER = "reader", "planner", "writer", "verifier"
LOOKUP, CRAWL = "lookup", "crawl"
ASK = "What do the documents say about the wells?"
QUERY_CHARS = 40


@dataclass(frozen=True, slots=True)
class Crews:
    """How many crews, how large. ``sigma``: how far a tool's real time is from what it says."""

    crews: int = 8
    readers: int = 5
    rounds: int = 2
    turns: tuple[int, int] = (3, 6)
    """Of a reader, at least and at most; all but the last call a tool."""
    role_words: int = 120
    passage_words: int = 150
    result_words: tuple[int, int] = (20, 60)
    lookup_ms: int = 800
    """What the quick tool says that it takes."""
    crawl_ms: int = 25_000
    crawls: float = 0.4
    """Share of calls of the slow tool."""
    sigma: float = 0.3
    starts_s: float = 60.0
    """Crews begin within so long."""
    seed: int = 1

    def draw(self, *name: object) -> random.Random:
        """A generator of its own for everything that has a name."""
        return random.Random("/".join(map(str, (self.seed, *name))))

    def reader_turns(self, agent: str) -> int:
        return self.draw(agent, "turns").randint(*self.turns)

    def call(self, agent: str, turn: int) -> str:
        """Which tool a reader calls in a turn."""
        return CRAWL if self.draw(agent, turn, "tool").random() < self.crawls else LOOKUP

    def query(self, agent: str, turn: int) -> dict[str, str]:
        """The arguments of that call."""
        return {"query": self.words(agent, turn, 5)[:QUERY_CHARS]}

    def words(self, agent: str, turn: int, count: int) -> str:
        """What an agent says in a turn."""
        return prose(self.draw(agent, turn, "words"), count).replace('"', "")

    def plan(self, agent: str, turn: int) -> str:
        """The planner's: readers alone, all at once."""
        steps = [
            {"id": f"s{at}", "role": READER, "task": self.words(agent, 100 * turn + at, 4), "needs": []}
            for at in range(1, self.readers + 1)
        ]
        return json.dumps({"done": False, "steps": steps})

    def verdict(self, turn: int) -> str:
        """The verifier's: satisfied in the last round."""
        return json.dumps({"ok": turn + 1 >= self.rounds, "score": turn + 1})

    @property
    def tools_ms(self) -> dict[str, int]:
        return {LOOKUP: self.lookup_ms, CRAWL: self.crawl_ms}


def crew_of(work: Crews, number: int, most: int = 600) -> Crew:
    """Roles have long instructions, as real ones do; those of a crew are its own. ``most`` bounds answers."""
    words = {
        name: prose(work.draw(number, name), work.role_words) for name in (ENTRY, READER, WRITER, VERIFIER)
    }
    roles = {
        ENTRY: Role(ENTRY, words[ENTRY], may_spawn=(READER,), plans=True, max_tokens=most),
        READER: Role(READER, words[READER], tools=(LOOKUP, CRAWL), reads=True, max_tokens=most),
        WRITER: Role(WRITER, words[WRITER], max_tokens=most),
        VERIFIER: Role(VERIFIER, words[VERIFIER], output="json", schema=_VERDICT, max_tokens=most),
    }
    limits = SessionLimits(
        concurrent=work.readers, rounds=work.rounds, tokens=1 << 40, seconds=86_400, turns_per_agent=20
    )
    return Crew(f"crew-{number}", ENTRY, roles, limits)


_VERDICT = {
    "type": "object",
    "properties": {"ok": {"type": "boolean"}, "score": {"type": "integer"}},
    "required": ["ok", "score"],
}


def role_of(agent: str) -> str:
    """``crew-3/reader-2`` is a reader."""
    last = agent.rpartition("/")[2]
    return last if last == ENTRY else last.rpartition("-")[0]


def script(work: Crews) -> Callable[[Generation, int], bytes]:
    """The answers of all agents, for a driver: one line for a call, as ``virtual.ScriptedText`` reads it."""

    def answer(generation: Generation, turn: int) -> bytes:
        agent = generation.caller.agent
        match role_of(agent):
            case "reader" if turn + 1 < work.reader_turns(agent):
                return f"{CALL}{work.call(agent, turn)} {json.dumps(work.query(agent, turn))}".encode()
            case "planner":
                return work.plan(agent, turn).encode()
            case "verifier":
                return work.verdict(turn).encode()
            case role:
                return work.words(agent, turn, 25 if role == WRITER else 12).encode()

    return answer


# --- running -------------------------------------------------------------------------------------


@dataclass(slots=True)
class Done:
    """What a run of all crews came to. Times are seconds of the clock that it ran on."""

    crew_s: list[float] = field(default_factory=list)
    """Per crew, from its question to its answer."""
    turns: int = 0
    contexts: dict[str, int] = field(default_factory=dict)
    """Per agent: tokens of its last prompt and answer."""
    live: dict[str, int] = field(default_factory=dict)
    """The same of those that may come back."""
    most_live_tokens: int = 0
    """The most that the contexts of such agents came to at one time: all that is worth keeping."""
    failed: dict[int, str] = field(default_factory=dict)

    def note(self, number: int, event: events.Event) -> None:
        """Hear of what happens in a crew."""
        match event:
            case events.TurnEnded(agent, _, usage, _):
                tokens = usage.prompt_tokens + usage.completion_tokens
                self.live[f"{number}/{agent}"] = self.contexts[f"{number}/{agent}"] = tokens
                self.most_live_tokens = max(self.most_live_tokens, sum(self.live.values()))
            case events.Ended(agent, kind, text) if kind not in ("completed", "interrupted"):
                self.failed[number] = f"{agent}: {kind}: {text}"
            case events.Ended(agent, _, _) if role_of(agent) == READER:
                self.live.pop(f"{number}/{agent}", None)
            case events.Finished():
                for name in [name for name in self.live if name.startswith(f"{number}/")]:
                    del self.live[name]


Connect = Callable[[], httpx2.AsyncBaseTransport]


async def run_crews(work: Crews, server: str, connect: Connect, *, hints: bool, most: int = 600) -> Done:
    """All crews against one server, each begun at its time. Raises ``StepwellError`` if one fails."""
    done = Done()
    async with asyncio.TaskGroup() as group:
        for number in range(work.crews):
            client = Client(server, transport=connect(), hints=hints)
            group.create_task(_crew(work, number, client, done, most))
    for number, why in done.failed.items():
        raise StepwellError(f"{len(done.failed)} crews did not answer; crew {number}: {why}")
    return done


async def _crew(work: Crews, number: int, client: Client, done: Done, most: int) -> None:
    loop = asyncio.get_running_loop()
    await asyncio.sleep(work.draw(number, "start").random() * work.starts_s)
    began_s = loop.time()
    async with client:
        session = open_session(
            crew_of(work, number, most),
            client,
            ":memory:",
            partial(toolbox, work, number),
            reading=lambda task, place: prose(work.draw(number, task, place, "passages"), work.passage_words),
        )
        session.id = f"crew-{number}"
        session.tell.listeners.append(partial(done.note, number))
        result = await session.run(ASK)
        session.store.close()
    done.crew_s.append(loop.time() - began_s)
    done.turns += result.turns
    if not result.answer:
        done.failed[number] = f"{result.status}: {result.sentence}"


def toolbox(work: Crews, number: int, names: Sequence[str]) -> list[Tool]:
    """Tools that take their time, more or less what they say, and answer some words."""
    return [_tool(work, number, name) for name in names if name in work.tools_ms]


def _tool(work: Crews, number: int, name: str) -> Tool:
    expected_ms = work.tools_ms[name]

    async def call(arguments: Mapping[str, Any]) -> str:
        draw = work.draw(number, name, arguments["query"])
        await asyncio.sleep(expected_ms / 1_000 * math.exp(work.sigma * draw.gauss(0.0, 1.0)))
        return prose(draw, draw.randint(*work.result_words))

    query = {"type": "string", "maxLength": QUERY_CHARS}  # a small model would go on for ever
    schema = {"type": "object", "properties": {"query": query}, "required": ["query"]}
    return Tool(name, f"The tool {name}.", schema, call, expected_ms=expected_ms, timeout_s=900.0)
