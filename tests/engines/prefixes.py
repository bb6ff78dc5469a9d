"""What every test of an engine needs: prompts, names for their blocks, and a greedy loop."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence

from stepwell.engines.base import BatchItem, Buffer, Engine, SamplingParams
from stepwell.policy.types import BlockId, BlockMeta

GREEDY = SamplingParams(temperature=0.0, ignore_eos=True)


def prompt(n_tokens: int, seed: int = 0) -> list[int]:
    """Tokens that every engine's vocabulary has."""
    draw = random.Random(seed)
    return [draw.randrange(33, 250) for _ in range(n_tokens)]


def blocks_of(engine: Engine, tokens: Sequence[int]) -> list[BlockMeta]:
    """The blocks of a prefix, root first; the last one may be a tail."""
    size, metas, parent = engine.info.block_tokens, [], None
    for depth, first in enumerate(range(0, len(tokens), size)):
        n = min(size, len(tokens) - first)
        name = hashlib.blake2b(repr(list(tokens[: first + n])).encode(), digest_size=16).digest()
        size_bytes = engine.info.block_bytes - (size - n) * engine.info.token_bytes
        metas.append(BlockMeta(name, parent, depth, n, (name,), "local", size_bytes))
        parent = name
    return metas


def ids(metas: Sequence[BlockMeta]) -> list[BlockId]:
    return [meta.id for meta in metas]


def start(engine: Engine, request: int, tokens: Sequence[int], sampling: SamplingParams = GREEDY) -> int:
    """Open a request on nothing, compute its prompt, return the first token."""
    engine.open(request, [], 0, sampling)
    return step(engine, request, 0, tokens)


def keep_states(engine: Engine, request: int, at: int, count: int) -> None:
    """Of a model that has running states: keep one at every end of a block that the tokens reach."""
    if engine.info.checkpoint_bytes:
        size = engine.info.block_tokens
        for end in range((at // size + 1) * size, at + count + 1, size):
            engine.keep_state(request, end)


def step(engine: Engine, request: int, at: int, tokens: Sequence[int]) -> int:
    keep_states(engine, request, at, len(tokens))
    (sampled,) = engine.run([BatchItem(request, at, tokens, True)])
    assert sampled.request == request
    return sampled.token


def generate(engine: Engine, request: int, at: int, token: int, count: int) -> list[int]:
    """Go on from ``token`` (not computed yet) at position ``at``; the ``count`` tokens after it."""
    made = []
    for i in range(count):
        token = step(engine, request, at + i, [token])
        made.append(token)
    return made


def seal_all(engine: Engine, request: int, metas: Sequence[BlockMeta], from_depth: int = 0) -> None:
    for meta in metas[from_depth:]:
        engine.seal(request, meta)


def put_away(engine: Engine, metas: Sequence[BlockMeta]) -> list[Buffer]:
    """Store and drop blocks, leaves first; returns their bytes, root first."""
    stored = []
    for meta in reversed(metas):
        stored.append(engine.store(meta.id))
        engine.drop(meta.id)
    return stored[::-1]


def bring_back(engine: Engine, metas: Sequence[BlockMeta], stored: Sequence[Buffer]) -> None:
    for meta, data in zip(metas, stored, strict=True):
        engine.load(meta, data)
