"""No token changes because KV moved: logits to the last bit, undisturbed against moved about."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from tests.engines.prefixes import (
    GREEDY,
    blocks_of,
    bring_back,
    ids,
    keep_states,
    prompt,
    put_away,
    seal_all,
    start,
)

from stepwell.bench.zoo.child import model_file
from stepwell.engines.base import BatchItem, Buffer
from stepwell.policy.types import BlockMeta

if TYPE_CHECKING:
    from stepwell.engines.llamacpp import LlamaCppEngine

AGENTS = (1, 2, 3, 4)
DEVICE_BLOCKS = 26


WITH_STATES = ("lfm2", "qwen35", "falcon-h1", "rwkv7")


@pytest.fixture(params=["smollm2", "gemma3", *WITH_STATES])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[LlamaCppEngine]:
    from stepwell.engines.llamacpp import LlamaCppConfig, load_llamacpp

    tiny = request.param in WITH_STATES
    path = model_file(tmp_path, request.param) if tiny else request.getfixturevalue(f"{request.param}_path")
    config = LlamaCppConfig(path, request.param, 64 * DEVICE_BLOCKS, threads=1 if tiny else None)
    made, _ = load_llamacpp(config)
    yield made
    made.close_engine()


class Play:
    """Four agents with a common beginning longer than Gemma's window, three turns each."""

    def __init__(self, engine: LlamaCppEngine, seed: int | None) -> None:
        self.engine = engine
        self.draw = random.Random(seed)
        self.moved = seed is not None
        self.rows: list[tuple[int, str]] = []
        self.shared = prompt(512)
        self.texts = {agent: list(self.shared) for agent in AGENTS}
        self.junk: list[BlockMeta] = []
        self.frames: set[tuple[int, ...]] = set()

    def run(self) -> list[tuple[int, str]]:
        engine = self.engine
        engine.watch_logits = lambda request, row: self.rows.append((request, digest(row)))
        start(engine, 100, self.shared)
        seal_all(engine, 100, blocks_of(engine, self.shared))
        engine.close(100)
        for turn in range(3):
            self.turn(turn)
            if self.moved:
                self.move_about()
            self.note_frames()
        self.clear()
        engine.watch_logits = None
        return self.rows

    def turn(self, turn: int) -> None:
        """Prompts together, then tokens together, then some alone; afterwards everybody leaves."""
        engine, new = self.engine, {}
        for agent in AGENTS:
            text = self.texts[agent]
            engine.open(agent, ids(blocks_of(engine, text)), len(text), GREEDY)
            new[agent] = prompt(24 + 9 * agent, seed=10 * agent + turn)
        self.step([(agent, new[agent]) for agent in AGENTS])
        for _ in range(4):
            self.step([(agent, [self.last[agent]]) for agent in AGENTS])
        for agent in (3, 1):
            self.step([(agent, [self.last[agent]])])
        for agent in AGENTS:
            metas = blocks_of(engine, self.texts[agent])
            for meta in metas:
                if meta.id not in engine.device.blocks:
                    engine.seal(agent, meta)
            engine.close(agent)
        self.forget_short_tails()

    def step(self, items: list[tuple[int, list[int]]]) -> None:
        for agent, tokens in items:
            keep_states(self.engine, agent, len(self.texts[agent]), len(tokens))
        batch = [BatchItem(agent, len(self.texts[agent]), tokens, True) for agent, tokens in items]
        answers = self.engine.run(batch)
        self.engine.check()
        for (agent, tokens), answer in zip(items, answers, strict=True):
            self.texts[agent] += tokens
            self.last = {**getattr(self, "last", {}), agent: answer.token}

    def forget_short_tails(self) -> None:
        """Tails of earlier turns are beginnings of longer blocks now."""
        needed = {meta.id for text in self.texts.values() for meta in blocks_of(self.engine, text)}
        for name in [name for name in self.engine.device.blocks if name not in needed]:
            if name not in {meta.id for meta in self.junk}:
                self.engine.drop(name)

    def known(self) -> list[BlockMeta]:
        """All agents' blocks, parents before children."""
        metas = {meta.id: meta for text in self.texts.values() for meta in blocks_of(self.engine, text)}
        return sorted(metas.values(), key=lambda meta: meta.depth)

    def move_about(self) -> None:
        """Everything leaves and comes back in another order, between blocks that come and go.

        What fills the low frames leaves last, so that agents grow into frames below their parents.
        """
        metas = self.known()
        stored: dict[bytes, Buffer] = {}
        for meta in reversed(metas):
            stored[meta.id] = self.engine.store(meta.id)
            self.engine.drop(meta.id)
        put_away(self.engine, self.junk)
        self.junk = [replace(metas[0], id=bytes([n]) * 16) for n in range(DEVICE_BLOCKS - len(metas))]
        bring_back(self.engine, self.junk, [stored[metas[0].id]] * len(self.junk))
        while metas:
            ready = [m for m in metas if m.parent is None or m.parent in self.engine.device.blocks]
            meta = self.draw.choice(ready)
            metas.remove(meta)
            self.engine.load(meta, stored[meta.id])
            assert self.engine.store(meta.id) == stored[meta.id]
        self.engine.check()
        for _ in range(len(self.junk) - 1):
            self.engine.drop(self.junk.pop(self.draw.randrange(len(self.junk))).id)

    def note_frames(self) -> None:
        blocks = self.engine.device.blocks
        for text in self.texts.values():
            self.frames.add(tuple(blocks[meta.id].frame for meta in blocks_of(self.engine, text)))

    def clear(self) -> None:
        for agent in (*AGENTS, 100):
            self.engine.forget(agent)
        put_away(self.engine, [*self.known(), *self.junk])


def digest(row: Buffer) -> str:
    return hashlib.blake2b(row, digest_size=16).hexdigest()


def test_logits_are_the_same_to_the_last_bit(engine: LlamaCppEngine) -> None:
    still = Play(engine, None)
    expected = still.run()
    assert engine.device.shifts == 0
    assert len(expected) == 1 + 3 * (5 * len(AGENTS) + 2)
    moved = Play(engine, seed=1)
    assert moved.run() == expected
    assert engine.device.shifts > 0, "this test must make frames step down"
    assert not moved.frames & still.frames
    engine.check()
