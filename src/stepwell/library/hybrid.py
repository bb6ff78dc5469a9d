"""Words and meaning together: reciprocal rank fusion of BM25 and the nearness of embeddings.

A passage's score is the sum of 1 / (60 + its rank) over both rankings (Cormack, Clarke and Buettcher, SIGIR
2009), so that scores of two kinds need no common scale.
"""

from __future__ import annotations

from array import array
from collections import defaultdict
from collections.abc import Mapping, Sequence

from stepwell.library.embeddings import Vectors
from stepwell.library.search import CountedText, Found, Place, best_apart, bm25, ranked

K = 60
DEPTH = 200
"""Of each ranking: what stands further down adds next to nothing."""


def hybrid_search(
    texts: Sequence[CountedText],
    vectors: Sequence[Vectors | None],
    query: str,
    embedded: array[float],
    max_results: int,
) -> list[Found]:
    """As ``search``. Passages without vectors are found by their words alone.

    Raises ``EmbeddingsAway`` when the question's vector is of another length than the passages'.
    """
    near = {
        (number, at): nearness
        for number, kept in enumerate(vectors)
        if kept is not None
        for at, nearness in enumerate(kept.nearness(embedded))
        if nearness > 0 and at < len(texts[number].spans)
    }
    return best_apart(texts, fused(bm25(texts, query), near), max_results)


def fused(*rankings: Mapping[Place, float]) -> dict[Place, float]:
    """Reciprocal ranks, added up."""
    scores: defaultdict[Place, float] = defaultdict(float)
    for scored in rankings:
        for rank, place in enumerate(ranked(scored)[:DEPTH], 1):
            scores[place] += 1 / (K + rank)
    return dict(scores)
