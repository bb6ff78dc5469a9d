"""Which sentences may be said of a week: templates whose cells are all there, with what must be said.

``sentences.toml`` is data; this reads it and checks that the text between the cells says no number, no
direction and no ranking of its own.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from importlib.resources import files

from stepwell.review.facts import Cell, Facts, NotKnown, OwnText
from stepwell.review.wording import Language, word

SECTIONS = ("indexes", "rates", "policy", "events", "labour", "ahead")
TITLES: dict[str, dict[Language, str]] = {
    "indexes": {"en": "Indexes", "zh": "主要指数"},
    "rates": {"en": "Rates and cash", "zh": "利率与现金"},
    "policy": {"en": "The Federal Reserve", "zh": "美联储"},
    "events": {"en": "Events", "zh": "核心事件"},
    "labour": {"en": "Labour", "zh": "就业"},
    "ahead": {"en": "Next week", "zh": "下周日程"},
    "theme": {"en": "Theme in depth", "zh": "专题"},
}


@dataclass(frozen=True, slots=True)
class Handle:
    """A cell in a sentence, and the form it is printed in. ``starts``: with a capital letter."""

    cell: str
    form: str = "value"
    starts: bool = False


Piece = str | Handle
"""Text without any number, or a cell."""


@dataclass(frozen=True, slots=True)
class Sentence:
    """One statement, worded in several ways in each language."""

    id: str
    section: str
    must: tuple[str, ...]
    variants: dict[Language, tuple[tuple[Piece, ...], ...]]
    family: str = ""
    """Of sentences that are the same but for the instrument."""

    def cells(self) -> Iterator[str]:
        for pieces in (piece for way in self.variants.values() for piece in way):
            yield from (one.cell for one in pieces if isinstance(one, Handle))


def pieces_of(template: str) -> tuple[Piece, ...]:
    """``"text {cell:form} text"`` as its pieces. Raises ``ValueError`` for a brace without its partner."""
    pieces: list[Piece] = []
    rest = template
    while rest:
        text, opened, behind = rest.partition("{")
        if "}" in text:
            raise ValueError(f"a brace is closed that was not opened in {template!r}")
        if text:
            pieces.append(text)
        if not opened:
            break
        inside, closed, rest = behind.partition("}")
        if not closed or "{" in inside:
            raise ValueError(f"a brace is open in {template!r}")
        name, *forms = inside.split(":")
        pieces.append(
            Handle(name, next((form for form in forms if form != "start"), "value"), "start" in forms)
        )
    return tuple(pieces)


@cache
def sentences() -> tuple[Sentence, ...]:
    """Every sentence of ``sentences.toml``, those for several instruments once for each."""
    table = tomllib.loads((files("stepwell.review") / "sentences.toml").read_text("utf-8"))
    return tuple(one for row in table["sentence"] for one in _sentences(row))


def _sentences(row: dict[str, object]) -> Iterator[Sentence]:
    for name in row.get("each", [""]):  # type: ignore[attr-defined]

        def filled(text: str, name: str = name) -> str:
            return text.replace("$X", name)

        yield Sentence(
            filled(str(row["id"])),
            str(row["section"]),
            tuple(filled(cell) for cell in row.get("must", ())),  # type: ignore[attr-defined]
            {
                language: tuple(pieces_of(filled(text)) for text in row[language])  # type: ignore[attr-defined]
                for language in ("en", "zh")
            },
            str(row["id"]),
        )


def _own(text: OwnText) -> Sentence:
    """One that came with the data: it has one form."""
    ways: dict[Language, tuple[tuple[Piece, ...], ...]] = {
        "en": (pieces_of(text.en),),
        "zh": (pieces_of(text.zh),),
    }
    return Sentence(text.id, text.section, text.must, ways, text.id)


def sayable(facts: Facts, section: str) -> list[Sentence]:
    """The section's sentences whose cells are all there, in the order of the file; a claim in them has its
    speaker."""
    all_of_them = (*sentences(), *map(_own, facts.texts))
    chosen = [one for one in all_of_them if one.section == section and _can_say(facts, one)]
    return [
        replace(
            one,
            variants={
                language: tuple(attributed(facts, way, language) for way in ways)
                for language, ways in one.variants.items()
            },
        )
        for one in chosen
    ]


def attributed(facts: Facts, pieces: Sequence[Piece], language: Language) -> tuple[Piece, ...]:
    """A statement with the speaker of each claim in it: what a person said is never printed as a fact."""
    handles = [piece for piece in pieces if isinstance(piece, Handle)]
    speakers = {one.cell: lookup(facts, one.cell, language).speaker for one in handles}
    named = {speakers[one.cell] for one in handles if one.form == "speaker"}
    lacking = {who: cell for cell, who in speakers.items() if who and who not in named}
    said = tuple(pieces)
    for cell in lacking.values():
        by = Handle(cell, "speaker")
        said = (
            ("据", by, "称，", *said)
            if language == "zh"
            else (*_open_ended(said), ", according to ", by, ".")
        )
    return said


def _open_ended(pieces: Sequence[Piece]) -> tuple[Piece, ...]:
    """Without the full stop at its end."""
    *head, last = pieces
    return (*head, last.removesuffix(".")) if isinstance(last, str) else tuple(pieces)


def rotated(chosen: Sequence[Sentence]) -> list[int]:
    """A form for each: sentences of one family take turns, so that none begins as the one before it."""
    seen: dict[str, int] = {}
    forms = []
    for one in chosen:
        number = seen[one.family] = seen.get(one.family, -1) + 1
        forms.append(number % len(one.variants["en"]))
    return forms


def unsaid(facts: Facts) -> list[Cell]:
    """Facts that were looked for and have no value."""
    return [cell for cell in facts.cells.values() if cell.missing]


def _can_say(facts: Facts, sentence: Sentence) -> bool:
    for language, ways in sentence.variants.items():
        for handle in (piece for way in ways for piece in way if isinstance(piece, Handle)):
            try:
                cell = lookup(facts, handle.cell, language)
                if cell.missing:
                    return False
                word(cell, handle.form, language)
            except (NotKnown, ValueError, TypeError):
                return False
    return True


def lookup(facts: Facts, id: str, language: Language) -> Cell:
    """The cell; a name in the language of the page. Raises ``NotKnown``."""
    whole = not id.startswith("name.") or id.endswith(f".{language}")
    return facts[id if whole else f"{id}.{language}"]


def must_say(chosen: Sequence[Sentence]) -> list[str]:
    """Cells that the page has to show, once each."""
    return list(dict.fromkeys(cell for sentence in chosen for cell in sentence.must))
