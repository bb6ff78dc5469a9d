"""The passages of kept documents that are nearest to a question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.errors import BadInput
from stepwell.library.index import FileRecord
from stepwell.library.search import CountedTexts, search
from stepwell.library.store import Library
from stepwell.units import format_size

MAX_TEXT_BYTES = 128 * 2**20
"""Of all documents that one question goes over."""
MAX_SEARCHED_FILES = 10_000


@dataclass(frozen=True, slots=True)
class Passage:
    """``start`` and ``end`` are characters of the document's text as it was extracted."""

    record: FileRecord
    start: int
    end: int
    score: float
    text: str


def find_passages(
    library: Library,
    counted: CountedTexts,
    tenant: str,
    query: str,
    max_results: int,
    file_ids: Sequence[str] | None = None,
) -> list[Passage]:
    """Best first, over the named files or all of the tenant's. Raises ``BadInput`` (``NoSuchFile``, too much
    to search) or ``DamagedFile``."""
    if file_ids is None:
        records = library.files(tenant, limit=MAX_SEARCHED_FILES, newest_first=False).files
    else:
        records = [library.get(tenant, file_id) for file_id in dict.fromkeys(file_ids)]
    if sum(record.text_bytes for record in records) > MAX_TEXT_BYTES:
        raise BadInput(f"that is more than {format_size(MAX_TEXT_BYTES)} of text to search: name fewer files")
    texts = [counted.get(r.text_sha256, lambda r=r: library.text(r)) for r in records]  # type: ignore[misc]
    found = search(texts, query, max_results)
    read = {n: library.text(records[n]) for n in sorted({one.file for one in found})}
    return [Passage(records[f.file], f.start, f.end, f.score, read[f.file][f.start : f.end]) for f in found]
