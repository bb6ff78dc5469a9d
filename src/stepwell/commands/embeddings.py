"""The models of vectors and rankings that the settings of a server name."""

from __future__ import annotations

from pathlib import Path

from stepwell.embed.base import MINILM, EmbeddingError, Wishes
from stepwell.embed.process import EmbeddingProcess
from stepwell.errors import BadInput
from stepwell.library.minilm import NAME, packaged_folder
from stepwell.models import resolve_model
from stepwell.server.vectors import ServedEmbeddings
from stepwell.settings import EmbeddingSettings


def served_embeddings(settings: EmbeddingSettings) -> ServedEmbeddings | None:
    """None where none are named. A file is loaded once, so that a wrong one is said at the start and not to a
    client; MiniLM is loaded when somebody asks. Raises ``BadInput``."""
    models = []
    if settings.model == MINILM:
        models += _packaged(settings)
    elif settings.model:
        models.append(_of_file("embeddings.model", settings.model, settings))
    if settings.rerank_model:
        models.append(_of_file("embeddings.rerank_model", settings.rerank_model, settings))
    return ServedEmbeddings(models, settings.max_inputs) if models else None


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
    model = EmbeddingProcess(file.name, wishes)
    try:
        about = model.about()
    except EmbeddingError as error:
        model.close()
        raise BadInput(f"{setting}: {error}") from error
    if about.ranks and setting == "embeddings.model":
        model.close()
        raise BadInput(f"{setting}: {path} ranks documents and makes no embeddings: name it as rerank_model")
    return model
