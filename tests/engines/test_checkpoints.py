"""Running states as blocks keep them or do not, on every engine that has some."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engines.prefixes import GREEDY, blocks_of, bring_back, generate, ids, prompt, put_away, step
from tests.engines.test_states import load

from stepwell.bench.zoo.child import model_file
from stepwell.engines.base import BatchItem, Engine, EngineError, NoRoom
from stepwell.engines.llamacpp import setup
from stepwell.engines.null import NullConfig, NullEngine
from stepwell.policy.types import BlockMeta

BLOCK = 64


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("checkpoints")


@pytest.fixture(params=["null", "lfm2", "mamba"])
def engine(request: pytest.FixtureRequest, folder: Path) -> Iterator[Engine]:
    made = make(request.param, folder)
    yield made
    made.check()
    made.close_engine()


def make(name: str, folder: Path, states: int = 0) -> Engine:
    if name == "null":
        sizes = NullConfig(device_blocks=16, max_sequences=4, checkpoint_bytes=1000, device_states=states)
        return NullEngine(sizes)
    return load(model_file(folder, name))


@pytest.fixture(params=["null", "lfm2", "mamba"])
def short_engine(
    request: pytest.FixtureRequest, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Engine]:
    """Its device holds four states."""
    if request.param != "null":
        first = make(request.param, folder)
        monkeypatch.setattr(setup, "MOST_STATE_BYTES", 4 * first.info.checkpoint_bytes)
        first.close_engine()
    made = make(request.param, folder, states=4)
    assert made.info.device_states == 4
    yield made
    made.check()
    made.close_engine()


def light(engine: Engine, meta: BlockMeta) -> BlockMeta:
    """The same block without its state."""
    return replace(meta, size_bytes=meta.size_bytes - engine.info.checkpoint_bytes)


def compute(engine: Engine, request: int, at: int, tokens: list[int], *, keep: tuple[int, ...] = ()) -> int:
    """Run tokens with states kept at these ends alone; the first token of the answer."""
    for end in keep:
        engine.keep_state(request, end)
    (sampled,) = engine.run([BatchItem(request, at, tokens, True)])
    return sampled.token


def prefix(engine: Engine, request: int, tokens: list[int], keep: tuple[int, ...]) -> list[BlockMeta]:
    """Blocks of a request that has come and gone; those that end at ``keep`` have a state."""
    engine.open(request, [], 0, GREEDY)
    compute(engine, request, 0, tokens, keep=keep)
    metas = [
        meta if (meta.depth + 1) * BLOCK in keep else light(engine, meta)
        for meta in blocks_of(engine, tokens[: len(tokens) // BLOCK * BLOCK])
    ]
    for meta in metas:
        engine.seal(request, meta)
    engine.close(request)
    return metas


def answer(engine: Engine, request: int, tokens: list[int]) -> list[int]:
    """What the engine says when nothing is stored of the tokens."""
    engine.open(request, [], 0, GREEDY)
    made = generate(engine, request, len(tokens), compute(engine, request, 0, tokens), 5)
    engine.close(request)
    return made


def test_a_block_without_a_state_is_lighter_and_comes_back(engine: Engine) -> None:
    tokens = prompt(200)
    expected = answer(engine, 9, tokens)
    metas = prefix(engine, 1, tokens, keep=(192,))
    stored = put_away(engine, metas)
    assert [len(data) for data in stored] == [meta.size_bytes for meta in metas]
    assert metas[0].size_bytes == metas[2].size_bytes - engine.info.checkpoint_bytes
    bring_back(engine, metas, stored)
    engine.open(2, ids(metas), 192, GREEDY)
    assert generate(engine, 2, 200, step(engine, 2, 192, tokens[192:]), 5) == expected
    engine.close(2)


def test_nobody_goes_on_from_a_block_without_a_state(engine: Engine) -> None:
    metas = prefix(engine, 1, prompt(200), keep=(192,))
    with pytest.raises(EngineError, match="no running state after 128 tokens"):
        engine.open(2, ids(metas[:2]), 128, GREEDY)


def test_a_state_that_was_not_kept_cannot_be_sealed(engine: Engine) -> None:
    tokens = prompt(100)
    engine.open(1, [], 0, GREEDY)
    compute(engine, 1, 0, tokens)
    with pytest.raises(EngineError, match="running state at the end of"):
        engine.seal(1, blocks_of(engine, tokens)[0])
    engine.close(1)


def test_a_kept_state_waits_for_its_seal_while_the_sequence_goes_on(engine: Engine) -> None:
    tokens = prompt(100)
    expected = answer(engine, 9, tokens)
    metas = prefix(engine, 1, tokens, keep=(64,))
    engine.open(2, ids(metas), 64, GREEDY)
    assert generate(engine, 2, 100, step(engine, 2, 64, tokens[64:]), 5) == expected
    engine.close(2)


def test_who_computes_what_is_there_takes_the_block_and_leaves_its_state(engine: Engine) -> None:
    shared = prompt(130)
    one, two = [*shared[:128], *prompt(70, seed=1)], [*shared[:128], *prompt(70, seed=2)]
    expected = answer(engine, 9, two)
    metas = prefix(engine, 1, one, keep=(192,))
    engine.open(2, [], 0, GREEDY)
    for meta in metas[:2]:
        keep = (128,) if meta.depth else ()
        compute(engine, 2, meta.depth * BLOCK, two[meta.depth * BLOCK :][:BLOCK], keep=keep)
        gets = blocks_of(engine, two)[1] if meta.depth else meta
        engine.adopt(2, gets)
        engine.check()
    assert generate(engine, 2, 198, compute(engine, 2, 128, two[128:]), 5) == expected
    engine.close(2)
    engine.open(3, ids(metas[:2]), 128, GREEDY)  # from the state that it left
    assert generate(engine, 3, 198, step(engine, 3, 128, two[128:]), 5) == expected
    assert len(engine.store(metas[1].id)) == engine.info.block_bytes
    engine.close(3)


def test_what_cannot_be_adopted_is_refused(engine: Engine) -> None:
    shared = prompt(128)
    metas = prefix(engine, 1, shared, keep=(128,))
    engine.open(2, [], 0, GREEDY)
    compute(engine, 2, 0, shared[:70])
    with pytest.raises(EngineError):
        engine.adopt(2, metas[0])
    with pytest.raises(EngineError):
        engine.adopt(2, metas[1])
    engine.close(2)


@pytest.mark.parametrize("tokens", [0, 64, 130])
def test_a_state_is_kept_where_a_block_ends_ahead(engine: Engine, tokens: int) -> None:
    engine.open(1, [], 0, GREEDY)
    compute(engine, 1, 0, prompt(70))
    with pytest.raises(EngineError, match="cannot keep its state"):
        engine.keep_state(1, tokens)
    engine.close(1)


def test_a_block_gives_its_state_up_and_gets_it_back(engine: Engine) -> None:
    tokens = prompt(200)
    expected = answer(engine, 9, tokens)
    metas = prefix(engine, 1, tokens, keep=(128, 192))
    data = bytes(engine.store(metas[2].id))
    engine.drop_state(metas[2].id)
    assert len(engine.store(metas[2].id)) == len(data) - engine.info.checkpoint_bytes
    with pytest.raises(EngineError, match="no running state after 192 tokens"):
        engine.open(2, ids(metas), 192, GREEDY)
    with pytest.raises(EngineError, match="have no running state"):
        engine.load_state(metas[2], data[: -engine.info.checkpoint_bytes])
    engine.load_state(metas[2], data)
    engine.open(2, ids(metas), 192, GREEDY)
    engine.drop_state(metas[2].id)  # the sequence has its own
    engine.check()
    assert generate(engine, 2, 200, step(engine, 2, 192, tokens[192:]), 5) == expected
    engine.close(2)


def test_no_more_states_are_kept_than_the_device_holds(short_engine: Engine) -> None:
    engine, tokens = short_engine, prompt(400)
    expected = answer(engine, 9, tokens)
    metas = prefix(engine, 1, tokens[:192], keep=(64, 128, 192))
    engine.open(2, ids(metas), 192, GREEDY)
    engine.keep_state(2, 256)
    with pytest.raises(NoRoom, match="no more than 4 running states"):
        engine.keep_state(2, 320)
    engine.check()
    engine.drop_state(metas[0].id)
    compute(engine, 2, 192, tokens[192:384], keep=(320,))
    engine.seal(2, blocks_of(engine, tokens)[3])
    engine.check()
    assert generate(engine, 2, 400, step(engine, 2, 384, tokens[384:]), 5) == expected
    engine.close(2)
    engine.check()


def test_what_is_loaded_takes_a_place_as_well(short_engine: Engine) -> None:
    engine, tokens = short_engine, prompt(256)
    metas = prefix(engine, 1, tokens, keep=(64, 128, 192, 256))
    last = [metas[3]]
    stored = put_away(engine, last)
    engine.open(2, ids(metas[:1]), 64, GREEDY)
    engine.keep_state(2, 128)
    with pytest.raises(NoRoom, match="running states"):
        bring_back(engine, last, stored)
    engine.check()
    engine.close(2)  # with what it was told to keep
    bring_back(engine, last, stored)
    engine.check()
