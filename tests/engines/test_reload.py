"""Weights that leave memory and come back: the same tokens; texts and constraints do without them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest
from tests.driver.several import settings_of
from tests.engines.prefixes import GREEDY, prompt
from tests.engines.tiny_gguf import Shape, write

pytest.importorskip("llama_cpp")

from stepwell.basics.clock import MonotonicClock
from stepwell.bench.node import TurnLog, turn_of
from stepwell.engines.base import EngineError
from stepwell.engines.llamacpp import LlamaCppConfig, load_llamacpp, load_reloadable
from stepwell.launch.several import ModelsNode, build_several


def config_of(folder: Path) -> LlamaCppConfig:
    return LlamaCppConfig(write(folder / "tiny.gguf"), "tiny", device_kv_tokens=2048, threads=1)


def test_texts_and_constraints_stay_while_the_weights_are_away(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    plain, whole = load_llamacpp(config)
    engine, text = load_reloadable(config)
    try:
        assert engine.info == plain.info
        engine.unload()
        assert not engine.loaded
        for content in ("things within", "<|im_start|>"):
            messages = [{"role": "user", "content": content}]
            assert text.tokenize_chat(text.render_chat(messages)) == whole.tokenize_chat(
                whole.render_chat(messages)
            )
        assert text.end_tokens() == whole.end_tokens()
        engine.validate(replace(GREEDY, json_schema='{"type":"integer"}'))
        with pytest.raises(ValueError, match="temperature"):
            engine.validate(replace(GREEDY, temperature=-1.0))
        engine.bring_back()
        assert engine.loaded and engine.loads == 2
    finally:
        engine.close_engine()
        plain.close_engine()


def test_a_file_that_was_replaced_meanwhile_does_not_come_back(tmp_path: Path) -> None:
    config = config_of(tmp_path)
    engine, _ = load_reloadable(config)
    try:
        engine.unload()
        write(Path(config.model_path), seed=2)
        with pytest.raises(EngineError, match="has changed since the server started"):
            engine.bring_back()
        assert not engine.loaded
    finally:
        engine.close_engine()


def turns(node: ModelsNode, count: int) -> list[list[int]]:
    """Each model's agent goes on, and everything leaves memory in between where models may leave."""
    answers: list[list[int]] = []
    contexts = {model.text.name: prompt(150, seed) for seed, model in enumerate(node.models)}
    for _ in range(count):
        for name, context in contexts.items():
            log = TurnLog()
            node.loop.submit(replace(turn_of(context, 8, "agent"), model=name), log)
            node.loop.run_until_idle()
            node.loop.check()
            answers.append(log.tokens)
            context += [*log.tokens, *prompt(20, len(answers))]
        if node.settings.engine.unload_after_s is not None:
            node.loop.clock.sleep_us(20_000)
            node.loop.run_until_idle()
            assert [model.engine.loaded for model in node.models] == [False, False]
    return answers


def test_two_real_models_give_the_tokens_that_they_give_when_nothing_moves(tmp_path: Path) -> None:
    shapes = {"one": Shape(), "two": Shape(heads=2, kv_heads=1, layers=3)}
    base = settings_of(tmp_path, always_load=True, host_kv=64 << 20, disk_kv=64 << 20)
    files = {name: write(tmp_path / f"{name}.gguf", shape) for name, shape in shapes.items()}
    engine = replace(base.engine, kind="llamacpp", model=str(files["one"]), device_kv_tokens=1024, threads=1)
    other = replace(base.models[0], model=str(files["two"]))
    answers = []
    for folder, away_s in (("stays", None), ("leaves", 0.01)):
        settings = replace(
            base,
            engine=replace(engine, unload_after_s=away_s),
            models=(other,),
            kv=replace(base.kv, disk_dir=tmp_path / folder),
        )
        node = build_several(settings, clock=MonotonicClock(), strict=True)
        try:
            answers.append(turns(node, 3))
            moved = node.loop.snapshot().counters
            loads = [model.engine.loads for model in node.models]
        finally:
            node.stop(0)
    assert answers[0] == answers[1]
    assert min(loads) >= 3 and moved["prompt_tokens_host"] > 256
