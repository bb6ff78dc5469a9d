"""A draft by a crew: a planner orders the sections, an analyst for each orders what may be said, a stylist
chooses forms, an editor words each sentence, and a critic sends back what reads worst.

The model sees letters and handles and never a figure that it could repeat wrongly. What it gives back is
checked by code; what does not pass is tried once more and then falls back to the template.
"""

from __future__ import annotations

import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Literal

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import parse_crew
from stepwell.agents.planner import open_session
from stepwell.agents.result import Result
from stepwell.agents.servers import Servers
from stepwell.agents.tools.base import Tool
from stepwell.errors import StepwellError
from stepwell.review.answers import (
    choice_of,
    choice_schema,
    order_of,
    order_schema,
    sentence_of,
    sentence_schema,
    turned,
)
from stepwell.review.facts import Facts
from stepwell.review.joints import JOINTS, Joint, fitting, joints
from stepwell.review.lexicon import invented, untraced
from stepwell.review.outline import (
    SECTIONS,
    TITLES,
    Handle,
    Piece,
    Sentence,
    lookup,
    pieces_of,
    rotated,
    sayable,
)
from stepwell.review.theme import QUOTES, Theme
from stepwell.review.wording import word
from stepwell.review.writer import Draft, Said

Level = Literal["templates", "choose", "write"]
LETTERS = string.ascii_lowercase
MAX_GROWTH = 1.4
"""How much longer than the template a sentence may be: what small models add says nothing."""
SPARE_CHARS = 20
TRIES = 2
PLAN, ORDER, STYLE, WORD, JUDGE = "planner", "analyst", "stylist", "editor", "critic"
LAST = "ahead"
"""The section that is no matter of importance."""
NONE = "none"
SENTENCE_END = re.compile(r"[.!?](?=\s)")


def review_crew() -> Crew:
    """The crew that ships; ``examples/crews/review.toml`` is the same file."""
    return parse_crew((files("stepwell.review") / "crew.toml").read_text("utf-8"), "crew.toml")


def no_tools(names: Sequence[str]) -> Sequence[Tool]:
    """The crew has no tools: everything it may use is in its task."""
    return ()


@dataclass(frozen=True, slots=True)
class Spent:
    """What one session of the crew took: for which section, by which role."""

    section: str
    role: str
    result: Result


@dataclass(slots=True)
class Newsroom:
    """The crew at work on one review, over servers that are open."""

    facts: Facts
    servers: Servers
    words: bool
    """Whether the editor words sentences, or the analyst orders them only."""
    crew: Crew = field(default_factory=review_crew)
    spent: list[Spent] = field(default_factory=list)
    section: str = ""
    """The one that is being written."""

    async def draft(self) -> Draft:
        """Every section; a server that goes away ends in templates, and never in nothing."""
        draft = Draft()
        for section in await self._sections(draft):
            self.section = section
            chosen = sayable(self.facts, section)
            if len(chosen) > len(LETTERS):  # more than can be named: as the templates have them
                plain = zip(chosen, rotated(chosen), strict=True)
                draft.sections[section] = [Said(one, form) for one, form in plain]
                continue
            ordered = await self._ordered(section, chosen, draft)
            forms, wished = await self._forms(ordered, draft)
            usual = rotated(ordered)
            said = [
                await self._said(one, form, own, draft)
                for one, form, own in zip(ordered, forms, usual, strict=True)
            ]
            draft.sections[section] = self._joined(await self._judged(said, draft), wished, draft)
        return draft

    def _has(self, role: str) -> bool:
        """Whether the crew, under its profile, has an agent for it."""
        return role in self.crew.roles and role not in self.crew.dropped

    async def _sections(self, draft: Draft) -> Sequence[str]:
        """The order of the sections: the planner's, or that of the outline."""
        self.section = "indexes"
        first = {one: sayable(self.facts, one)[:1] for one in SECTIONS if one != LAST}
        full = [one for one, said in first.items() if said]
        if not self._has(PLAN) or len(full) < 2:
            return SECTIONS
        letters = LETTERS[: len(full)]
        lines = [
            f"{letter}: {TITLES[one]['en']}. {self._plain(first[one][0])}"
            for letter, one in zip(letters, full, strict=True)
        ]
        order = order_of(await self._ask(PLAN, "\n".join(lines), order_schema(letters)), letters)
        if order is None:
            draft.fallbacks += 1
            return SECTIONS
        planned = [full[letters.index(letter)] for letter in order]
        return [*planned, *(one for one in SECTIONS if one not in planned)]

    async def _judged(self, said: Sequence[Said], draft: Draft) -> Sequence[Said]:
        """The critic names the one that reads worst: it gets another form, or the template for the words."""
        letters = LETTERS[: len(said)]
        open_to = [a for a, one in zip(letters, said, strict=True) if one.written or _forms_of(one) > 1]
        if not self._has(JUDGE) or len(said) < 2 or not open_to:
            return said
        lines = [f"{letter}: {self._read(one)}" for letter, one in zip(letters, said, strict=True)]
        options = {"worst": [*open_to, NONE]}
        answer = await self._ask(JUDGE, "\n".join(lines), choice_schema(options))
        worst = choice_of(answer, "worst", options["worst"])
        if worst is None or worst == NONE:
            draft.fallbacks += worst is None
            return said
        number = letters.index(worst)
        one = said[number]
        draft.sent_back += 1
        draft.written -= bool(one.written)
        form = one.variant if one.written else (one.variant + 1) % _forms_of(one)
        return [*said[:number], Said(one.sentence, form), *said[number + 1 :]]

    async def quotes(self, theme: Theme) -> list[int]:
        """Which of a theme's best sentences stand in the review; the highest ranked without an answer."""
        self.section = "theme"
        letters = LETTERS[: len(theme.candidates)]
        lines = [f"{a}: {theme.sentences[one]}" for a, one in zip(letters, theme.candidates, strict=True)]
        order = order_of(await self._ask(ORDER, "\n".join(lines), order_schema(letters)), letters)
        if order is None:
            return list(theme.ranked[:QUOTES])
        return [theme.candidates[letters.index(letter)] for letter in order[:QUOTES]]

    async def _ordered(self, section: str, chosen: Sequence[Sentence], draft: Draft) -> Sequence[Sentence]:
        if len(chosen) < 2:
            return chosen
        letters = LETTERS[: len(chosen)]
        lines = [f"{letter}: {self._plain(one)}" for letter, one in zip(letters, chosen, strict=True)]
        answer = await self._ask(ORDER, "\n".join(lines), order_schema(letters))
        order = order_of(answer, letters)
        if order is None:
            draft.fallbacks += 1
            return chosen
        return [chosen[letters.index(letter)] for letter in order]

    async def _forms(
        self, sentences: Sequence[Sentence], draft: Draft
    ) -> tuple[Sequence[int | None], Sequence[Joint]]:
        """The form of each sentence, which holds in both languages, and how it follows the one before it: a
        choice that no model can get wrong. ``None``: the stylist chose no form."""
        if not sentences:
            return [], []
        letters = LETTERS[: len(sentences)]
        lines, options = [], {}
        before: Sentence | None = None
        for place, (letter, one) in enumerate(zip(letters, sentences, strict=True)):
            # The smallest models take what is listed first: it is another option at each place.
            ways = turned(range(len(one.variants["en"])), place)
            if len(ways) > 1:
                lines += [f"{letter}{form + 1}: {self._plain(one, form)}" for form in ways]
                options[letter] = [f"{letter}{form + 1}" for form in ways]
            else:  # nothing to choose
                lines.append(f"{letter}: {self._plain(one)}")
            offered = () if before is None else joints(self.facts, before, one)
            if len(offered) > 1:
                options[f"{letter} joins"] = list(turned(offered, place))
                lines.append(f"{letter} joins: {', '.join(options[f'{letter} joins'])}")
            before = one
        answer = await self._ask(STYLE, "\n".join(lines), choice_schema(options))
        chosen = [choice_of(answer, letter, options.get(letter, ())) for letter in letters]
        draft.fallbacks += sum(one is None and a in options for a, one in zip(letters, chosen, strict=True))
        forms = [None if one is None else int(one[1:]) - 1 for one in chosen]
        wished = [
            choice_of(answer, f"{letter} joins", options.get(f"{letter} joins", ())) for letter in letters
        ]
        return forms, [next((one for one in JOINTS if one == wish), "apart") for wish in wished]

    def _joined(self, said: Sequence[Said], wished: Sequence[Joint], draft: Draft) -> list[Said]:
        """With the joints that the stylist chose, where both statements are in a form of the file and the
        one before is not joined itself: a sentence has two statements at most."""
        kept: list[Said] = []
        for one, wish in zip(said, wished, strict=True):
            before = kept[-1] if kept else None
            if before is None or before.joint != "apart" or before.written or one.written:
                kept.append(one)
                continue
            joint = fitting(self.facts, wish, before.pieces("en"), one.pieces("en"))
            draft.joints += joint != "apart"
            kept.append(replace(one, joint=joint))
        return kept

    async def _said(self, sentence: Sentence, chosen: int | None, usual: int, draft: Draft) -> Said:
        """In the editor's words, in the form that the stylist chose, or in the usual one, in this order."""
        form = usual if chosen is None else chosen
        if self.words and self._has(WORD):
            handles, shown = handled(sentence, form)
            schema = sentence_schema(handles, longest(shown)) if self.crew.roles[WORD].schema else None
            for _ in range(TRIES):
                answer = sentence_of(await self._ask(WORD, shown, schema))
                if (pieces := worded(answer, handles, shown)) is not None:
                    draft.written += 1
                    return Said(sentence, form, written={"en": pieces})
            draft.fallbacks += 1
        draft.chosen += chosen is not None
        return Said(sentence, form)

    def _plain(self, sentence: Sentence, form: int = 0) -> str:
        """The sentence as it will be read, so that the analyst knows what it is about."""
        return self._as_read(sentence.variants["en"][form])

    def _read(self, said: Said) -> str:
        return self._as_read(said.pieces("en"))

    def _as_read(self, pieces: Sequence[Piece]) -> str:
        return "".join(
            piece if isinstance(piece, str) else word(lookup(self.facts, piece.cell, "en"), piece.form, "en")
            for piece in pieces
        )

    async def _ask(self, role: str, task: str, schema: Mapping[str, object] | None = None) -> str:
        """What the role answers; empty where it has no answer or no server."""
        one = self.crew.roles[role]
        roles = {role: one if schema is None else replace(one, schema=schema)}
        session = open_session(
            replace(self.crew, entry=role, roles=roles), self.servers, ":memory:", no_tools
        )
        try:
            result = await session.run(task)
        except StepwellError:
            return ""
        finally:
            session.store.close()
        self.spent.append(Spent(self.section, role, result))
        return result.answer if result.status == "completed" and not result.cut else ""


def handled(sentence: Sentence, form: int = 0) -> tuple[dict[str, Handle], str]:
    """An English form with a short handle for each cell, and the cells by their handles."""
    handles: dict[str, Handle] = {}
    shown = ""
    for piece in sentence.variants["en"][form]:
        if isinstance(piece, str):
            shown += piece
            continue
        letter = next((name for name, known in handles.items() if known == piece), LETTERS[len(handles)])
        handles[letter] = piece
        shown += f"{{{letter}}}"
    return handles, shown


def longest(shown: str) -> int:
    """Characters that a sentence may have in place of this one."""
    return int(MAX_GROWTH * len(shown)) + SPARE_CHARS


def worded(answer: str, handles: Mapping[str, Handle], shown: str) -> tuple[Piece, ...] | None:
    """The answer's pieces, if it says every cell once and no number, direction or ranking of its own."""
    text = " ".join(answer.split())
    if not text or len(text) > longest(shown) or text[-1] not in ".!":
        return None
    if SENTENCE_END.search(text[:-1]):  # a second sentence would leave a claim without its speaker
        return None
    try:
        pieces = pieces_of(text)
    except ValueError:
        return None
    named = [piece.cell for piece in pieces if isinstance(piece, Handle)]
    if sorted(named) != sorted(handles) or any(isinstance(p, str) and list(untraced(p)) for p in pieces):
        return None
    if any(invented(text, shown)):
        return None
    return tuple(
        piece if isinstance(piece, str) else replace(handles[piece.cell], starts=number == 0)
        for number, piece in enumerate(pieces)
    )


def _forms_of(said: Said) -> int:
    return len(said.sentence.variants["en"])
