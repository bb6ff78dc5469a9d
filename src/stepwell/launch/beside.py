"""The models of vectors and rankings that the settings of a server name, beside those that write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from stepwell.embed.base import MINILM, EmbeddingError, Wishes
from stepwell.embed.process import EmbeddingProcess
from stepwell.engines.models import resolve_model
from stepwell.errors import BadInput, StepwellError
from stepwell.launch.several import apart
from stepwell.library.minilm import NAME, packaged_folder
from stepwell.server.backends.vectors import ServedEmbeddings
from stepwell.settings.engine import ModelEntry
from stepwell.settings.file import EmbeddingSettings, Settings


def served_embeddings(all_settings: Settings, *, unasked: bool = True) -> ServedEmbeddings | None:
    """Those of ``[embeddings]``, and of ``[[models]]`` what makes no text; None where none are named. A file
    is loaded once, so that a wrong one is said at the start and not to a client; MiniLM is loaded when
    it is asked for. ``unasked``: also where the settings say nothing about embeddings. Raises ``BadInput``.
    """
    models: list[EmbeddingProcess] = []
    if not unasked and all_settings.embeddings == EmbeddingSettings():
        all_settings = replace(all_settings, embeddings=EmbeddingSettings(model=""))
    try:
        for model in _named(all_settings):
            models.append(model)
            if [one.name for one in models].count(model.name) > 1:
                raise BadInput(
                    f"models: two models of embeddings have the name {model.name!r}: give one another"
                )
    except StepwellError:
        for model in models:
            model.close()
        raise
    return ServedEmbeddings(models, all_settings.embeddings.max_inputs) if models else None


def _named(all_settings: Settings) -> Iterator[EmbeddingProcess]:
    settings = all_settings.embeddings
    if settings.model == MINILM:
        yield from _packaged(settings)
    elif settings.model:
        yield _of_file("embeddings.model", settings.model, settings)
    if settings.rerank_model:
        yield _of_file("embeddings.rerank_model", settings.rerank_model, settings)
    for entry in apart(all_settings)[1]:
        yield _of_entry(entry, all_settings)


def _of_entry(entry: ModelEntry, settings: Settings) -> EmbeddingProcess:
    """What an entry does not say is as in ``[embeddings]``; it gives its memory back as the others do."""
    own, engine = settings.embeddings, settings.engine
    file = resolve_model(entry.model)
    wishes = Wishes(
        str(Path(file.path).absolute()),
        entry.threads or own.threads,
        entry.context_tokens or own.max_tokens,
        engine.unload_after_s or own.idle_s,
    )
    return _loaded_once(EmbeddingProcess(entry.name, wishes), f"models: {entry.name}")


def close_embeddings(served: ServedEmbeddings | None) -> None:
    for model in served.models if served is not None else ():
        model.close()


def _packaged(settings: EmbeddingSettings) -> list[EmbeddingProcess]:
    """The default asks for it, so a machine without the package has no embeddings and starts all the same."""
    try:
        packaged_folder()
    except BadInput:
        if settings == EmbeddingSettings():
            return []
        raise
    return [EmbeddingProcess(NAME, Wishes(MINILM, settings.threads, settings.max_tokens, settings.idle_s))]


def _of_file(setting: str, path: str, settings: EmbeddingSettings) -> EmbeddingProcess:
    file = resolve_model(path)
    wishes = Wishes(str(Path(file.path).absolute()), settings.threads, settings.max_tokens, settings.idle_s)
    model = _loaded_once(EmbeddingProcess(file.name, wishes), setting)
    if model.about().ranks and setting == "embeddings.model":
        model.close()
        raise BadInput(f"{setting}: {path} ranks documents and makes no embeddings: name it as rerank_model")
    return model


def _loaded_once(model: EmbeddingProcess, setting: str) -> EmbeddingProcess:
    try:
        model.about()
    except EmbeddingError as error:
        model.close()
        raise BadInput(f"{setting}: {error}") from error
    return model
