"""Words that carry meaning, for finding passages by them, in any script.

Chinese, Japanese, Korean and the scripts of South-East Asia do not divide words by spaces, or not into what
one asks for: there a word is every two neighbouring signs, which needs no dictionary and misses nothing
(``tests/library/test_scripts.py`` compares it with signs alone and with whole runs). A question of one sign
is found as well.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterator

PIECE_CHARS = 64 * 1024
_UNDIVIDED = (
    "\u0e00-\u0eff\u1000-\u109f\u1780-\u17ff"  # Thai, Lao, Myanmar, Khmer
    "\u3005-\u3007\u3041-\u3096\u309d-\u309f\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U000323af"  # ideographs
    "\u1100-\u11ff\uac00-\ud7af"  # Hangul
)
_RUN = re.compile(f"[{_UNDIVIDED}]+|[^\\W_{_UNDIVIDED}]{{2,}}")
_SIGN = re.compile(f"[{_UNDIVIDED}]")
_SIGN_OR_MARK = re.compile(f"[{_UNDIVIDED}\u3001-\u303f\uff01-\uff65]")
_PLAIN = re.compile(r"[^\W_]{2,}")
_COMMON = frozenset(
    _PLAIN.findall(
        "the of and to in is are was were be been it its this that these those for on with as by at from "
        "or an what which who whom whose how why when where did does do has have had not can could would "
        "should there their they he she his her you your we our into than then so but if about over "
        "after before between all any each "
    )
)


def words(text: str) -> list[str]:
    """Of a document: lower-case words that carry meaning, plural endings cut so that "steps" finds "step".

    In scripts without spaces every sign and every two neighbours are words.
    """
    found: list[str] = []
    for run in _runs(text):
        if _SIGN.match(run):
            found += run
            found += _pairs(run)
        else:
            found += _word(run)
    return found


def asked_words(query: str) -> list[str]:
    """Of a question: as ``words``, but a sign alone only where it stands alone."""
    found: list[str] = []
    for run in _runs(query):
        if not _SIGN.match(run):
            found += _word(run)
        else:
            found += _pairs(run) or [run]
    return found


def undivided(text: str) -> int:
    """How many signs of ``text`` are of scripts without spaces, full-width marks among them."""
    return 0 if text.isascii() else sum(len(_SIGN_OR_MARK.findall(piece)) for piece in in_pieces(text))


def word_count(text: str) -> int:
    """``len(text.split())``."""
    if len(text) <= PIECE_CHARS:
        return len(text.split())
    count, before = 0, " "
    for piece in in_pieces(text):
        count += len(piece.split())
        count -= not (before.isspace() or piece[0].isspace())  # a word that goes on from the piece before
        before = piece[-1]
    return count


def in_pieces(text: str) -> Iterator[str]:
    """A text of megabytes bit by bit: one call of C over all of it lets no other thread run meanwhile."""
    return (text[at : at + PIECE_CHARS] for at in range(0, len(text), PIECE_CHARS))


def _runs(text: str) -> list[str]:
    """Full-width letters and half-width kana are the same as the usual ones."""
    return _RUN.findall(text if text.isascii() else unicodedata.normalize("NFKC", text))


def _word(run: str) -> list[str]:
    word = run.lower()
    if word in _COMMON:
        return []
    return [word[:-1] if len(word) > 3 and word.endswith("s") else word]


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]
