"""The passages of kept documents that are nearest to a question."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.basics.units import format_size
from stepwell.errors import BadInput
from stepwell.library.embedding import made_by
from stepwell.library.embeddings import Embedder, EmbeddingsAway
from stepwell.library.hybrid import hybrid_search
from stepwell.library.index import FileRecord
from stepwell.library.search import CountedText, CountedTexts, Found, search
from stepwell.library.store import Library

MAX_TEXT_BYTES = 128 * 2**20
"""Of all documents that one question goes over."""
MAX_SEARCHED_FILES = 10_000
_log = logging.getLogger("stepwell")


@dataclass(frozen=True, slots=True)
class Passage:
    """``start`` and ``end`` are characters of the document's text as it was extracted."""

    record: FileRecord
    start: int
    end: int
    score: float
    text: str


@dataclass(frozen=True, slots=True)
class Retrieved:
    """Passages, best first, and what they were ranked by."""

    passages: list[Passage]
    ranking: str
    """``bm25``: words; ``hybrid``: words and embeddings."""


def find_passages(
    library: Library,
    counted: CountedTexts,
    tenant: str,
    query: str,
    max_results: int,
    file_ids: Sequence[str] | None = None,
    embedder: Embedder | None = None,
) -> Retrieved:
    """Best first, over the named files or all of the tenant's. Raises ``BadInput`` (``NoSuchFile``, too much
    to search) or ``DamagedFile``."""
    if file_ids is None:
        records = library.files(tenant, limit=MAX_SEARCHED_FILES, newest_first=False).files
    else:
        records = [library.get(tenant, file_id) for file_id in dict.fromkeys(file_ids)]
    if sum(record.text_bytes for record in records) > MAX_TEXT_BYTES:
        raise BadInput(f"that is more than {format_size(MAX_TEXT_BYTES)} of text to search: name fewer files")
    texts = [counted.get(r.text_sha256, lambda r=r: library.text(r)) for r in records]  # type: ignore[misc]
    found = None if embedder is None else _by_meaning(library, embedder, records, texts, query, max_results)
    ranking = "bm25" if found is None else "hybrid"
    found = search(texts, query, max_results) if found is None else found
    read = {n: library.text(records[n]) for n in sorted({one.file for one in found})}
    passages = [
        Passage(records[f.file], f.start, f.end, f.score, read[f.file][f.start : f.end]) for f in found
    ]
    return Retrieved(passages, ranking)


def _by_meaning(
    library: Library,
    embedder: Embedder,
    records: Sequence[FileRecord],
    texts: Sequence[CountedText],
    query: str,
    max_results: int,
) -> list[Found] | None:
    """None where no document has vectors, or the question can have none now: then words must do."""
    vectors = [library.vectors.get(record, made_by(embedder)) for record in records]
    if not any(vectors):
        return None
    try:
        (asked,) = embedder.embed([query])
        return hybrid_search(texts, vectors, query, asked, max_results)
    except EmbeddingsAway as error:
        _log.warning("a question is answered by words alone: %s", error)
        return None
