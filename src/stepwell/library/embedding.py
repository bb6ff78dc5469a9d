"""Making the vectors of documents: at once by the command line, in the background by a server."""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable

from stepwell.errors import StepwellError
from stepwell.library.embeddings import Embedder, EmbeddingsAway, packed
from stepwell.library.errors import DamagedFile, NoSuchFile, QuotaFull
from stepwell.library.index import FileRecord
from stepwell.library.search import CUT_VERSION, STEP_WORDS, count_words
from stepwell.library.store import Library

MAX_PASSAGES = 2_000
"""Of one document, about 200,000 words: what follows is found by its words alone."""
LOOK_S = 30.0
"""Documents may come from another process."""
AWAY_S = 60.0
_log = logging.getLogger("stepwell")


def made_by(embedder: Embedder) -> str:
    """What vectors must be made by to be comparable with this embedder's: its model and our passages."""
    return f"{embedder.model}/{STEP_WORDS}.{CUT_VERSION}"


def embed_document(library: Library, embedder: Embedder, record: FileRecord, quota_bytes: int) -> None:
    """Make and keep a document's vectors. Raises ``StepwellError``."""
    text = library.text(record)
    spans = count_words(text).spans[:MAX_PASSAGES]
    vectors = embedder.embed([text[start:end] for start, end in spans])
    library.vectors.put(record, made_by(embedder), packed(vectors), quota_bytes)


class EmbeddingThread:
    """A thread that gives every document vectors: those that come, and at the start those that have none."""

    def __init__(self, library: Library, embedder: Embedder, quota_bytes: Callable[[str], int]) -> None:
        """``quota_bytes`` says what a tenant may keep."""
        self._library, self._embedder, self._quota_bytes = library, embedder, quota_bytes
        self._refused: set[str] = set()
        """Ids of documents that cannot have vectors; asked again after the next start."""
        self._wake, self._stop = threading.Event(), threading.Event()
        self._thread = threading.Thread(target=self._run, name="embedding", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def wake(self) -> None:
        """There is a new document."""
        self._wake.set()

    def stop(self, timeout_s: float) -> None:
        """What is under way is not finished: it is made again after the next start."""
        self._stop.set()
        self._wake.set()
        self._thread.join(timeout_s)

    def _run(self) -> None:
        while not self._stop.is_set():
            pause_s = self.work()
            self._wake.wait(pause_s)
            self._wake.clear()

    def work(self) -> float:
        """Give vectors to all that lack them; how long to wait until the next look."""
        try:
            for record in self._library.vectors.missing(made_by(self._embedder)):
                if self._stop.is_set():
                    break
                if record.id not in self._refused:
                    self._one(record)
        except EmbeddingsAway as error:
            _log.warning("documents are searched by words alone until there are embeddings: %s", error)
            return AWAY_S
        except StepwellError as error:
            _log.warning("the library cannot be embedded now: %s", error)
        return LOOK_S

    def _one(self, record: FileRecord) -> None:
        try:
            embed_document(self._library, self._embedder, record, self._quota_bytes(record.tenant))
        except NoSuchFile:
            return  # it was deleted meanwhile
        except (QuotaFull, DamagedFile) as error:
            self._refused.add(record.id)
            _log.info("%s is searched by words alone: %s", record.id, error)
