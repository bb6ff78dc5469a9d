"""LoRA adapters: each request is computed under its own, and no KV is used under another."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from tests.engines.prefixes import GREEDY, generate, prompt, start
from tests.engines.tiny_adapter import write_adapter
from tests.engines.tiny_gguf import Shape, write

pytest.importorskip("llama_cpp")

from stepwell.bench.node import TurnLog, turn_of
from stepwell.engines.base import BatchItem, EngineError, SamplingParams
from stepwell.engines.llamacpp import LlamaCppConfig, LlamaCppEngine, LlamaCppText, ModelError, load_llamacpp
from stepwell.launch.assemble import policy_config
from stepwell.loop.driver import Driver
from stepwell.policy.scheduler import Scheduler
from stepwell.settings.file import Settings
from stepwell.tiers.local import LocalTiers
from stepwell.tiers.store import DiskStore

NAMES = ("", "red", "blue")


def under(adapter: str) -> SamplingParams:
    return replace(GREEDY, adapter=adapter)


def config_of(folder: Path, **changes: object) -> LlamaCppConfig:
    files = tuple((name, write_adapter(folder / f"{name}.gguf", seed)) for seed, name in enumerate(NAMES[1:]))
    model = write(folder / "tiny.gguf")
    given = {"device_kv_tokens": 2048, "max_sequences": 8, "threads": 1, "adapters": files, **changes}
    return LlamaCppConfig(model, "tiny", **given)  # type: ignore[arg-type]


@pytest.fixture
def made(tmp_path: Path) -> Iterator[tuple[LlamaCppEngine, LlamaCppText]]:
    engine, text = load_llamacpp(config_of(tmp_path))
    yield engine, text
    engine.close_engine()


def test_each_request_is_computed_under_its_own_adapter_alone_or_in_a_batch(
    made: tuple[LlamaCppEngine, LlamaCppText],
) -> None:
    engine, _ = made
    rows: dict[int, list[bytes]] = {}
    engine.watch_logits = lambda request, logits: rows.setdefault(request, []).append(logits.tobytes())
    tokens = prompt(70)
    for request, name in enumerate(NAMES):  # one after the other
        first = start(engine, request, tokens, under(name))
        generate(engine, request, 70, first, 6)
        engine.close(request)
    assert len({tuple(rows[request]) for request in range(3)}) == 3
    for request, name in enumerate(NAMES):  # side by side
        engine.open(10 + request, [], 0, under(name))
    sampled = engine.run([BatchItem(10 + request, 0, tokens, True) for request in range(3)])
    for at in range(70, 76):
        items = [BatchItem(one.request, at, [one.token], True) for one in sampled]
        sampled = engine.run(items)
        assert sorted(one.request for one in sampled) == [10, 11, 12]
    for request in range(3):
        assert rows[10 + request] == rows[request]
    engine.check()


def test_the_model_alone_is_what_it_is_without_adapters(
    made: tuple[LlamaCppEngine, LlamaCppText], tmp_path: Path
) -> None:
    engine, _ = made
    plain, _ = load_llamacpp(config_of(tmp_path, adapters=()))
    tokens = prompt(40)
    start(engine, 9, tokens, under("red"))
    try:
        first = start(plain, 1, tokens)
        assert start(engine, 1, tokens) == first
        assert generate(engine, 1, 40, first, 8) == generate(plain, 1, 40, first, 8)
        assert plain.info.fingerprint == engine.info.fingerprint
    finally:
        plain.close_engine()


def test_no_kv_is_used_under_another_adapter_even_after_a_restart(tmp_path: Path) -> None:
    """The answers of three requests with one prompt are the same, from device, host or disk or computed."""
    tokens, config = prompt(130), config_of(tmp_path)
    expected: dict[str, list[int]] = {}
    for life in range(2):
        engine, text = load_llamacpp(config)
        disk = DiskStore(tmp_path / "kv", 1 << 26, engine.info.fingerprint)
        tiers = LocalTiers(1 << 22, disk)
        driver = Driver(engine, text, tiers, Scheduler(policy_config(Settings(), engine.info, tiers)))
        try:
            for turn in range(2):
                for name in NAMES:
                    log, asked = TurnLog(), turn_of(tokens, 8, f"agent {name}")
                    driver.submit(replace(asked, sampling=under(name)), log)
                    driver.run_until_idle()
                    assert log.admitted is not None
                    assert bool(log.admitted.cached_tokens) is bool(life or turn), (life, turn, name)
                    assert log.tokens == expected.setdefault(name, log.tokens)
        finally:
            driver.stop(1.0)
    assert len({tuple(answer) for answer in expected.values()}) == 3


def test_another_file_under_the_same_name_gives_other_names_to_its_blocks(tmp_path: Path) -> None:
    engine, _ = load_llamacpp(config_of(tmp_path))
    before = [engine.info.kv_of(name) for name in NAMES]
    engine.close_engine()
    write_adapter(tmp_path / "other.gguf", 99)
    files = (("red", tmp_path / "other.gguf"), ("blue", tmp_path / "blue.gguf"))
    engine, _ = load_llamacpp(config_of(tmp_path, adapters=files))
    after = [engine.info.kv_of(name) for name in NAMES]
    engine.close_engine()
    assert len({*before, *after}) == 4 and (before[0], before[2]) == (after[0], after[2])


def test_an_unknown_adapter_is_refused_in_one_sentence(made: tuple[LlamaCppEngine, LlamaCppText]) -> None:
    engine, _ = made
    with pytest.raises(ValueError, match=r"no adapter 'green'; this model has blue, red$"):
        engine.validate(under("green"))
    with pytest.raises(EngineError, match="green"):
        engine.open(1, [], 0, under("green"))
    engine.check()


def test_files_that_are_no_adapters_of_this_model_are_refused_in_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "words.gguf").write_text("hello")
    wide = write_adapter(tmp_path / "wide.gguf", 1, Shape(heads=8))
    started = write_adapter(tmp_path / "alora.gguf", 1, **{"adapter.alora.invocation_tokens": [1, 2]})
    wrong = {
        tmp_path / "words.gguf": "not a GGUF file",
        tmp_path / "none.gguf": "cannot be read",
        write(tmp_path / "model.gguf"): "not of a LoRA adapter",
        wide: "of another model",
        started: "aLoRA|of another model",
    }
    for path, why in wrong.items():
        with pytest.raises(ModelError, match=why) as caught:
            load_llamacpp(config_of(tmp_path, adapters=(("red", path),)))
        assert str(caught.value).startswith("adapter 'red': ") and "\n" not in str(caught.value)
