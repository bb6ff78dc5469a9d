"""A model of embeddings as a server sees it: questions to its process, one at a time.

The process holds the weights, so that a foreign file that ends it ends nothing else, and its memory goes back
when nobody has asked for a while. It is started at the first question and again after each end.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from array import array
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import asdict
from typing import Any

from stepwell.embed.base import About, EmbeddingError, Input, Wishes, WrongInput, numbers_of

_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")
_COMMAND = (sys.executable, "-P", "-m", "stepwell.embed.child")
Spent = Callable[[int], None]
_ENDED = "the process that makes embeddings has ended; please try again"


class EmbeddingProcess:
    """One model. Safe over threads; questions are answered one at a time, in the order in which they came."""

    def __init__(self, name: str, wishes: Wishes, command: Sequence[str] = _COMMAND) -> None:
        """``name``: what clients call the model. Nothing is started yet."""
        self.name = name
        self._command = (*command, json.dumps(asdict(wishes)))
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None
        self._about: About | None = None
        self._before_us, self._child_us = 0, 0
        self.starts = 0
        """How often its process was started."""

    @property
    def spent_us(self) -> int:
        """How long the model has computed, in all its processes, by the count of these."""
        return self._before_us + self._child_us

    @property
    def loaded(self) -> bool:
        """Whether its weights are in memory."""
        child = self._child
        return child is not None and child.poll() is None

    def about(self) -> About:
        """Starts the process if nobody has asked before. Raises ``EmbeddingError``."""
        with self._lock:
            return self._about or self._start()

    def count(self, inputs: Sequence[Input], cut: int = 0) -> list[int]:
        """Tokens of each; ``cut``: the first so many count. Raises ``WrongInput``, ``EmbeddingError``."""
        counts: list[int] = self._asked({"embed": list(inputs), "cut": cut, "dry": True})["tokens"]
        return counts

    def embed(
        self, inputs: Sequence[Input], cut: int = 0, spent: Spent = lambda us: None
    ) -> list[array[float]]:
        """One vector of length 1 each; ``spent`` is told how many microseconds the model computed for them.
        Raises ``WrongInput``, ``EmbeddingError``."""
        said = self._asked({"embed": list(inputs), "cut": cut, "dry": False}, spent)
        return [numbers_of(text) for text in said["vectors"]]

    def count_pairs(self, query: str, documents: Sequence[str]) -> list[int]:
        """Tokens that are read for each document. Raises ``WrongInput``, ``EmbeddingError``."""
        counts: list[int] = self._asked({"rank": [query, list(documents)], "dry": True})["tokens"]
        return counts

    def rank(self, query: str, documents: Sequence[str], spent: Spent = lambda us: None) -> list[float]:
        """A score each: higher is better; ``spent`` as for ``embed``. Raises ``WrongInput``,
        ``EmbeddingError``."""
        said = self._asked({"rank": [query, list(documents)], "dry": False}, spent)
        scores: list[float] = said["scores"]
        return scores

    def close(self) -> None:
        """End the process; a question starts another."""
        with self._lock:
            self._end()

    def _asked(self, question: dict[str, Any], spent: Spent = lambda us: None) -> dict[str, Any]:
        with self._lock:
            said = self._exchanged(question)
            self._child_us = said["all_us"]
        spent(said["us"])
        if "wrong" in said:
            raise WrongInput(said["wrong"], said["index"])
        if "error" in said:
            raise EmbeddingError(said["error"])
        return said

    def _exchanged(self, question: dict[str, Any]) -> dict[str, Any]:
        """A process that ended by itself, or just before it read the question, is started once more."""
        for _ in range(2):
            if self._child is None or self._child.poll() is not None:
                self._start()
            with suppress(OSError, ValueError):
                return self._line(question)
            self._end()
        raise EmbeddingError(_ENDED)

    def _line(self, question: dict[str, Any]) -> dict[str, Any]:
        child = self._child
        assert child is not None and child.stdin is not None and child.stdout is not None
        child.stdin.write(json.dumps(question).encode() + b"\n")
        child.stdin.flush()
        said: dict[str, Any] = json.loads(child.stdout.readline())
        return said

    def _start(self) -> About:
        self._end()
        self._before_us, self._child_us = self.spent_us, 0
        self.starts += 1
        self._child = child = subprocess.Popen(
            self._command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | _ONE_THREAD | {"GGML_NO_BACKTRACE": "1"},
        )
        assert child.stdout is not None
        try:
            said = json.loads(child.stdout.readline())
        except ValueError:
            said = {"error": "it ends the process that loads it"}
        if "error" in said:
            self._end()
            raise EmbeddingError(f"{self.name} cannot make embeddings: {said['error']}")
        self._about = About(**said)
        return self._about

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is None:
            return
        child.kill()
        child.wait()
        for pipe in (child.stdin, child.stdout):
            with suppress(OSError):
                if pipe is not None:
                    pipe.close()
