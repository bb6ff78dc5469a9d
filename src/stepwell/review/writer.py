"""What chooses and connects: templates alone, or a model that orders and words what may be said.

A writer never writes a number. It returns choices among sentences, or sentences with handles for cells, and
what does not pass falls back to the template.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stepwell.review.facts import Facts
from stepwell.review.joints import Joint, joined
from stepwell.review.outline import SECTIONS, Piece, Sentence, rotated, sayable
from stepwell.review.wording import Language


@dataclass(frozen=True, slots=True)
class Said:
    """One sentence of the draft: a variant of a template, or pieces that a model wrote in one language."""

    sentence: Sentence
    variant: int = 0
    written: Mapping[Language, tuple[Piece, ...]] = field(default_factory=dict)
    joint: Joint = "apart"
    """How it follows the statement before it."""

    def pieces(self, language: Language) -> tuple[Piece, ...]:
        ways = self.sentence.variants[language]
        return self.written.get(language) or ways[self.variant % len(ways)]


@dataclass(slots=True)
class Draft:
    """The sentences of every section, in order; both languages say the same cells."""

    sections: dict[str, list[Said]] = field(default_factory=dict)
    fallbacks: int = 0
    """Sentences or orders of a model that did not pass."""
    chosen: int = 0
    """Sentences whose form a model chose."""
    written: int = 0
    """Sentences that a model worded."""
    sent_back: int = 0
    """Sentences that the critic sent back: they have another form, or the template in place of words."""
    joints: int = 0
    """Statements that a model joined to the one before them."""

    def pieces(self, section: str, language: Language) -> list[tuple[Piece, ...]]:
        """A section's sentences as they are printed: of two statements that are joined there is one."""
        told: list[tuple[Piece, ...]] = []
        for one in self.sections.get(section, ()):
            pieces = one.pieces(language)
            if one.joint != "apart" and told:
                pieces = joined(told.pop(), pieces, one.joint, language)
            told.append(pieces)
        return told

    def said(self) -> Sequence[Sentence]:
        return [one.sentence for section in self.sections.values() for one in section]

    @property
    def count(self) -> int:
        return sum(len(section) for section in self.sections.values())


def from_templates(facts: Facts) -> Draft:
    """Everything that can be said, in the order of the outline. The same facts give the same draft."""
    draft = Draft()
    for section in SECTIONS:
        chosen = sayable(facts, section)
        draft.sections[section] = [Said(one, form) for one, form in zip(chosen, rotated(chosen), strict=True)]
    return draft
