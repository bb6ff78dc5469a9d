"""How much KV the crews will hold, found by rehearsing the job, and how much each KV tier gets.

The rehearsal is the very same job against a "server" that only counts tokens and answers at full length, so
the plan cannot drift away from what the crews do.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from itertools import pairwise, takewhile
from typing import Any

import httpx2

from stepwell.agents.client import Client
from stepwell.agents.state import Message
from stepwell.demo.board import RunBoard
from stepwell.demo.job import Conversations, DemoJob, converse
from stepwell.demo.record import Capacity
from stepwell.engines.base import TextModel
from stepwell.errors import BadInput

DEVICE_SHARE = 0.25
HOST_SHARE = 1 / 3
DISK_SHARE = 1.5
"""More than everything: what reaches the last KV tier stays there. Blocks are larger than their tokens when a
context ends inside one."""
ROUND_TO_TOKENS = 64
SPARE_BLOCKS = 2
"""Beside the longest turn: a block that is shared in part is copied, and the answer begins a new one."""


@dataclass(frozen=True, slots=True)
class Rehearsal:
    """What the job will need."""

    agents: tuple[str, ...]
    """``tenant/name``, in the order in which they are shown."""
    held_tokens: int
    """Of all contexts at the end, each prefix that agents of a tenant share counted once."""
    contexts_tokens: int
    """The same with every context counted whole."""
    longest_tokens: int
    """The longest turn: its prompt and the most it may answer."""
    turns: int


class TextCounter:
    """Counts tokens as the server will, with the model's own template and vocabulary."""

    def __init__(self, text: TextModel) -> None:
        self._text = text
        self._rendered = lru_cache(maxsize=4_096)(self._tokens)

    def count(self, text: str) -> int:
        return len(self._rendered(text))

    def _tokens(self, text: str) -> tuple[int, ...]:
        return tuple(self._text.tokenize(text, add_bos=False, parse_special=True))

    def conversation(self, messages: Sequence[Message], *, asking: bool = False) -> tuple[int, ...]:
        """The tokens of a whole conversation; ``asking``: up to where the answer begins."""
        rendered = self._text.render_chat([dict(m) for m in messages], add_generation_prompt=asking)
        return self._rendered(rendered.text)


def held_tokens(said: Conversations, counter: TextCounter) -> int:
    """Tokens of distinct KV: what agents of one tenant have in common from the beginning counts once."""
    by_tenant: dict[str, list[tuple[int, ...]]] = {}
    for agent, messages in said.items():
        by_tenant.setdefault(agent.split("/")[0], []).append(counter.conversation(messages))
    return sum(distinct(contexts) for contexts in by_tenant.values())


def distinct(contexts: Iterable[tuple[int, ...]]) -> int:
    """The number of different prefixes: sorted, each shares most with its neighbour."""
    ordered = sorted(contexts)
    shared = sum(
        sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(*pair, strict=False)))
        for pair in pairwise(ordered)
    )
    return sum(map(len, ordered)) - shared


@dataclass(slots=True)
class _Counting:
    """Answers at full length, and notes the longest turn."""

    counter: TextCounter
    longest_tokens: int = 0
    turns: int = 0

    def __call__(self, request: httpx2.Request) -> httpx2.Response:
        if not request.url.path.endswith("/chat/completions"):
            return httpx2.Response(200, json={})
        body = json.loads(request.content)
        self.turns += 1
        prompt = len(self.counter.conversation(body["messages"], asking=True))
        self.longest_tokens = max(self.longest_tokens, prompt + int(body["max_tokens"]))
        form = body.get("response_format")
        answer = (
            json.dumps(full(form["json_schema"]["schema"], self.turns))
            if form
            else filler(body["max_tokens"])
        )
        choice = {"message": {"role": "assistant", "content": answer}, "finish_reason": "stop"}
        return httpx2.Response(200, json={"choices": [choice], "usage": {}})


def filler(tokens: int) -> str:
    """Text of about ``tokens`` tokens."""
    return " water" * tokens


def full(schema: Mapping[str, Any], number: int) -> Any:
    """A value of the schema with texts as long as they may be; with another ``number`` other choices."""
    if choices := schema.get("enum"):
        return choices[number % len(choices)]
    match schema.get("type"):
        case "object":
            return {name: full(one, number) for name, one in schema.get("properties", {}).items()}
        case "array":
            return [full(schema["items"], number)] * int(schema.get("minItems", 0))
        case "integer":
            return schema.get("maximum", 1)
        case "boolean":
            return True
        case _:
            return filler(100)[: schema.get("maxLength", 100)]


async def _no_wait(seconds: float) -> None:
    return None


async def _rehearse(job: DemoJob, counting: _Counting) -> dict[str, Sequence[Message]]:
    said: dict[str, Sequence[Message]] = {}
    for customer in job.customers:
        transport = httpx2.MockTransport(counting)
        async with Client("http://127.0.0.1", transport=transport) as client:
            said |= await converse(job, customer, client, "any", RunBoard(), _no_wait)
    return said


def rehearse(job: DemoJob, counter: TextCounter) -> Rehearsal:
    """Go through every crew's session without a model."""
    counting = _Counting(counter)
    said = asyncio.run(_rehearse(job, counting))
    return Rehearsal(
        tuple(said),
        held_tokens(said, counter),
        sum(len(counter.conversation(messages)) for messages in said.values()),
        counting.longest_tokens,
        counting.turns,
    )


def capacity_for(rehearsal: Rehearsal, token_bytes: int, block_tokens: int, context_tokens: int) -> Capacity:
    """A quarter of what the agents hold on the device, a third in host memory, the rest on disk.

    Raises ``BadInput`` when the job does not fit the model's context at all.
    """
    longest, held = rehearsal.longest_tokens, rehearsal.held_tokens
    if longest > context_tokens:
        raise BadInput(
            f"the longest agent needs {longest:,} tokens and this model's context has {context_tokens:,}: "
            "use --quick or another model"
        )
    least = -(-longest // block_tokens) * block_tokens + SPARE_BLOCKS * block_tokens
    device = max(round(held * DEVICE_SHARE / ROUND_TO_TOKENS), -(-least // ROUND_TO_TOKENS)) * ROUND_TO_TOKENS
    return Capacity(
        device_tokens=device,
        host_bytes=int(held * HOST_SHARE) * token_bytes,
        disk_bytes=int(held * DISK_SHARE) * token_bytes,
        token_bytes=token_bytes,
        held_tokens=held,
        contexts_tokens=rehearsal.contexts_tokens,
    )


def without_tiers(capacity: Capacity) -> Capacity:
    """The same device, nothing below it."""
    return Capacity(
        capacity.device_tokens, 0, 0, capacity.token_bytes, capacity.held_tokens, capacity.contexts_tokens
    )
