"""MiniLM in a process of its own: one thread, low priority, so that a server's turns do not wait for it.

Within this process NumPy would take every core that the engine decodes with, and 90 MB that are not always
needed. The child ends with its standard input, so it does not outlive its parent.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
from array import array
from collections.abc import Sequence
from contextlib import suppress

from stepwell.library.embeddings import EmbeddingsAway
from stepwell.library.minilm import NAME, MiniLm, packaged_folder

AT_ONCE = 4
"""Texts in one message: a question waits for no more than these."""
NICE = 10
COMMAND = (sys.executable, "-P", "-m", "stepwell.library.embed_local")
_ONE_THREAD = dict.fromkeys(("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS"), "1")


class LocalEmbedder:
    """See ``Embedder``. The child starts at the first text."""

    model = NAME

    def __init__(self, command: Sequence[str] = COMMAND) -> None:
        """Raises ``BadInput`` when the packaged model is not installed."""
        packaged_folder()
        self._command = command
        self._lock = threading.Lock()
        self._child: subprocess.Popen[bytes] | None = None

    def embed(self, texts: Sequence[str]) -> list[array[float]]:
        """See ``Embedder``."""
        vectors: list[array[float]] = []
        for at in range(0, len(texts), AT_ONCE):
            with self._lock:
                vectors += self._asked(texts[at : at + AT_ONCE])
        return vectors

    def close(self) -> None:
        """End the child; the next text starts another."""
        with self._lock:
            self._end()

    def _asked(self, texts: Sequence[str]) -> list[array[float]]:
        child = self._running()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(json.dumps(list(texts)).encode() + b"\n")
            child.stdin.flush()
            found = [array("f", numbers) for numbers in json.loads(child.stdout.readline())]
        except (OSError, ValueError, TypeError) as error:
            self._end()
            raise EmbeddingsAway("the process that makes embeddings has ended") from error
        return found

    def _running(self) -> subprocess.Popen[bytes]:
        if self._child is None or self._child.poll() is not None:
            self._end()
            self._child = subprocess.Popen(
                self._command,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                env=os.environ | _ONE_THREAD,
            )
        return self._child

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


def main() -> None:
    """The child: a line of JSON with texts in, a line with their vectors out."""
    os.nice(NICE)
    embedder = MiniLm()
    for line in sys.stdin.buffer:
        vectors = [vector.tolist() for vector in embedder.embed(json.loads(line))]
        sys.stdout.write(json.dumps(vectors) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    with suppress(KeyboardInterrupt, BrokenPipeError):
        main()
