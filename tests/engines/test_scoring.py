"""How likely the tokens of a prompt were: the numbers of a plain forward pass, however the prompt is cut."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.engines import tiny_gguf
from tests.engines.prefixes import blocks_of, ids, prompt, seal_all, step

from stepwell.engines.base import BatchItem, Engine, PromptToken, SamplingParams
from stepwell.engines.null import NullConfig, NullEngine

SCORED = SamplingParams(temperature=0.0, ignore_eos=True, prompt_logprobs=3)
CUTS = [(150,), (1, 149), (64, 64, 22), (63, 1, 1, 85), (100, 50)]


def score(engine: Engine, request: int, tokens: list[int], cuts: tuple[int, ...]) -> tuple[object, ...]:
    engine.open(request, [], 0, SCORED)
    try:
        at = 0
        for count in cuts:
            last = at + count == len(tokens)
            sampled = engine.run([BatchItem(request, at, tokens[at : at + count], last)])
            at += count
        assert step(engine, request, at, [sampled[0].token]) >= 0  # no token after the first is scored
        return sampled[0].prompt
    finally:
        engine.close(request)
        engine.forget(request)


def plain_logprobs(path: Path, tokens: list[int]) -> NDArray[np.float64]:
    """Log probabilities after each token, by llama-cpp-python's own class: one sequence, one pass."""
    llama_cpp = pytest.importorskip("llama_cpp")
    model = llama_cpp.Llama(
        str(path), n_ctx=512, n_threads=1, logits_all=True, flash_attn=True, verbose=False
    )
    try:
        model.eval(tokens)
        rows = np.array(model.scores[: len(tokens)], np.float64)
    finally:
        model.close()
    rows -= rows.max(axis=1, keepdims=True)
    return np.asarray(rows - np.log(np.exp(rows).sum(axis=1, keepdims=True)))


def agrees(found: tuple[object, ...], tokens: list[int], rows: NDArray[np.float64], near: float) -> None:
    assert len(found) == len(tokens) and found[0] is None
    for position, one in enumerate(found[1:], 1):
        assert isinstance(one, PromptToken)
        row = rows[position - 1]
        assert one.logprob.token == tokens[position]
        assert one.logprob.logprob == pytest.approx(row[tokens[position]], abs=near)
        assert [top.logprob for top in one.top] == pytest.approx(sorted(row)[:-4:-1], abs=near)


def test_a_tiny_model_scores_a_prompt_as_a_plain_forward_pass_does(tmp_path: Path) -> None:
    pytest.importorskip("llama_cpp")
    from stepwell.engines.llamacpp import LlamaCppConfig, load_llamacpp

    path = tiny_gguf.write(tmp_path / "tiny.gguf")
    tokens = prompt(150)
    rows = plain_logprobs(path, tokens)
    engine, _ = load_llamacpp(LlamaCppConfig(path, "tiny", device_kv_tokens=512, max_sequences=4, threads=1))
    try:
        for request, cuts in enumerate(CUTS):
            agrees(score(engine, request, tokens, cuts), tokens, rows, 0.02)
        engine.check()
    finally:
        engine.close_engine()


@pytest.mark.model
def test_smollm2_scores_a_text_as_a_plain_forward_pass_does(
    smollm2_path: Path, request: pytest.FixtureRequest
) -> None:
    engine, text = request.getfixturevalue("smollm2_engine")
    tokens = text.tokenize(
        "A stepwell is a well whose water is reached by steps. 北京の井戸 — 13 m deep.",
        add_bos=True,
        parse_special=True,
    )
    rows = plain_logprobs(smollm2_path, tokens)
    for number, cuts in enumerate([(len(tokens),), (5, len(tokens) - 5)]):
        agrees(score(engine, number, tokens, cuts), tokens, rows, 0.02)


@pytest.fixture(params=["null", "tiny"])
def engine(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Engine]:
    if request.param == "null":
        yield NullEngine(NullConfig(device_blocks=8, max_sequences=4))
        return
    pytest.importorskip("llama_cpp")
    from stepwell.engines.llamacpp import LlamaCppConfig, load_llamacpp

    path = tiny_gguf.write(tmp_path / "tiny.gguf")
    made, _ = load_llamacpp(LlamaCppConfig(path, "tiny", device_kv_tokens=512, max_sequences=4, threads=1))
    yield made
    made.close_engine()


def test_a_preempted_prompt_is_scored_whole(engine: Engine) -> None:
    """What was computed before it left the device keeps its scores, also where some is computed again."""
    tokens = prompt(150)
    whole = score(engine, 1, tokens, (150,))
    for again_from in (64, 0):
        engine.open(2, [], 0, SCORED)
        engine.run([BatchItem(2, 0, tokens[:100], False)])
        metas = blocks_of(engine, tokens[:64])
        if again_from:
            seal_all(engine, 2, metas)
        engine.close(2)
        engine.open(2, ids(metas) if again_from else [], again_from, SCORED)
        (sampled,) = engine.run([BatchItem(2, again_from, tokens[again_from:], True)])
        near(sampled.prompt, whole)
        engine.close(2)
        engine.forget(2)
        for meta in metas if again_from else ():
            engine.drop(meta.id)
    engine.check()


def test_what_another_request_has_computed_has_no_score(engine: Engine) -> None:
    tokens = prompt(100)
    engine.open(1, [], 0, SCORED)
    engine.run([BatchItem(1, 0, tokens[:64], False)])
    metas = blocks_of(engine, tokens[:64])
    seal_all(engine, 1, metas)
    engine.open(2, ids(metas), 64, SCORED)
    (sampled,) = engine.run([BatchItem(2, 64, tokens[64:], True)])
    assert [one is None for one in sampled.prompt[:64]] == [True] * 64
    assert [one is None for one in sampled.prompt[65:]] == [False] * 35


def test_others_in_the_batch_are_not_scored(engine: Engine) -> None:
    plain = SamplingParams(temperature=0.0, ignore_eos=True)
    tokens = prompt(80)
    alone = score(engine, 1, tokens, (80,))
    engine.open(2, [], 0, plain)
    engine.open(3, [], 0, SCORED)
    engine.open(4, [], 0, SCORED)
    found = {s.request: s.prompt for s in engine.run([BatchItem(n, 0, tokens, True) for n in (2, 3, 4)])}
    assert found[2] == ()
    near(found[3], alone)
    near(found[4], alone)


def near(found: tuple[PromptToken | None, ...], wanted: tuple[object, ...]) -> None:
    assert len(found) == len(wanted) and found[0] is None
    for one, other in zip(found[1:], wanted[1:], strict=True):
        assert one is not None and isinstance(other, PromptToken)
        assert one.logprob.token == other.logprob.token
        assert [t.logprob for t in one.top] == pytest.approx([t.logprob for t in other.top], abs=1e-3)
        assert one.logprob.logprob == pytest.approx(other.logprob.logprob, abs=1e-3)
