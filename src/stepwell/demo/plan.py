"""How much KV the crews will hold, found by rehearsing their script, and how much each KV tier gets.

The rehearsal runs the very same script against an "API" that only counts tokens and answers at full
length, so the plan cannot drift away from what the crews do.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from stepwell.demo.client import Caller, Message, Reply, render_plain
from stepwell.demo.crew import Board, Brief, Crew, Shape
from stepwell.demo.figures import held_tokens
from stepwell.demo.reading import CountTokens, shorten
from stepwell.demo.record import Capacity
from stepwell.engines.base import TextModel
from stepwell.errors import BadInput

DEVICE_SHARE = 0.25
HOST_SHARE = 1 / 3
DISK_SHARE = 1.5
"""More than everything: what sinks to the last step stays there. Blocks are larger than their
tokens when a context ends inside one."""
ROUND_TO_TOKENS = 64
SPARE_BLOCKS = 2
"""Beside the longest turn: a block that is shared in part is copied, and the answer begins a new one."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the script will need at most."""

    contexts: dict[str, int]
    """By agent, the tokens of its context after the last turn."""
    shared_tokens: int
    """The prefix that the agents of one crew have in common (the shortest crew's)."""
    turns: int

    @property
    def held_tokens(self) -> int:
        return held_tokens(self.contexts, self.shared_tokens)

    @property
    def longest(self) -> int:
        return max(self.contexts.values())


class TextCounter:
    """Counts tokens as the server will, with the model's own template and vocabulary."""

    def __init__(self, text: TextModel) -> None:
        self._text = text
        self._count = lru_cache(maxsize=100_000)(self._tokens)

    def __call__(self, text: str) -> int:
        return self._count(text)

    def _tokens(self, text: str) -> int:
        return len(self._text.tokenize(text, add_bos=False, parse_special=True))

    def conversation(self, messages: Sequence[Message], *, asking: bool = True) -> int:
        """Tokens of a whole conversation; ``asking``: up to where the answer begins."""
        if not self._text.has_chat_template:
            return self._tokens(render_plain(messages)) + 1
        rendered = self._text.render_chat([dict(m) for m in messages], add_generation_prompt=asking)
        return self._tokens(rendered.text) + 1


@dataclass(slots=True)
class _CountingApi:
    """Answers at full length and writes down how long every context became."""

    counter: TextCounter
    contexts: dict[str, int] = field(default_factory=dict)
    turns: int = 0

    async def turn(
        self,
        messages: Sequence[Message],
        max_tokens: int,
        caller: Caller,
        schema: Mapping[str, Any] | None = None,
    ) -> Reply:
        self.turns += 1
        self.contexts[caller.session_id] = self.counter.conversation(messages) + max_tokens
        return Reply(0.0, text=filler(max_tokens, self.counter), first_token_s=0.0)


def filler(tokens: int, count: CountTokens) -> str:
    """Text of about ``tokens`` tokens."""
    return shorten(" water" * tokens, tokens, count)


async def _no_wait(seconds: float) -> None:
    return None


def rehearse(briefs: Sequence[Brief], shape: Shape, counter: TextCounter) -> Rehearsal:
    """Run every crew's script without a model."""
    api = _CountingApi(counter)
    for brief in briefs:
        asyncio.run(Crew(brief, shape, api, Board(), _no_wait).run())
    shared = min(
        counter.conversation([{"role": "system", "content": b.common}], asking=False) - 1 for b in briefs
    )
    return Rehearsal(api.contexts, shared, api.turns)


def capacity_for(rehearsal: Rehearsal, token_bytes: int, block_tokens: int, context_tokens: int) -> Capacity:
    """A quarter of what the agents hold on the device, a third in host memory, the rest on disk.

    Raises ``BadInput`` when the script does not fit the model's context at all.
    """
    if rehearsal.longest > context_tokens:
        raise BadInput(
            f"the longest agent needs {rehearsal.longest:,} tokens and this model's context has "
            f"{context_tokens:,}: "
            "use --quick or another model"
        )
    held = rehearsal.held_tokens
    least = -(-rehearsal.longest // block_tokens) * block_tokens + SPARE_BLOCKS * block_tokens
    device = max(_round(held * DEVICE_SHARE, ROUND_TO_TOKENS), _round_up(least, ROUND_TO_TOKENS))
    return Capacity(
        device_tokens=device,
        host_bytes=int(held * HOST_SHARE) * token_bytes,
        disk_bytes=int(held * DISK_SHARE) * token_bytes,
        token_bytes=token_bytes,
        held_tokens=held,
        contexts_tokens=sum(rehearsal.contexts.values()),
    )


def without_tiers(capacity: Capacity) -> Capacity:
    """The same device, nothing below it."""
    return Capacity(
        capacity.device_tokens, 0, 0, capacity.token_bytes, capacity.held_tokens, capacity.contexts_tokens
    )


def _round(tokens: float, step: int) -> int:
    return max(step, round(tokens / step) * step)


def _round_up(tokens: int, step: int) -> int:
    return -(-tokens // step) * step
