"""Models with a running state: checkpoints move with their blocks, and nothing of a model's answer changes.

What is right is what llama.cpp computes for one sequence in a context of its own, cut at the same places.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pytest
from tests.engines.prefixes import GREEDY, blocks_of, bring_back, ids, prompt, put_away, seal_all, start, step

from stepwell.bench.zoo import child
from stepwell.engines.base import BatchItem, EngineError
from stepwell.engines.llamacpp.config import LlamaCppConfig, ModelError

if TYPE_CHECKING:
    from stepwell.engines.llamacpp import LlamaCppEngine

MODELS = ("lfm2", "qwen35", "jamba", "mamba", "rwkv7")
BLOCK = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("states")


@pytest.fixture(scope="module", params=MODELS)
def model_path(request: pytest.FixtureRequest, folder: Path) -> Path:
    return child.model_file(folder, request.param)


@pytest.fixture
def engine(model_path: Path) -> Iterator[LlamaCppEngine]:
    made = load(model_path)
    yield made
    made.check()
    made.close_engine()


def load(path: Path, device_kv_tokens: int = 1024) -> LlamaCppEngine:
    from stepwell.engines.llamacpp import LlamaCppEngine
    from stepwell.engines.llamacpp.native import NativeModel

    config = LlamaCppConfig(path, "tiny", device_kv_tokens, max_sequences=4, threads=1)
    return LlamaCppEngine(NativeModel(config), config, "tiny")


class Rows:
    """The logits of every sampled token, by request."""

    def __init__(self, engine: LlamaCppEngine) -> None:
        self.of: dict[int, list[bytes]] = {}
        engine.watch_logits = lambda request, row: self.of.setdefault(request, []).append(row.tobytes())


def alone(path: Path, tokens: Sequence[int], parts: Sequence[int]) -> list[bytes]:
    """What plain llama.cpp says after each of ``parts`` further tokens, cut where blocks end."""
    from stepwell.engines.llamacpp.native import NativeContext, NativeModel

    config = LlamaCppConfig(path, "tiny", threads=1)
    model = NativeModel(config)
    context = NativeContext(model, config, 1024, 1, 1)
    rows, at = [], 0
    for count in parts:
        end = at + count
        while at < end:
            n = min(end - at, BLOCK - at % BLOCK)
            assert context.decode(tokens[at : at + n], range(at, at + n), [0] * n, [n - 1]) == 0
            at += n
        rows.append(context.logits(n - 1).tobytes())
    context.free()
    return rows


def test_the_engine_says_what_a_checkpoint_takes(engine: LlamaCppEngine) -> None:
    info = engine.info
    assert info.unit_tokens == info.block_tokens == BLOCK
    assert 0 < info.checkpoint_bytes < info.block_bytes


def test_logits_are_those_of_llama_cpp_by_itself(engine: LlamaCppEngine, model_path: Path) -> None:
    tokens, parts = prompt(206), (200, 1, 1, 1, 1, 1, 1)
    rows = Rows(engine)
    start(engine, 1, tokens[:200])
    for at in range(200, 206):
        step(engine, 1, at, tokens[at : at + 1])
    assert rows.of[1] == alone(model_path, tokens, parts)
    engine.forget(1)
    engine.close(1)


def test_a_context_that_went_away_and_came_back_goes_on_as_if_it_had_stayed(
    engine: LlamaCppEngine, model_path: Path
) -> None:
    tokens = prompt(300)
    metas = blocks_of(engine, tokens[:192])
    start(engine, 1, tokens[:200])
    seal_all(engine, 1, metas)
    engine.close(1)
    stored = put_away(engine, metas)
    assert [len(data) for data in stored] == [engine.info.block_bytes] * 3
    other = blocks_of(engine, prompt(64, seed=9))
    start(engine, 2, prompt(64, seed=9))  # takes the frame that the first block had
    seal_all(engine, 2, other)
    engine.close(2)
    bring_back(engine, metas, stored)
    assert [bytes(engine.store(meta.id)) for meta in metas] == [bytes(data) for data in stored]
    rows = Rows(engine)
    engine.open(3, ids(metas), 192, GREEDY)
    step(engine, 3, 192, tokens[192:300])
    step(engine, 3, 300, [tokens[0]])
    assert rows.of[3] == alone(model_path, [*tokens, tokens[0]], (300, 1))
    engine.close(3)


def test_agents_that_share_a_beginning_do_not_disturb_each_other(
    engine: LlamaCppEngine, model_path: Path
) -> None:
    shared = prompt(128)
    metas = blocks_of(engine, shared)
    start(engine, 1, shared)
    seal_all(engine, 1, metas)
    engine.close(1)
    rows, texts = Rows(engine), {}
    for agent in (2, 3, 4):
        engine.open(agent, ids(metas), 128, GREEDY)
        texts[agent] = [*shared, *prompt(10 + agent, seed=agent)]
    engine.run([BatchItem(agent, 128, text[128:], True) for agent, text in texts.items()])
    for i in range(3):  # single tokens of all in one batch
        batch = [BatchItem(agent, len(text), [65 + i], True) for agent, text in texts.items()]
        engine.run(batch)
        for text in texts.values():
            text.append(65 + i)
        engine.check()
    for agent, text in texts.items():
        expected = alone(model_path, text, (len(text) - 3, 1, 1, 1))
        assert rows.of[agent][0] == expected[0]
        # Three rows at once round otherwise than one; another agent's state would be far off.
        for row, right in zip(rows.of[agent][1:], expected[1:], strict=True):
            assert np.allclose(np.frombuffer(row, np.float32), np.frombuffer(right, np.float32), atol=0.01)
        engine.close(agent)


def test_a_preempted_turn_goes_on_from_its_tail(engine: LlamaCppEngine, model_path: Path) -> None:
    tokens = prompt(100)
    start(engine, 1, tokens[:90])
    metas = blocks_of(engine, tokens[:90])
    seal_all(engine, 1, metas)
    engine.close(1)
    stored = put_away(engine, metas)
    bring_back(engine, metas, stored)
    rows = Rows(engine)
    engine.open(1, ids(metas), 90, GREEDY)
    step(engine, 1, 90, tokens[90:])
    assert rows.of[1] == alone(model_path, tokens, (90, 10))[1:]
    engine.close(1)


def test_nobody_goes_on_from_the_middle_of_a_block(engine: LlamaCppEngine) -> None:
    tokens = prompt(128)
    metas = blocks_of(engine, tokens)
    start(engine, 1, tokens)
    seal_all(engine, 1, metas)
    engine.close(1)
    with pytest.raises(EngineError, match="no running state after 80 tokens"):
        engine.open(2, ids(metas), 80, GREEDY)
    engine.check()
    assert not engine.device.runs


def test_a_tail_is_sealed_at_once_or_its_state_has_gone(engine: LlamaCppEngine) -> None:
    tokens = prompt(40)
    start(engine, 1, tokens[:30])
    (meta,) = blocks_of(engine, tokens[:30])
    step(engine, 1, 30, tokens[30:])
    with pytest.raises(EngineError):
        engine.seal(1, meta)
    engine.close(1)


def test_bytes_without_their_state_are_refused(engine: LlamaCppEngine) -> None:
    tokens = prompt(64)
    metas = blocks_of(engine, tokens)
    start(engine, 1, tokens)
    seal_all(engine, 1, metas)
    engine.close(1)
    (data,) = put_away(engine, metas)
    with pytest.raises(EngineError, match="wrong size"):
        engine.load(metas[0], data[: -engine.info.checkpoint_bytes])
    engine.check()


def test_a_device_that_cannot_hold_a_state_in_every_frame_holds_fewer(
    model_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from stepwell.engines.llamacpp import setup

    engine = load(model_path, 320)
    assert engine.info.device_states == 0
    most = 4 * engine.info.checkpoint_bytes
    engine.close_engine()
    monkeypatch.setattr(setup, "MOST_STATE_BYTES", most)
    engine = load(model_path, 320)
    assert engine.info.device_states == 4
    assert engine.info.device_bytes == 5 * engine.info.block_bytes - engine.info.checkpoint_bytes
    engine.close_engine()
    monkeypatch.setattr(setup, "MOST_STATE_BYTES", most - 1)
    with pytest.raises(ModelError, match="4 of them do not fit into"):
        load(model_path, 320)


@pytest.mark.parametrize("megabytes", [20, 80])
def test_a_real_hybrid_starts_on_a_machine_of_16_gigabytes(megabytes: int) -> None:
    """By the bound alone: 16,384 tokens on the device are 256 blocks."""
    from stepwell.engines.llamacpp.setup import states_for

    assert states_for(megabytes << 20, 256, 16 << 30) == (4 << 30) // (megabytes << 20)


def test_large_states_have_fewer_ids_and_still_run(model_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """llama.cpp allocates a state for every id: with 32 there are 18 frames per depth for 4 sequences."""
    from stepwell.engines.llamacpp import setup

    monkeypatch.setattr(setup, "_ID_STATE_BYTES", 0)
    engine = load(model_path, 2048)
    assert engine.info.depth_frames == 22
    rows = Rows(engine)
    tokens = prompt(70)
    start(engine, 1, tokens)
    assert rows.of[1] == alone(model_path, tokens, (70,))
    engine.close(1)
    engine.check()
    engine.close_engine()


def test_rows_are_finite_and_differ(engine: LlamaCppEngine) -> None:
    """A state that was lost would make the rows of different beginnings equal."""
    rows = Rows(engine)
    for agent, seed in ((1, 1), (2, 2)):
        engine.open(agent, [], 0, GREEDY)
        engine.run([BatchItem(agent, 0, [*prompt(64, seed=seed), 70], True)])
        engine.close(agent)
    one, two = (np.frombuffer(rows.of[agent][0], np.float32) for agent in (1, 2))
    assert np.isfinite(one).all() and not np.array_equal(one, two)
