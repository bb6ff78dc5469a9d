"""Rounds of turns for the exactness benchmark: who calls, with how much that is new.

Made from a seed alone, so that two runs that must agree are asked for exactly the same.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field

from stepwell.bench.workload import prose

Tokenize = Callable[[str], list[int]]


@dataclass(frozen=True, slots=True)
class Shape:
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
class _Agent:
    tokens: int = 0
    """Length of the context, as far as the schedule knows it: answers have a fixed length."""


@dataclass(slots=True)
class Contexts:
    """What every agent has said and heard; the same in every arm, because answers are put in."""

    tokens: dict[int, list[int]] = field(default_factory=dict)

    def prompt(self, turn: PlannedTurn) -> tuple[int, ...]:
        before = [] if turn.fresh else self.tokens[turn.agent]
        return (*before, *turn.added)

    def answered(self, turn: PlannedTurn, prompt: Sequence[int], answer: Sequence[int]) -> None:
        self.tokens[turn.agent] = [*prompt, *answer]


def rounds(turns: int, seed: int, shape: Shape, tokenize: Tokenize) -> Iterator[Round]:
    """Rounds with ``turns`` turns in all. Every second round one agent calls alone, otherwise two to
    four call at once: a lone request and a batch take different paths through the engine."""
    rng = random.Random(seed)
    agents = [_Agent() for _ in range(shape.agents)]
    shared = tokenize(prose(random.Random(seed + 1), shape.shared_words))
    left = turns
    number = 0
    while left > 0:
        size = 1 if number % 2 == 0 else min(left, 2 + int(rng.random() * 3), shape.agents)
        callers = sorted(range(shape.agents), key=lambda _: rng.random())[:size]
        yield tuple(_turn(rng, agent, agents[agent], shape, shared, tokenize) for agent in callers)
        left -= size
        number += 1


def _turn(
    rng: random.Random, number: int, agent: _Agent, shape: Shape, shared: list[int], tokenize: Tokenize
) -> PlannedTurn:
    output_tokens = _between(rng, shape.output_tokens)
    added = tokenize(" " + prose(rng, _between(rng, shape.added_words)))
    fresh = not agent.tokens or agent.tokens + len(added) + output_tokens > shape.context_tokens
    if fresh:
        private = tokenize(" " + prose(rng, _between(rng, shape.private_words)))
        added = (shared if rng.random() < 0.7 else []) + private
        agent.tokens = 0
    agent.tokens += len(added) + output_tokens
    return PlannedTurn(number, fresh, tuple(added), output_tokens)


def _between(rng: random.Random, bounds: tuple[int, int]) -> int:
    low, high = bounds
    return low + int(rng.random() * (high - low + 1))
