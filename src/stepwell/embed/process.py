"""A model of embeddings as a server sees it: questions to its process, one at a time.

The process holds the weights, so that a foreign file that ends it ends nothing else, and its memory goes back
when there was no question for a while. It is started at the first question and again after each end.
"""

from __future__ import annotations

import json
import os
from array import array
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import Any

from stepwell.basics.kept_child import ChildAway, KeptChild
from stepwell.basics.line_child import LineChild
from stepwell.embed.base import About, EmbeddingError, Input, Wishes, WrongInput, numbers_of

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
MODULE = "stepwell.embed.child"
Spent = Callable[[int], None]
LOAD_S = 900.0
"""For so long a model may load: weights of many gigabytes from a slow disk."""
_ANSWER_S, _EACH_S = 120.0, 60.0
"""For so long a question may take, and so much longer for each input: 2,048 tokens of a large model."""
_MOST_BYTES, _EACH_BYTES = 1 << 20, 1 << 18
"""Of an answer, and so many more for each input: a vector of 16,384 numbers as text is 87 KiB."""


class EmbeddingProcess:
    """One model. Safe over threads; questions are answered one at a time, in the order in which they came."""

    def __init__(self, name: str, wishes: Wishes, module: str = MODULE) -> None:
        """``name``: what clients call the model. Nothing is started yet."""
        self.name = name
        env = os.environ | _ONE_THREAD | {"GGML_NO_BACKTRACE": "1"}
        self.child = KeptChild(module, [json.dumps(asdict(wishes))], env, self._begin)
        self._about: About | None = None
        self._before_us, self._child_us = 0, 0

    @property
    def starts(self) -> int:
        """How often its process was started."""
        return self.child.starts

    @property
    def spent_us(self) -> int:
        """How long the model has computed, in all its processes, by the count of these."""
        return self._before_us + self._child_us

    @property
    def loaded(self) -> bool:
        """Whether its weights are in memory."""
        return self.child.lives

    def about(self) -> About:
        """Starts the process at the first question. Raises ``EmbeddingError``."""
        if self._about is None:
            try:
                self.child.start()
            except ChildAway as error:
                raise self._away(error) from error
        assert self._about is not None
        return self._about

    def count(self, inputs: Sequence[Input], cut: int = 0) -> list[int]:
        """Tokens of each; ``cut``: the first so many count. Raises ``WrongInput``, ``EmbeddingError``."""
        question = {"embed": list(inputs), "cut": cut, "dry": True}
        counts: list[int] = self._asked(question, len(inputs), lambda said: list(said["tokens"]))
        return counts

    def embed(
        self, inputs: Sequence[Input], cut: int = 0, spent: Spent = lambda us: None
    ) -> list[array[float]]:
        """One vector of length 1 each; ``spent`` is told how many microseconds the model computed for them.
        Raises ``WrongInput``, ``EmbeddingError``."""
        question = {"embed": list(inputs), "cut": cut, "dry": False}
        vectors: list[array[float]] = self._asked(
            question, len(inputs), lambda said: [numbers_of(text) for text in said["vectors"]], spent
        )
        return vectors

    def count_pairs(self, query: str, documents: Sequence[str]) -> list[int]:
        """Tokens that are read for each document. Raises ``WrongInput``, ``EmbeddingError``."""
        question = {"rank": [query, list(documents)], "dry": True}
        counts: list[int] = self._asked(question, len(documents), lambda said: list(said["tokens"]))
        return counts

    def rank(self, query: str, documents: Sequence[str], spent: Spent = lambda us: None) -> list[float]:
        """A score each: higher is better; ``spent`` as for ``embed``. Raises ``WrongInput``,
        ``EmbeddingError``."""
        question = {"rank": [query, list(documents)], "dry": False}
        scores: list[float] = self._asked(
            question, len(documents), lambda said: [float(score) for score in said["scores"]], spent
        )
        return scores

    def close(self) -> None:
        """End the process; a question starts another."""
        self.child.close()

    # --- questions ----------------------------------------------------------------------------

    def _begin(self, child: LineChild) -> None:
        """Ask a new process what its model is, which loads it."""
        self._before_us, self._child_us = self.spent_us, 0
        said = json.loads(child.ask(b'{"about": true}', LOAD_S, _MOST_BYTES))
        if "error" in said:
            raise EmbeddingError(f"{self.name} cannot make embeddings: {said['error']}")
        self._about = About(**said)

    def _asked(
        self,
        question: dict[str, Any],
        inputs: int,
        take: Callable[[dict[str, Any]], Any],
        spent: Spent = lambda us: None,
    ) -> Any:
        def read(line: bytes) -> tuple[dict[str, Any], Any]:
            said: dict[str, Any] = json.loads(line)
            self._child_us = int(said["all_us"])
            int(said["us"])
            return said, None if "wrong" in said or "error" in said else _as_many(take(said), inputs)

        limit_s, most_bytes = _ANSWER_S + inputs * _EACH_S, _MOST_BYTES + inputs * _EACH_BYTES
        try:
            said, found = self.child.ask(json.dumps(question).encode(), limit_s, most_bytes, read)
        except ChildAway as error:
            raise self._away(error) from error
        spent(int(said["us"]))
        if "wrong" in said:
            raise WrongInput(said["wrong"], said["index"])
        if "error" in said:
            raise EmbeddingError(said["error"])
        return found

    def _away(self, error: ChildAway) -> EmbeddingError:
        if error.starting:
            return EmbeddingError(f"{self.name} cannot make embeddings: {error}")
        return EmbeddingError(f"the process that makes embeddings gave no answer: {error}; please try again")


def _as_many(found: list[Any], wanted: int) -> list[Any]:
    if len(found) != wanted:
        raise ValueError(f"{len(found)} answers to {wanted} inputs")
    return found
