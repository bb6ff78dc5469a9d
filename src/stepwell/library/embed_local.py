"""MiniLM in a process of its own: one thread, low priority, so that a server's turns do not wait for it.

Within this process NumPy would take every core that the engine decodes with, and 90 MB that are not always
needed. The child ends with its standard input, so it does not outlive its parent.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Sequence
from contextlib import suppress

from stepwell.basics.kept_child import ChildAway, KeptChild
from stepwell.basics.line_child import answer, questions, ready
from stepwell.library.embeddings import EmbeddingsAway
from stepwell.library.minilm import NAME, MiniLm, packaged_folder

AT_ONCE = 4
"""Texts in one message: a question waits for no more than these."""
NICE = 10
MODULE = "stepwell.library.embed_local"
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_ANSWER_S = 120.0
_MOST_BYTES = 1 << 20


class LocalEmbedder:
    """See ``Embedder``. The child starts at the first text."""

    model = NAME

    def __init__(self, module: str = MODULE) -> None:
        """Raises ``BadInput`` when the packaged model is not installed."""
        packaged_folder()
        self.child = KeptChild(module, (), os.environ | _ONE_THREAD)

    def embed(self, texts: Sequence[str]) -> list[array[float]]:
        """See ``Embedder``."""
        vectors: list[array[float]] = []
        for at in range(0, len(texts), AT_ONCE):
            vectors += self._asked(texts[at : at + AT_ONCE])
        return vectors

    def close(self) -> None:
        """End the child; the next text starts another."""
        self.child.close()

    def _asked(self, texts: Sequence[str]) -> list[array[float]]:
        def read(line: bytes) -> list[array[float]]:
            found = [array("f", numbers) for numbers in json.loads(line)]
            if len(found) != len(texts):
                raise ValueError(f"{len(found)} vectors for {len(texts)} texts")
            return found

        try:
            return self.child.ask(json.dumps(list(texts)).encode(), _ANSWER_S, _MOST_BYTES, read)
        except ChildAway as error:
            raise EmbeddingsAway(f"the process that makes embeddings gave no answer: {error}") from error


def main() -> None:
    """The child: a line of JSON with texts in, a line with their vectors out."""
    os.nice(NICE)
    answers, embedder = ready(), MiniLm()
    for line in questions():
        vectors = [vector.tolist() for vector in embedder.embed(json.loads(line))]
        answer(answers, json.dumps(vectors).encode())


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, BrokenPipeError):
        main()
