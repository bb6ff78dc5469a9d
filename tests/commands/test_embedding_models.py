"""Models of embeddings among the others of a server's settings."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

import httpx2
import pytest
from tests.embed.conftest import tiny, tiny_folder

from stepwell.commands.serve.own_checks import _model
from stepwell.errors import BadInput
from stepwell.launch.beside import _named, close_embeddings, served_embeddings
from stepwell.launch.embedded import embedded
from stepwell.launch.several import apart
from stepwell.server.backends.vectors import ServedEmbeddings
from stepwell.settings.engine import EngineSettings, ModelEntry
from stepwell.settings.file import EmbeddingSettings, KvSettings, Settings

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


def test_an_entry_gives_its_memory_back_when_the_others_do_and_comes_again(tiny_folder: Path) -> None:
    with serving(settings_with(tiny_folder, "bert", unload_after_s=0.01)) as served:
        (model,) = served.models
        before, pid = model.embed(["a well"]), model.child.pid
        if pid is not None:
            with suppress(ChildProcessError):  # it has been noticed already
                os.waitid(os.P_PID, pid, os.WEXITED | os.WNOWAIT)
        assert not model.loaded
        starts = model.starts
        assert model.embed(["a well"]) == before
        assert model.starts == starts + 1


@pytest.mark.parametrize("unload_after_s", [None, 5.0])
def test_what_an_entry_does_not_say_is_as_for_the_others(
    tiny_folder: Path, unload_after_s: float | None
) -> None:
    settings = settings_with(tiny_folder, "bert", unload_after_s=unload_after_s)
    (model,) = _named(replace(settings, embeddings=EmbeddingSettings(model="", idle_s=77.0)))
    assert json.loads(model.child.arguments[0])["idle_s"] == (unload_after_s or 77.0)
    model.close()


def test_the_server_inside_a_command_serves_it(tiny_folder: Path) -> None:
    settings = replace(
        settings_with(tiny_folder, "bert"),
        kv=KvSettings(host_kv=1 << 20, disk_kv=0),
    )
    with embedded(settings) as server:
        listed = httpx2.get(f"{server.url}/v1/models").json()["data"]
        assert [one["id"] for one in listed] == ["llama", "bert"]
        body = {"model": "bert", "input": ["a well", "a step"]}
        found = httpx2.post(f"{server.url}/v1/embeddings", json=body, timeout=60).json()["data"]
        assert [len(one["embedding"]) for one in found] == [128, 128]


def test_no_command_offers_what_nobody_asked_for(tiny_folder: Path) -> None:
    settings = replace(settings_with(tiny_folder), embeddings=EmbeddingSettings())
    assert served_embeddings(settings, unasked=False) is None


def test_adapters_and_names_that_repeat_are_refused(tiny_folder: Path) -> None:
    settings = settings_with(tiny_folder, "bert")
    (entry,) = settings.models
    with pytest.raises(BadInput, match="adapters are for models that write"):
        apart(replace(settings, models=(replace(entry, adapters={"x": Path("x.gguf")}),)))
    twice = replace(settings, embeddings=EmbeddingSettings(model=tiny(tiny_folder, "bert")))
    with pytest.raises(BadInput, match="two models of embeddings have the name 'bert'"):
        served_embeddings(twice)
