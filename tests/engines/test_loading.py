"""What an operator can get wrong, and settings that change how the engine computes."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from tests.engines.prefixes import (
    GREEDY,
    blocks_of,
    bring_back,
    generate,
    ids,
    prompt,
    put_away,
    seal_all,
    start,
)

from stepwell.engines.base import BatchItem, EngineError

pytest.importorskip("llama_cpp")

from stepwell.engines.llamacpp import LlamaCppConfig, ModelError, load_llamacpp, native
from stepwell.engines.llamacpp.engine import split
from stepwell.engines.llamacpp.fingerprint import file_digest
from stepwell.engines.llamacpp.padding import Padding

if TYPE_CHECKING:
    from stepwell.engines.llamacpp import LlamaCppEngine


@contextmanager
def loaded(config: LlamaCppConfig) -> Iterator[LlamaCppEngine]:
    engine, _ = load_llamacpp(config)
    try:
        yield engine
        engine.check()
    finally:
        engine.close_engine()


@pytest.fixture
def config(smollm2_path: Path) -> LlamaCppConfig:
    return LlamaCppConfig(smollm2_path, "smollm2", device_kv_tokens=512, max_sequences=4)


# --- models that cannot be served -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "sentence"),
    [
        (None, "cannot be read"),
        (b"", "not a GGUF file"),
        (b"<html>404", "not a GGUF file"),
        (b"GGUF" + bytes(range(200)), "damaged"),
    ],
)
def test_a_missing_or_damaged_model_is_one_sentence(
    tmp_path: Path, content: bytes | None, sentence: str
) -> None:
    path = tmp_path / "model.gguf"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(ModelError, match=sentence) as error:
        load_llamacpp(LlamaCppConfig(path, "broken"))
    assert "model.gguf" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_cut_off_model_says_so(tmp_path: Path, smollm2_path: Path) -> None:
    path = tmp_path / "cut.gguf"
    with smollm2_path.open("rb") as file:
        path.write_bytes(file.read(30_000_000))
    with pytest.raises(ModelError, match="corrupted or incomplete"):
        load_llamacpp(LlamaCppConfig(path, "cut"))


@pytest.mark.parametrize(
    ("question", "answer", "sentence"),
    [
        ("llama_model_has_encoder", True, "decoder model"),
        ("llama_model_has_decoder", False, "decoder model"),
        ("llama_model_n_swa", 64, "sliding window of 64"),
    ],
)
def test_models_of_an_unfit_kind_are_refused(
    config: LlamaCppConfig, monkeypatch: pytest.MonkeyPatch, question: str, answer: object, sentence: str
) -> None:
    monkeypatch.setattr(native.lib, question, lambda _model: answer)
    with pytest.raises(ModelError, match=sentence):
        load_llamacpp(config)


@pytest.mark.parametrize(
    "wish",
    [
        {"device_kv_tokens": 100},
        {"device_kv_tokens": 1 << 40},
        {"max_sequences": 0},
        {"kv_type_k": "q9_9"},
        {"context_tokens": 0},
        {"threads": 0},
    ],
)
def test_wishes_that_cannot_be_are_one_sentence(config: LlamaCppConfig, wish: dict[str, object]) -> None:
    (name,) = wish
    with pytest.raises(ModelError, match="KV type" if name == "kv_type_k" else name):
        load_llamacpp(replace(config, **wish))  # type: ignore[arg-type]


def test_more_sequences_than_llama_cpp_has_ids_for_become_fewer(config: LlamaCppConfig) -> None:
    with loaded(replace(config, max_sequences=250)) as engine:
        assert 1 < engine.info.max_sequences < 250


# --- settings -------------------------------------------------------------------------------------


def test_sizes_follow_the_wishes(config: LlamaCppConfig) -> None:
    with loaded(replace(config, device_kv_tokens=700, context_tokens=300)) as engine:
        assert engine.info.device_blocks == 10
        assert engine.info.context_tokens == 300
        usual = engine.info
    with loaded(replace(config, kv_type_k="q8_0", kv_type_v="q8_0")) as engine:
        assert engine.info.context_tokens == 512
        assert engine.info.token_bytes < 0.6 * usual.token_bytes
        assert engine.info.fingerprint != usual.fingerprint
        moved_and_back(engine)
    with loaded(config) as engine:
        assert engine.info.fingerprint == usual.fingerprint


def test_nobody_grows_past_the_context(config: LlamaCppConfig) -> None:
    with loaded(replace(config, context_tokens=100)) as engine:
        start(engine, 1, prompt(90))
        with pytest.raises(Exception, match="context of 100 tokens"):
            engine.run([BatchItem(1, 90, prompt(11), True)])


def test_more_threads_than_two_pad_a_lone_token(config: LlamaCppConfig) -> None:
    """And the padded token is the same wherever its KV lies."""
    with loaded(replace(config, threads=3, device_kv_tokens=1024)) as engine:
        assert engine.info.device_blocks == 16
        moved_and_back(engine, n_tokens=600)


def moved_and_back(engine: LlamaCppEngine, n_tokens: int = 150) -> None:
    """Greedy tokens are the same after the blocks have left and come back behind another one."""
    tokens = prompt(n_tokens)
    first = start(engine, 1, tokens)
    metas = blocks_of(engine, tokens)
    seal_all(engine, 1, metas)
    engine.close(1)
    rows: list[bytes] = []
    engine.watch_logits = lambda _request, row: rows.append(row.tobytes())
    engine.open(2, ids(metas), n_tokens, GREEDY)
    expected = generate(engine, 2, n_tokens, first, 3)
    engine.close(2)
    stored = put_away(engine, metas)
    engine.load(replace(metas[0], id=b"in the way"), stored[0])
    bring_back(engine, metas, stored)
    engine.open(3, ids(metas), n_tokens, GREEDY)
    assert generate(engine, 3, n_tokens, first, 3) == expected
    assert rows[:3] == rows[3:]


# --- steps that fail ------------------------------------------------------------------------------


@pytest.mark.parametrize("after_placing", [False, True], ids=["refused", "failed late"])
def test_a_step_that_fails_loses_its_requests_and_nobody_else(
    gemma3_path: Path, monkeypatch: pytest.MonkeyPatch, after_placing: bool
) -> None:
    """Gemma's batches are padded, so the padding's own cells have to be put right as well."""
    wishes = LlamaCppConfig(gemma3_path, "gemma3", device_kv_tokens=512, max_sequences=4)
    with loaded(wishes) as engine:
        first = start(engine, 1, prompt(70))
        for request in (2, 3):
            start(engine, request, prompt(61 + request, seed=request))
        decode = engine._context.decode

        def fail(*batch: Any) -> int:
            if after_placing:
                assert decode(*batch) == 0
            return -3

        with monkeypatch.context() as patch:
            patch.setattr(engine._context, "decode", fail)
            with pytest.raises(EngineError) as error:
                engine.run([BatchItem(2, 63, [50, 51], True), BatchItem(3, 64, [50, 51, 52], True)])
        assert error.value.requests == (2, 3)
        engine.check()
        assert engine.device.n_free == 8 - 2
        after = generate(engine, 1, 70, first, 3)
        engine.close(1)
        start(engine, 4, prompt(70))
        assert generate(engine, 4, 70, first, 3) == after


def test_a_failure_in_a_later_part_names_everybody(
    config: LlamaCppConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loaded(replace(config, device_kv_tokens=1024)) as engine:
        for request in (1, 2):
            engine.open(request, [], 0, GREEDY)
        statuses = iter([0, 1])
        decode = engine._context.decode
        monkeypatch.setattr(engine._context, "decode", lambda *batch: decode(*batch) or next(statuses))
        with pytest.raises(EngineError) as error:
            engine.run([BatchItem(1, 0, prompt(20), True), BatchItem(2, 0, prompt(500), True)])
        assert set(error.value.requests) == {1, 2}
        assert engine.device.n_free == 16


# --- how a batch is cut and filled up -------------------------------------------------------------


def test_a_large_batch_is_cut_in_the_order_of_its_items() -> None:
    items = [BatchItem(1, 5, list(range(300)), True), BatchItem(2, 0, list(range(400)), True)]
    parts = split([*items, BatchItem(3, 9, [7], True)], 512)
    assert [[(i.request, i.start, len(i.tokens), i.sample) for i in part] for part in parts] == [
        [(1, 5, 300, True), (2, 0, 212, False)],
        [(2, 212, 188, True), (3, 9, 1, True)],
    ]


@pytest.mark.parametrize(
    ("padding", "counts"),
    [
        (Padding(lone=False, rows=1), {1: 0, 2: 0, 5: 0, 512: 0}),
        (Padding(lone=True, rows=1), {1: 1, 2: 0, 5: 0, 512: 0}),
        (Padding(lone=False, rows=4), {1: 0, 2: 0, 3: 0, 4: 0, 5: 3, 11: 1, 510: 2, 512: 0}),
        (Padding(lone=True, rows=4), {1: 1, 2: 0, 3: 0, 4: 0, 5: 3, 512: 0}),
    ],
)
def test_how_much_padding_a_batch_gets(padding: Padding, counts: dict[int, int]) -> None:
    assert {n: padding.missing(n) for n in counts} == counts


def test_only_weights_that_need_it_are_padded(smollm2_path: Path, gemma3_path: Path) -> None:
    """Gemma's Q4_K is multiplied four tokens at once where llama.cpp repacks it (x86 with AVX2, ARM)."""
    small = {"device_kv_tokens": 128, "max_sequences": 1}
    with loaded(LlamaCppConfig(smollm2_path, "smollm2", **small)) as engine:  # type: ignore[arg-type]
        assert engine._padding.rows == 1
    with loaded(LlamaCppConfig(gemma3_path, "gemma3", **small)) as engine:  # type: ignore[arg-type]
        info = native.lib.llama_print_system_info().decode()
        if "AVX2 = 1" in info and "REPACK = 1" in info:
            assert engine._padding.rows == 4


def test_every_part_of_a_split_model_counts(tmp_path: Path) -> None:
    """The first part may be the same in two models: the others decide KV as well."""
    digests = set()
    for name, tail in (("a", b"one"), ("b", b"other")):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "m-00001-of-00002.gguf").write_bytes(b"GGUF the same in both")
        (folder / "m-00002-of-00002.gguf").write_bytes(tail)
        digests.add(file_digest(folder / "m-00001-of-00002.gguf"))
    assert len(digests) == 2
