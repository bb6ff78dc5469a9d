"""Finding passages by words: BM25 (Robertson and Zaragoza, 2009) over passages of about 200 words.

Own code, because it is less of it than the adapter to a library would be, and the base install stays small.
Two passages in a row share half of their words, so that what stands across an edge is found too. The same
question gives the same answer: equal scores go by file and place.
"""

from __future__ import annotations

import math
import threading
from collections import Counter, OrderedDict, defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import accumulate

from stepwell.library.passages import split_passages
from stepwell.library.words import asked_words, words

STEP_WORDS = 100
"""Half a passage."""
CUT_VERSION = 2
"""Of how texts are cut into passages: vectors of another version belong to other passages."""
K1, B = 1.2, 0.75
MAX_QUERY_WORDS = 256
Place = tuple[int, int]
"""Which document, which passage of it."""
MAX_CACHED_CHARS = 32_000_000
"""Texts whose words are kept counted; the longest unused goes first."""


@dataclass(frozen=True, slots=True)
class Found:
    """A passage. ``start`` and ``end`` are characters of the document's text."""

    file: int
    """Which of the documents."""
    start: int
    end: int
    score: float


@dataclass(frozen=True, slots=True)
class CountedText:
    """The passages of one text and where each word is in them."""

    spans: tuple[tuple[int, int], ...]
    lengths: tuple[int, ...]
    """Words that carry meaning, per passage."""
    postings: Mapping[str, tuple[tuple[int, int], ...]]
    """Word -> (passage, how often)."""


def count_words(text: str) -> CountedText:
    """Cut ``text`` into overlapping passages and count their words."""
    steps = split_passages(text, STEP_WORDS)
    ends = list(accumulate(map(len, steps)))
    starts = [0, *ends[:-1]]
    counted = [Counter(words(step)) for step in steps]
    count = max(1, len(steps) - 1)
    spans, lengths = [], []
    postings: dict[str, list[tuple[int, int]]] = defaultdict(list)
    for at in range(count if steps else 0):
        last = min(at + 1, len(steps) - 1)
        both = counted[at] + counted[last] if last > at else counted[at]
        spans.append((starts[at], ends[last]))
        lengths.append(both.total())
        for word, often in both.items():
            postings[word].append((at, often))
    return CountedText(
        tuple(spans), tuple(lengths), {word: tuple(places) for word, places in postings.items()}
    )


def search(texts: Sequence[CountedText], query: str, max_results: int) -> list[Found]:
    """The passages nearest to ``query``, best first; none where no word is shared, and of two that overlap
    the better one alone."""
    return best_apart(texts, bm25(texts, query), max_results)


def bm25(texts: Sequence[CountedText], query: str) -> dict[Place, float]:
    """The score of every passage that shares a word with ``query``."""
    total = sum(len(text.spans) for text in texts)
    mean = max(1.0, sum(sum(text.lengths) for text in texts) / max(1, total))
    scores: defaultdict[Place, float] = defaultdict(float)
    for word in list(dict.fromkeys(asked_words(query)))[:MAX_QUERY_WORDS]:
        places = [(n, at, often) for n, text in enumerate(texts) for at, often in text.postings.get(word, ())]
        weight = math.log(1 + (total - len(places) + 0.5) / (len(places) + 0.5))
        for number, at, often in places:
            long = 1 - B + B * texts[number].lengths[at] / mean
            scores[number, at] += weight * often * (K1 + 1) / (often + K1 * long)
    return scores


def ranked(scores: Mapping[Place, float]) -> list[Place]:
    """Best first; equal scores go by file and place."""
    return sorted(scores, key=lambda place: (-scores[place], place))


def best_apart(texts: Sequence[CountedText], scores: Mapping[Place, float], max_results: int) -> list[Found]:
    """The best passages of which no two overlap."""
    chosen: dict[Place, float] = {}
    for number, at in ranked(scores):
        if len(chosen) == max_results:
            break
        if (number, at - 1) not in chosen and (number, at + 1) not in chosen:
            chosen[number, at] = scores[number, at]
    return [Found(number, *texts[number].spans[at], score) for (number, at), score in chosen.items()]


class CountedTexts:
    """Counted texts by digest, so that a second question is quick. Thread-safe; bounded by characters."""

    def __init__(self, max_chars: int = MAX_CACHED_CHARS) -> None:
        self._max_chars = max_chars
        self._lock = threading.Lock()
        self._kept: OrderedDict[str, tuple[CountedText, int]] = OrderedDict()

    def get(self, digest: str, text: Callable[[], str]) -> CountedText:
        """``text`` is called only where its words are not counted yet."""
        with self._lock:
            if digest in self._kept:
                self._kept.move_to_end(digest)
                return self._kept[digest][0]
        read = text()
        counted = count_words(read)
        with self._lock:
            self._kept[digest] = counted, len(read)
            while len(self._kept) > 1 and sum(chars for _, chars in self._kept.values()) > self._max_chars:
                self._kept.popitem(last=False)
        return counted
