"""The packaged MiniLM as a server's model of embeddings."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence

from stepwell.embed.base import About, Input, WrongInput
from stepwell.library.minilm import MAX_TOKENS, WIDTH, MiniLm


class MiniLmModel:
    """See ``Model``. It ranks nothing: documents are compared by nearness."""

    def __init__(self) -> None:
        self._model = MiniLm()
        self.spent_us = 0
        self.about = About(WIDTH, MAX_TOKENS, self._model.vocab_size)

    def tokens(self, text: Input) -> list[int]:
        """See ``Model``."""
        return self._model.tokens(text) if isinstance(text, str) else list(text)

    def pair(self, query: str, document: str) -> list[int]:
        """See ``Model``."""
        raise WrongInput("MiniLM ranks no pairs")

    def vectors(self, inputs: Sequence[Sequence[int]]) -> list[array[float]]:
        """See ``Model``."""
        started_ns = time.perf_counter_ns()
        try:
            return self._model.of_tokens(inputs)
        finally:
            self.spent_us += (time.perf_counter_ns() - started_ns) // 1000

    def scores(self, inputs: Sequence[Sequence[int]]) -> list[float]:
        """See ``Model``."""
        raise WrongInput("MiniLM ranks no pairs")
