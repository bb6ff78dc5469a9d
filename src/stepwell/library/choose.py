"""The embedder that the settings name."""

from __future__ import annotations

from stepwell.errors import BadInput
from stepwell.library.embed_http import HttpEmbedder
from stepwell.library.embed_local import LocalEmbedder
from stepwell.library.embeddings import Embedder


def choose_embedder(name: str, model: str = "", key: str = "") -> Embedder | None:
    """``minilm``, a URL with the model that is meant there, or empty for none.

    Raises ``BadInput``, also without the packaged model.
    """
    if not name:
        return None
    if name == "minilm":
        return LocalEmbedder()
    if not model:
        raise BadInput(
            f"[library] embeddings {name!r}: say 'minilm', or a URL and embeddings_model, the model there"
        )
    return HttpEmbedder(name, model, key)
