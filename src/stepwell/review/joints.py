"""How two statements of a section become one sentence, in both languages: which joints are true and readable.

A model chooses among them. *While* sets two moves against each other, which is a comparison: it is offered
only where the printed moves have opposite signs. What a person said stays a sentence of its own, so that
its speaker is not taken for that of a fact.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal
from functools import cache
from typing import Literal

from stepwell.review.facts import Facts
from stepwell.review.outline import Handle, Piece, Sentence, lookup, sentences
from stepwell.review.wording import Language, printed, word

Joint = Literal["apart", "semicolon", "and", "while"]
"""How a statement follows the one before it."""
JOINTS: tuple[Joint, ...] = ("apart", "semicolon", "and", "while")
MARKS: dict[Joint, dict[Language, str]] = {
    "semicolon": {"en": "; ", "zh": "；"},
    "and": {"en": ", and ", "zh": "，"},
    "while": {"en": ", while ", "zh": "，而"},
}
STOPS: dict[Language, str] = {"en": ".", "zh": "。"}
SUBJECTS = frozenset({"The", "A", "What", "Cash", "Free", "Payrolls", "Unemployment"})
"""Words with which a template begins with its subject; names are others."""
LONGEST_CHARS = 200
"""Of an English sentence that was joined."""


def joints(facts: Facts, before: Sentence, after: Sentence) -> tuple[Joint, ...]:
    """Those that are true of two statements, ``apart`` first."""
    if _is_claim(before) or _is_claim(after):
        return ("apart",)
    usual: tuple[Joint, ...] = ("apart", "semicolon", "and")
    return (*usual, "while") if _opposite(facts, before, after) else usual


def fitting(facts: Facts, chosen: Joint, before: Sequence[Piece], after: Sequence[Piece]) -> Joint:
    """The joint, or one that reads better between these two forms in English."""
    if chosen == "apart" or any(isinstance(one, str) and ";" in one for one in (*before, *after)):
        return "apart"
    length = sum(
        len(one if isinstance(one, str) else word(lookup(facts, one.cell, "en"), one.form, "en"))
        for one in (*before, *after)
    )
    if length > LONGEST_CHARS:
        return "apart"
    # After "and" and "while" the subject comes first: ", and at 16.2, the VIX" is no English.
    return chosen if _begins_with_subject(after) else "semicolon"


def joined(
    before: Sequence[Piece], after: Sequence[Piece], joint: Joint, language: Language
) -> tuple[Piece, ...]:
    """Both as one sentence."""
    *head, last = before
    if isinstance(last, str):
        last = last.removesuffix(STOPS[language])
    first, *rest = after
    if isinstance(first, Handle):
        first = replace(first, starts=False)
    elif language == "en" and first.split()[0] not in _proper():
        first = first[0].lower() + first[1:]
    return (*head, last, MARKS[joint][language], first, *rest)


def _is_claim(sentence: Sentence) -> bool:
    ways = (way for variants in sentence.variants.values() for way in variants)
    return any(isinstance(one, Handle) and one.form == "speaker" for way in ways for one in way)


def _opposite(facts: Facts, before: Sentence, after: Sentence) -> bool:
    """Whether the first move of each is printed with another sign than the other's."""
    signs = []
    for sentence in (before, after):
        cell = facts.get(sentence.must[0]) if sentence.must else None
        if cell is None or not isinstance(cell.value, Decimal) or sentence.family not in MOVES:
            return False
        signs.append((cell.unit, printed(cell).compare(Decimal(0))))
    (unit, one), (other_unit, other) = signs
    return unit is other_unit and one * other == -1


MOVES = ("index.$X", "curve.$X")
"""Families of statements whose first fact is a move up or down."""


def _begins_with_subject(pieces: Sequence[Piece]) -> bool:
    first = pieces[0]
    return isinstance(first, Handle) or first.split()[0] in SUBJECTS | _proper()


@cache
def _proper() -> frozenset[str]:
    """Words that have a capital letter inside a template, too."""
    texts = [
        ("" if at == 0 else "x ") + piece
        for sentence in sentences()
        for way in sentence.variants["en"]
        for at, piece in enumerate(way)
        if isinstance(piece, str)
    ]
    return frozenset(found for text in texts for found in re.findall(r"(?<=[a-z,;] )([A-Z][\w']*)", text)) | {
        "Oracle's",
        "Fermi's",
    }
