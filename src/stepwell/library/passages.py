"""A text cut into passages: between paragraphs where that works, never losing a character."""

from __future__ import annotations

import re
from collections.abc import Iterator

from stepwell.library.documents import heading_of
from stepwell.library.words import undivided, word_count

_BLANK_LINES = re.compile(r"\n[ \t]*\n\s*")
_SENTENCE_END = re.compile(
    r"(?<=[.!?\u061f\u06d4\u0964\u0965\u0589\u1362\u104b\u17d4])[\"')\]*_\u201d\u2019\u00bb]*\s+"
    r"|(?<=[\u3002\uff01\uff1f\uff0e\uff61])[\"')\]*_\u201d\u2019\u300d\u300f\u3011\uff09]*\s*"
)
"""Of Latin, Greek and Cyrillic, Arabic, Urdu, Devanagari, Armenian, Ethiopic, Burmese and Khmer; and of
Chinese and Japanese, where no space follows."""
_CLAUSE = re.compile(r"[\uff0c\u3001\uff1b\uff1a]\s*")
_SPACE = re.compile(r"\s+")
_CUTS = (_SENTENCE_END, _CLAUSE, _SPACE)
WINDOW_CHARS, SLACK_CHARS = 64 * 1024, 4 * 1024
WORD_CHARS = 12
"""A word counts as at most so many characters."""
SIGN_WORDS = 0.75
"""What a sign of a script without spaces counts as: it is about one token, and an English word is 1.33."""


def split_passages(text: str, max_words: int = 60) -> list[str]:
    """Cut into passages of at most about ``max_words`` words; joined they are ``text`` again.

    Paragraphs first; long ones at the ends of sentences of any script, then of clauses
    where no spaces are, then between words, then anywhere. A heading stays with what follows it.
    """
    passages: list[str] = []
    for paragraph in _with_headings(_cut_after(text, _BLANK_LINES)):
        passages += _shorten(paragraph, max_words, 0)
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


def _shorten(text: str, max_words: int, first_cut: int) -> list[str]:
    """One paragraph as pieces that are short enough."""
    if weight(text) <= max_words:
        return [text]
    for at in range(first_cut, len(_CUTS)):
        pieces = _cut_after(text, _CUTS[at])
        if len(pieces) > 1:
            short = [part for piece in pieces for part in _shorten(piece, max_words, at)]
            return _pack(short, max_words)
    return _anywhere(text, max_words)


def _anywhere(text: str, max_words: int) -> list[str]:
    """Equal steps, of which even one of signs alone is short enough where the text has some."""
    signs = undivided(text)
    step = max(1, int(max_words / SIGN_WORDS)) if signs * 4 > len(text) else max_words * WORD_CHARS
    pieces = [text[at : at + step] for at in range(0, len(text), step)]
    if step == 1 or all(weight(piece) <= max_words for piece in pieces):
        return pieces
    half = len(text) // 2
    return _anywhere(text[:half], max_words) + _anywhere(text[half:], max_words)


def weight(text: str) -> float:
    """Words, or what a text without spaces would have of them."""
    signs = undivided(text)
    return max(word_count(text), (len(text) - signs) // WORD_CHARS + signs * SIGN_WORDS)


def _pack(pieces: list[str], max_words: int) -> list[str]:
    """Join neighbours while they stay short enough."""
    packed: list[str] = []
    so_far = 0.0
    for piece in pieces:
        more = weight(piece)
        if packed and so_far + more <= max_words:
            packed[-1] += piece
            so_far += more
        else:
            packed.append(piece)
            so_far = more
    return packed


def _cut_after(text: str, pattern: re.Pattern[str]) -> list[str]:
    """Pieces that end where ``pattern`` ends; nothing is lost and no piece is empty."""
    ends = [end for end in _ends(text, pattern) if end < len(text)]
    return [text[a:b] for a, b in zip([0, *ends], [*ends, len(text)], strict=True) if a < b]


def _ends(text: str, pattern: re.Pattern[str]) -> Iterator[int]:
    """Where matches end. Window by window: in megabytes without a match one call would let no other thread
    run meanwhile. A match that begins more than ``SLACK_CHARS`` before its last needed sign may be missed."""
    at = 0
    while at < len(text):
        until, limit = at + WINDOW_CHARS, at + WINDOW_CHARS + SLACK_CHARS
        at = until
        for match in pattern.finditer(text, until - WINDOW_CHARS, limit):
            if match.start() >= until:
                break
            whole = match if match.end() < limit else pattern.match(text, match.start())
            assert whole is not None
            yield whole.end()
            at = max(until, whole.end())
