"""One question over the documents of vector stores."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.library.hybrid import K
from stepwell.library.retrieve import Passage, find_passages
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.errors import bad_request
from stepwell.server.files.vector_stores.filters import filter_of

HALF_SCORE = 4.0
"""The score by words that becomes 0.5: that of a question with two rare words or so."""
BEST_FUSED = 2 / (K + 1)
"""Of a passage that is first by words and by embeddings."""


@dataclass(frozen=True, slots=True)
class Hit:
    """``score`` is between 0 and 1 and in the order of the passages' own scores."""

    passage: Passage
    score: float
    attributes: Mapping[str, Any]

    def result(self) -> dict[str, Any]:
        """In the shape of a ``file_search_call``'s results."""
        record = self.passage.record
        return {
            "file_id": record.id,
            "filename": record.filename,
            "score": self.score,
            "text": self.passage.text,
            "attributes": dict(self.attributes),
        }


async def find_hits(
    served: ServedLibrary,
    tenant: str,
    query: str,
    stores: Sequence[str] | None,
    param: str,
    *,
    filters: Any = None,
    most: int = 10,
    least_score: float | None = None,
) -> list[Hit]:
    """Best first. ``stores``: ids; None: all documents of the tenant. ``param``: what to blame when a store
    is not there. Raises ``ApiError``."""
    wanted = filter_of(filters, "filters")
    if stores is None and filters is not None:
        raise bad_request("Attributes belong to a store: 'filters' need 'vector_store_ids'.", param=param)

    def work() -> list[Hit]:
        said: dict[str, Mapping[str, Any]] = {}
        for store in dict.fromkeys(stores or ()):
            for member in served.library.collections.members(tenant, store):
                if wanted(member.attributes):
                    said.setdefault(member.record.id, member.attributes)
        ids = None if stores is None else list(said)
        found = find_passages(served.library, served.counted, tenant, query, most, ids, served.embedder)
        hits = [
            Hit(one, between(one.score, found.ranking), said.get(one.record.id, {})) for one in found.passages
        ]
        return [hit for hit in hits if hit.score >= (least_score or 0.0)]

    return await served.work(work, param)


def between(score: float, ranking: str) -> float:
    """A score of a passage as one between 0 and 1, in the same order."""
    if ranking == "hybrid":
        return round(min(1.0, score / BEST_FUSED), 6)
    return round(score / (score + HALF_SCORE), 6) if score > 0 else 0.0
