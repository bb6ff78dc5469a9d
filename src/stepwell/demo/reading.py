"""What of a long document the crew reads: in every part, the passages nearest to the question.

The demo must end within minutes on two cores, whatever document it is given, so each reader gets a
fixed number of tokens of its part. Cutting the document off would leave out its end; choosing by
the question's words leaves out what matters least. What was left out is said on screen.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from stepwell.library.documents import Document
from stepwell.library.passages import split_parts, split_passages
from stepwell.library.sentences import nearest_sentences, nearness, weights_of
from stepwell.library.words import words

CountTokens = Callable[[str], int]

_SHORTEST_EXCERPT_TOKENS = 8
_BEST_QUOTES = 2


@dataclass(frozen=True, slots=True)
class Assignment:
    """What the readers of one crew read: per reader a few pages of text."""

    pages: tuple[tuple[str, ...], ...]
    quotes: tuple[str, ...]
    """Per reader, the sentence of its pages nearest to the question; empty when it read nothing."""
    best_quotes: tuple[str, ...]
    """The nearest of them, nearest first: what the crew passes on."""
    used_tokens: int
    total_tokens: int
    """Tokens of the whole document."""

    @property
    def used_share(self) -> float:
        return min(1.0, self.used_tokens / max(1, self.total_tokens))


def assign(
    document: Document, question: str, readers: int, pages: int, page_tokens: int, count: CountTokens
) -> Assignment:
    """Cut the document into parts, one per reader, and choose ``pages`` pages from each."""
    passages = split_passages(document.text)
    parts = split_parts(passages, readers)
    weights = weights_of(passages)
    chosen = [_choose(part, question, weights, pages, page_tokens, count) for part in parts]
    used = sum(count(page) for part in chosen for page in part)
    quotes = tuple(quote(part, question, weights) for part in chosen)
    best = sorted(filter(None, quotes), key=lambda found: -nearness(found, question, weights))
    total = sum(count(passage) for passage in passages)
    return Assignment(tuple(chosen), quotes, tuple(best[:_BEST_QUOTES]), used, total)


def score(passage: str, question: str, weights: Mapping[str, float]) -> float:
    """How near a passage is to a question: the weight of the words they share."""
    shared = set(words(question)) & set(words(passage))
    return sum(weights.get(word, 0.0) for word in sorted(shared))


def quote(pages: Sequence[str], question: str, weights: Mapping[str, float]) -> str:
    """The sentence that says most about the question for its length; empty where there is none."""
    return next(iter(nearest_sentences("\n\n".join(pages), question, weights, 1)), "")


def _choose(
    part: list[str],
    question: str,
    weights: Mapping[str, float],
    pages: int,
    page_tokens: int,
    count: CountTokens,
) -> tuple[str, ...]:
    """``pages`` pages of at most ``page_tokens`` tokens; the nearest passages come on the first."""
    ranked = sorted(range(len(part)), key=lambda at: (-score(part[at], question, weights), at))
    made: list[str] = []
    for _ in range(pages):
        page, ranked = _fill(part, ranked, page_tokens, count)
        made.append(page)
    return tuple(made)


def _fill(part: list[str], ranked: list[int], room: int, count: CountTokens) -> tuple[str, list[int]]:
    """Take passages by rank while they fit; the page keeps the document's order."""
    taken: dict[int, str] = {}
    left = list(ranked)
    for at in ranked:
        tokens = count(part[at])
        if tokens > room and not taken:
            taken[at] = shorten(part[at], room, count)
            left.remove(at)
            break
        if tokens <= room:
            taken[at] = part[at]
            left.remove(at)
            room -= tokens
        if room < _SHORTEST_EXCERPT_TOKENS:
            break
    return "\n".join(" ".join(taken[at].split()) for at in sorted(taken)), left


def shorten(text: str, max_tokens: int, count: CountTokens) -> str:
    """The longest beginning of ``text``, cut between words, that is at most ``max_tokens`` long."""
    if count(text) <= max_tokens:
        return text
    pieces = re.findall(r"\s*\S+", text)
    if len(pieces) == 1:  # one endless word: cut it anywhere
        pieces = list(text)
    low, high = 0, len(pieces)
    while low < high:
        middle = (low + high + 1) // 2
        if count("".join(pieces[:middle])) <= max_tokens:
            low = middle
        else:
            high = middle - 1
    return "".join(pieces[:low])
