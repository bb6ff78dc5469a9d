"""A text cut into passages: between paragraphs where that works, never losing a character."""

from __future__ import annotations

import re

from stepwell.library.documents import heading_of

_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE_END = re.compile(r"(?<=[.!?])[\"')\]*_]*\s+")
_SPACE = re.compile(r"\s+")


def split_passages(text: str, max_words: int = 60) -> list[str]:
    """Cut into passages of at most about ``max_words`` words; joined they are ``text`` again.

    Paragraphs first; long ones at the ends of sentences, then between words, then anywhere. A
    heading stays with what follows it.
    """
    passages: list[str] = []
    for paragraph in _with_headings(_cut_after(text, _BLANK_LINES)):
        passages += _shorten(paragraph, max_words)
    return passages


def _with_headings(paragraphs: list[str]) -> list[str]:
    joined: list[str] = []
    heading = ""
    for paragraph in paragraphs:
        if heading_of(paragraph.strip()):
            heading += paragraph
            continue
        joined.append(heading + paragraph)
        heading = ""
    return [*joined, heading] if heading else joined


def _shorten(text: str, max_words: int) -> list[str]:
    """One paragraph as pieces that are short enough. A word counts as at most 12 characters."""
    if _weight(text) <= max_words:
        return [text]
    for pattern in (_SENTENCE_END, _SPACE):
        pieces = _cut_after(text, pattern)
        if len(pieces) > 1:
            return _pack([part for piece in pieces for part in _shorten(piece, max_words)], max_words)
    step = max_words * 12
    return [text[at : at + step] for at in range(0, len(text), step)]


def _weight(text: str) -> int:
    """Words, or what a text without spaces would have of them."""
    return max(len(text.split()), len(text) // 12)


def _pack(pieces: list[str], max_words: int) -> list[str]:
    """Join neighbours while they stay short enough."""
    packed: list[str] = []
    weight = 0
    for piece in pieces:
        more = _weight(piece)
        if packed and weight + more <= max_words:
            packed[-1] += piece
            weight += more
        else:
            packed.append(piece)
            weight = more
    return packed


def _cut_after(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Pieces that end where ``pattern`` ends; nothing is lost and no piece is empty."""
    ends = [match.end() for match in pattern.finditer(text) if match.end() < len(text)]
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True) if a < b]


def split_parts(passages: list[str], count: int) -> list[list[str]]:
    """``count`` runs of neighbouring passages, about equally long; together they are all of them.

    With fewer passages than parts some parts are empty.
    """
    total = sum(len(passage) for passage in passages)
    parts: list[list[str]] = [[] for _ in range(count)]
    seen = 0
    for passage in passages:
        middle = seen + len(passage) / 2
        parts[min(count - 1, int(middle * count / total))].append(passage)
        seen += len(passage)
    return parts
