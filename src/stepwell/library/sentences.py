"""The sentences of a text that are nearest to a question, word for word, for an answer that points at one."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Mapping, Sequence

from stepwell.library.documents import heading_of
from stepwell.library.words import words

LONGEST_CHARS = 320
"""Of a sentence that is shown; a longer one is cut between words."""
SHORTEST_WORDS = 3
"""Words that carry meaning; a sentence with fewer says nothing without its neighbours."""
LENGTH_PRIOR_WORDS = 8
_PARAGRAPH = re.compile(r"\n[ \t]*\n")
_END = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+(?=\S)")


def weights_of(passages: Sequence[str]) -> dict[str, float]:
    """Per word its inverse document frequency (Robertson's, as in BM25): rare words tell passages apart."""
    seen = Counter(word for passage in passages for word in set(words(passage)))
    return {word: math.log(1 + (len(passages) - n + 0.5) / (n + 0.5)) for word, n in seen.items()}


def nearness(sentence: str, question: str, weights: Mapping[str, float]) -> float:
    """The weight of the words that a sentence shares with the question, tempered by its length."""
    own = words(sentence)
    shared = sorted(set(words(question)) & set(own))
    return sum(weights.get(word, 0.0) for word in shared) / math.sqrt(LENGTH_PRIOR_WORDS + len(own))


def sentences_of(text: str) -> list[str]:
    """The sentences of a text, each on one line; headings and fragments are left out."""
    found: list[str] = []
    for paragraph in _PARAGRAPH.split(text):
        lines = [line for line in paragraph.strip().splitlines() if not heading_of(line.strip())]
        found += _END.split(" ".join(" ".join(lines).split()))
    return [_cut(one) for one in found if len(words(one)) >= SHORTEST_WORDS]


def nearest_sentences(text: str, question: str, weights: Mapping[str, float], most: int) -> list[str]:
    """At most ``most`` sentences of ``text``, the nearest to the question first."""
    different = dict.fromkeys(sentences_of(text))
    return sorted(different, key=lambda one: -nearness(one, question, weights))[:most]


def _cut(sentence: str) -> str:
    if len(sentence) <= LONGEST_CHARS:
        return sentence
    return sentence[:LONGEST_CHARS].rpartition(" ")[0] or sentence[:LONGEST_CHARS]
