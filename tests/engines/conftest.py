"""Real engines, loaded once per test module and size; every test leaves them empty."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest


def pytest_unconfigure() -> None:
    """llama_cpp opens /dev/null when it is imported and never closes it; warnings are errors here."""
    utils = sys.modules.get("llama_cpp._utils")
    if utils is not None:
        utils.outnull_file.close()
        utils.errnull_file.close()


@pytest.fixture(scope="module")
def smollm2_engine(smollm2_path: Path) -> Iterator[tuple[object, object]]:
    """(engine, text) with a device of 8 blocks."""
    yield from _loaded(smollm2_path, "smollm2")


@pytest.fixture(scope="module")
def gemma3_engine(gemma3_path: Path) -> Iterator[tuple[object, object]]:
    """(engine, text) with a device of 8 blocks."""
    yield from _loaded(gemma3_path, "gemma3")


def _loaded(path: Path, name: str) -> Iterator[tuple[object, object]]:
    from stepwell.engines.llamacpp import LlamaCppConfig, load_llamacpp

    engine, text = load_llamacpp(LlamaCppConfig(path, name, device_kv_tokens=512, max_sequences=4))
    yield engine, text
    engine.close_engine()
