"""A GGUF file as a server's model of embeddings, or of ranking."""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path

from stepwell.embed.base import About, Input
from stepwell.engines.llamacpp.embedding import GgufEmbedding
from stepwell.library.embeddings import unit


class GgufModel:
    """See ``Model``."""

    def __init__(self, path: Path, threads: int, max_tokens: int) -> None:
        self._model = model = GgufEmbedding(path, threads, max_tokens)
        self.about = About(model.dimensions, model.max_tokens, model.vocab_size, model.ranks)

    @property
    def spent_us(self) -> int:
        """See ``Model``."""
        return self._model.spent_us

    def tokens(self, text: Input) -> list[int]:
        """See ``Model``."""
        return self._model.tokenize(text) if isinstance(text, str) else list(text)

    def pair(self, query: str, document: str) -> list[int]:
        """See ``Model``."""
        return self._model.pair(query, document)

    def vectors(self, inputs: Sequence[Sequence[int]]) -> list[array[float]]:
        """See ``Model``."""
        return [unit(vector) for vector in self._model.vectors(inputs)]

    def scores(self, inputs: Sequence[Sequence[int]]) -> list[float]:
        """See ``Model``."""
        return self._model.scores(inputs)
