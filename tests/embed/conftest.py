"""Tiny models with random weights, each in a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.embed.base import Wishes
from stepwell.embed.process import EmbeddingProcess

pytest.importorskip("llama_cpp")


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("tiny-embeddings")


def tiny(folder: Path, kind: str) -> str:
    """The path of such a model."""
    from stepwell.bench.zoo.child import model_file

    return str(model_file(folder, kind))


@pytest.fixture(scope="session")
def bert(tiny_folder: Path) -> Iterator[EmbeddingProcess]:
    """Means over an encoder: 128 dimensions, 512 tokens."""
    process = EmbeddingProcess("tiny-bert", Wishes(tiny(tiny_folder, "bert"), low_priority=False))
    process.about()  # loaded before anybody waits for an answer over HTTP
    yield process
    process.close()


@pytest.fixture(scope="session")
def ranker(tiny_folder: Path) -> Iterator[EmbeddingProcess]:
    process = EmbeddingProcess("tiny-ranker", Wishes(tiny(tiny_folder, "bert:pool4"), low_priority=False))
    process.about()
    yield process
    process.close()
