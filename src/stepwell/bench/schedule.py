"""Rounds of turns for the exactness benchmark: which agent calls, with how much that is new.

Made from a seed alone, so that two runs that must agree are asked for exactly the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from stepwell.engines.prose import prose

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class ScheduleShape:
    """Sizes of the schedule, in words and tokens."""

    agents: int = 6
    shared_words: int = 60
    private_words: tuple[int, int] = (40, 160)
    """An agent's first prompt; agents differ, so that blocks come back to other places."""
    added_words: tuple[int, int] = (2, 20)
    output_tokens: tuple[int, int] = (2, 6)
    context_tokens: int = 480
    """An agent that would grow past this begins anew."""


@dataclass(frozen=True, slots=True)
class PlannedTurn:
    """One turn: new text, behind what the agent has (``fresh``: behind nothing)."""

    agent: int
    fresh: bool
    added: tuple[int, ...]
    output_tokens: int


Round = tuple[PlannedTurn, ...]


@dataclass(slots=True)
class Contexts:
    """What every agent has said and heard; the same in every arm, because answers are put in."""

    tokens: dict[int, list[int]] = field(default_factory=dict)

    def prompt(self, turn: PlannedTurn) -> tuple[int, ...]:
        before = [] if turn.fresh else self.tokens[turn.agent]
        return (*before, *turn.added)

    def answered(self, turn: PlannedTurn, prompt: Sequence[int], answer: Sequence[int]) -> None:
        self.tokens[turn.agent] = [*prompt, *answer]


def rounds(turns: int, seed: int, shape: ScheduleShape, tokenize: Tokenize) -> Iterator[Round]:
    """Rounds with ``turns`` turns in all. One agent calls alone, then two to four call at once: a lone
    request and a batch take different paths through the engine.

    Agents begin in lone rounds only. One that begins needs nothing from disk and would start at once,
    while the others of its round wait for their blocks; then the two arms would run other batches.
    """
    schedule = _Schedule(random.Random(seed), seed, shape, tokenize)
    left, together = turns, False
    while left > 0:
        callers = schedule.together(left) if together else []
        made = tuple(schedule.next_turn(agent) for agent in callers) or (schedule.lone_turn(),)
        yield made
        left -= len(made)
        together = not together


class _Schedule:
    """Knows how long every agent is (answers have a fixed length), and what each would say next."""

    def __init__(self, rng: random.Random, seed: int, shape: ScheduleShape, tokenize: Tokenize) -> None:
        self._rng = rng
        self._shape = shape
        self._tokenize = tokenize
        self._shared = tokenize(prose(random.Random(seed + 1), shape.shared_words))
        self._lengths = dict.fromkeys(range(shape.agents), 0)
        self._next = {agent: self._further(agent) for agent in self._lengths}

    def together(self, most: int) -> list[int]:
        """Two to four agents that have begun and have room; none if there are not two."""
        ready = [a for a in self._lengths if self._lengths[a] and not self._is_full(a)]
        size = min(most, 2 + int(self._rng.random() * 3))
        chosen = sorted(ready, key=lambda _: self._rng.random())[:size]
        return chosen if len(chosen) >= 2 else []

    def lone_turn(self) -> PlannedTurn:
        """An agent that must begin (anew), if there is one; any other otherwise."""
        due = [a for a in self._lengths if not self._lengths[a] or self._is_full(a)]
        among = due or list(self._lengths)
        return self.next_turn(among[int(self._rng.random() * len(among))])

    def next_turn(self, agent: int) -> PlannedTurn:
        turn = self._next[agent]
        if not self._lengths[agent] or self._is_full(agent):
            turn = self._beginning(agent)
            self._lengths[agent] = 0
        self._lengths[agent] += len(turn.added) + turn.output_tokens
        self._next[agent] = self._further(agent)
        return turn

    def _is_full(self, agent: int) -> bool:
        turn = self._next[agent]
        return self._lengths[agent] + len(turn.added) + turn.output_tokens > self._shape.context_tokens

    def _further(self, agent: int) -> PlannedTurn:
        words = prose(self._rng, self._between(self._shape.added_words))
        return PlannedTurn(agent, False, tuple(self._tokenize(" " + words)), self._output_tokens())

    def _beginning(self, agent: int) -> PlannedTurn:
        words = prose(self._rng, self._between(self._shape.private_words))
        shared = self._shared if self._rng.random() < 0.7 else []
        added = (*shared, *self._tokenize(" " + words))[: self._shape.context_tokens // 2]
        return PlannedTurn(agent, True, added, self._output_tokens())

    def _output_tokens(self) -> int:
        return self._between(self._shape.output_tokens)

    def _between(self, bounds: tuple[int, int]) -> int:
        low, high = bounds
        return low + int(self._rng.random() * (high - low + 1))
