"""Models of embeddings among the others of a server's settings."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from tests.embed.conftest import tiny, tiny_folder

from stepwell.commands.embeddings import close_embeddings, served_embeddings
from stepwell.commands.serve_check import _model
from stepwell.engine_settings import EngineSettings, ModelEntry
from stepwell.errors import BadInput
from stepwell.server.vectors import ServedEmbeddings
from stepwell.settings import EmbeddingSettings, Settings
from stepwell.several import apart

__all__ = ["tiny_folder"]  # a fixture


def settings_with(folder: Path, *kinds: str, **engine: object) -> Settings:
    """A chat model, and a further model for each kind, named after it."""
    entries = tuple(ModelEntry(kind.replace(":", "-"), tiny(folder, kind), threads=1) for kind in kinds)
    first = EngineSettings(model=tiny(folder, "llama"), **engine)  # type: ignore[arg-type]
    return Settings(engine=first, models=entries, embeddings=EmbeddingSettings(model=""))


@contextmanager
def serving(settings: Settings) -> Iterator[ServedEmbeddings]:
    served = served_embeddings(settings)
    assert served is not None
    try:
        yield served
    finally:
        close_embeddings(served)


def test_each_file_says_what_its_model_makes(tiny_folder: Path) -> None:
    settings = settings_with(tiny_folder, "bert", "qwen3", "bert:pool4")
    writing, beside = apart(settings)
    assert [entry.name for entry in writing.models] == ["qwen3"]
    assert [entry.name for entry in beside] == ["bert", "bert-pool4"]
    assert "bert for embeddings or rankings" in _model(settings)
    with serving(settings) as served:
        assert [model.name for model in served.models] == ["bert", "bert-pool4"]
        assert [model.about().ranks for model in served.models] == [False, True]
        assert len(served.models[0].embed(["a well"])[0]) == 128


def test_a_server_of_models_that_write_is_as_before(tiny_folder: Path) -> None:
    settings = settings_with(tiny_folder, "qwen3")
    assert apart(settings) == (settings, ())
    assert served_embeddings(settings) is None


def test_an_input_is_bounded_by_the_entry(tiny_folder: Path) -> None:
    settings = settings_with(tiny_folder, "bert")
    (entry,) = settings.models
    with serving(replace(settings, models=(replace(entry, context_tokens=32),))) as served:
        assert served.models[0].about().max_tokens == 32


def test_adapters_and_names_that_repeat_are_refused(tiny_folder: Path) -> None:
    settings = settings_with(tiny_folder, "bert")
    (entry,) = settings.models
    with pytest.raises(BadInput, match="adapters are for models that write"):
        apart(replace(settings, models=(replace(entry, adapters={"x": Path("x.gguf")}),)))
    twice = replace(settings, embeddings=EmbeddingSettings(model=tiny(tiny_folder, "bert")))
    with pytest.raises(BadInput, match="two models of embeddings have the name 'bert'"):
        served_embeddings(twice)
