"""Workloads: sessions of agents whose turns name units of context instead of tokens.

A unit's name stands for everything up to it, so equal names mean equal prefixes, as in ``policy.chain``.
Names are kept as runs of integers (a hundred thousand tokens are a handful of runs) and become bytes when a
turn is sent.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from stepwell.policy.types import Wait

Runs = tuple[tuple[int, int], ...]
"""Unit names as ``(first, count)`` runs of consecutive integers."""


def run_length(runs: Runs) -> int:
    return sum(count for _, count in runs)


def numbers(runs: Runs) -> Iterator[int]:
    """Every name of the runs, in order."""
    for first, count in runs:
        yield from range(first, first + count)


def part(runs: Runs, start: int, stop: int) -> Runs:
    """Names ``[start, stop)`` of a sequence of runs."""
    found, position = [], 0
    for first, count in runs:
        low, high = max(start, position), min(stop, position + count)
        if low < high:
            found.append((first + low - position, high - low))
        position += count
    return tuple(found)


def runs_of(names: Iterable[int]) -> Runs:
    """A list of integers as runs."""
    runs: list[list[int]] = []
    for name in names:
        if runs and runs[-1][0] + runs[-1][1] == name:
            runs[-1][1] += 1
        else:
            runs.append([name, 1])
    return tuple((first, count) for first, count in runs)


@dataclass(slots=True, eq=False)
class Namespace:
    """Turns integers into 16-byte names: a salt, then the integer. Sessions do not share one unless the
    trace says that their integers mean the same."""

    label: str
    _table: list[bytes] = field(default_factory=list)

    @property
    def salt(self) -> bytes:
        return hashlib.blake2b(self.label.encode(), digest_size=8).digest()

    def names(self, runs: Runs) -> list[bytes]:
        top = max((first + count for first, count in runs), default=0)
        if len(self._table) < top:
            salt = self.salt
            self._table += [salt + i.to_bytes(8, "big") for i in range(len(self._table), top)]
        found: list[bytes] = []
        for first, count in runs:
            found += self._table[first : first + count]
        return found

    def number(self, name: bytes) -> int | None:
        """The integer behind a name; None: it is not from here, or one that only this run made up."""
        value = int.from_bytes(name[8:], "big")
        return value if name[:8] == self.salt and value < len(self._table) else None

    def fresh(self, turn: int, count: int) -> list[bytes]:
        """Names that no other unit has: what a turn generated and no turn went on from."""
        mark = (1 << 63) + (turn << 24)
        return [self.salt + (mark + i).to_bytes(8, "big") for i in range(count)]

    def release(self) -> None:
        """The session is over: its table is not needed any more."""
        self._table = []


@dataclass(frozen=True, slots=True)
class SaidPause:
    """What a runtime told the server of an agent's pause."""

    wait: Wait = Wait.UNKNOWN
    expected_us: int | None = None
    after: int | None = None
    """The agent of the session whose answer ends the pause."""
    tool: str = ""


@dataclass(frozen=True, slots=True)
class SaidLater:
    """What it told between turns."""

    agent: int
    """Whose pause it is about."""
    delay_us: int
    """After the end of the turn that this stands with."""
    said: SaidPause


@dataclass(frozen=True, slots=True)
class TurnSpec:
    """One turn as the trace has it."""

    number: int
    """Within the session."""
    agent: int
    at_us: int
    """When it was sent in the trace, since the session's start."""
    gap_us: int
    """From what it waits for (the agent's turn before, or the last awaited child) to this turn."""
    took_us: int
    """What the traced system took to answer."""
    prompt_tokens: int
    new_tokens: int
    prompt: Runs
    grown: Runs | None
    """Names of the units that its answer completes; None: no turn goes on from them."""
    wait: Wait
    """What the agent waits for afterwards, as its runtime would know."""
    seen_wait: Wait
    """What a server sees of that in the answer."""
    rest_us: int | None
    """From its end to the agent's next turn, in the trace; None: there is none."""
    noise: float = 0.0
    """A standard normal deviate: how far off a declaration is."""
    after_agent: int | None = None
    """The child whose answer ends the wait."""
    awaits: tuple[int, ...] = ()
    """Agents that must have ended before this turn is sent."""
    launches: tuple[int, ...] = ()
    """Agents that begin when this turn ends."""
    after: tuple[int, ...] = ()
    """Turns of the session that must have ended before it; see ``SessionSpec.linked``."""
    tool: str = ""
    """Which tool it waits for afterwards, by the server's name for it."""
    said: SaidPause = SaidPause()
    """What its runtime said with it, where that was recorded."""
    said_later: tuple[SaidLater, ...] = ()
    """What its runtime said after it."""


@dataclass(frozen=True, slots=True)
class AgentSpec:
    """An agent of a session: the numbers of its turns, in order."""

    name: str
    role: str
    parent: str | None
    turns: tuple[int, ...]
    offset_us: int = 0
    """From the launching turn's end to its first turn."""


@dataclass(frozen=True, slots=True)
class SessionSpec:
    """One session; the first agent is there from the start, others are launched."""

    name: str
    tenant: str
    service_tier: str
    start_us: int
    agents: tuple[AgentSpec, ...]
    turns: tuple[TurnSpec, ...]
    linked: bool = False
    """Turns come ``gap_us`` after the last of those in ``after``, and ``awaits`` and ``launches`` are empty:
    agents that work for each other again and again."""


@dataclass(frozen=True, slots=True)
class Workload:
    """What comes to the machine. ``shared`` names the namespace of all sessions; empty: each has its own."""

    name: str
    sessions: tuple[SessionSpec, ...]
    unit_tokens: int
    block_tokens: int
    shared: str = ""
    notes: tuple[str, ...] = ()

    def turns(self) -> Iterator[TurnSpec]:
        for session in self.sessions:
            yield from session.turns

    @property
    def max_new_tokens(self) -> int:
        """The limit that every turn states, as clients do: the longest answer there is."""
        return max((turn.new_tokens for turn in self.turns()), default=1)

    @property
    def context_tokens(self) -> int:
        return max((turn.prompt_tokens + turn.new_tokens for turn in self.turns()), default=1)
