"""A draft by a crew: an analyst for each section orders what may be said, an editor words each sentence.

The model sees letters and handles and never a figure that it could repeat wrongly. What it gives back is
checked by code; what does not pass is tried once more and then falls back to the template.
"""

from __future__ import annotations

import json
import re
import string
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from importlib.resources import files
from typing import Literal, TypeVar

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import parse_crew
from stepwell.agents.planner import open_session
from stepwell.agents.result import Result
from stepwell.agents.servers import Servers
from stepwell.agents.tools.base import Tool
from stepwell.errors import StepwellError
from stepwell.review.facts import Facts
from stepwell.review.joints import JOINTS, Joint, fitting, joints
from stepwell.review.lexicon import invented, untraced
from stepwell.review.outline import SECTIONS, Handle, Piece, Sentence, lookup, pieces_of, rotated, sayable
from stepwell.review.theme import QUOTES, Theme
from stepwell.review.wording import word
from stepwell.review.writer import Draft, Said

Option = TypeVar("Option")
Level = Literal["templates", "choose", "write"]
LETTERS = string.ascii_lowercase
MAX_GROWTH = 1.4
"""How much longer than the template a sentence may be: what small models add says nothing."""
SPARE_CHARS = 20
TRIES = 2
SENTENCE_END = re.compile(r"[.!?](?=\s)")


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
    crew: Crew = field(
        default_factory=lambda: parse_crew(
            (files("stepwell.review") / "crew.toml").read_text("utf-8"), "crew.toml"
        )
    )
    spent: list[Spent] = field(default_factory=list)
    section: str = ""
    """The one that is being written."""

    async def draft(self) -> Draft:
        """Every section; a server that goes away ends in templates, and never in nothing."""
        draft = Draft()
        for section in SECTIONS:
            self.section = section
            chosen = sayable(self.facts, section)
            ordered = await self._ordered(section, chosen, draft)
            forms, wished = await self._forms(ordered, draft)
            usual = rotated(ordered)
            said = [
                await self._said(one, form, own, draft)
                for one, form, own in zip(ordered, forms, usual, strict=True)
            ]
            draft.sections[section] = self._joined(said, wished, draft)
        return draft

    async def quotes(self, theme: Theme) -> list[int]:
        """Which of a theme's best sentences stand in the review; the highest ranked where nobody answers."""
        self.section = "theme"
        letters = LETTERS[: len(theme.candidates)]
        lines = [f"{a}: {theme.sentences[one]}" for a, one in zip(letters, theme.candidates, strict=True)]
        order = _order(await self._ask("analyst", "\n".join(lines), _order_schema(letters)), letters)
        if order is None:
            return list(theme.ranked[:QUOTES])
        return [theme.candidates[letters.index(letter)] for letter in order[:QUOTES]]

    async def _ordered(self, section: str, chosen: Sequence[Sentence], draft: Draft) -> Sequence[Sentence]:
        if len(chosen) < 2:
            return chosen
        letters = LETTERS[: len(chosen)]
        lines = [f"{letter}: {self._plain(one)}" for letter, one in zip(letters, chosen, strict=True)]
        answer = await self._ask("analyst", "\n".join(lines), _order_schema(letters))
        order = _order(answer, letters)
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
            ways = _turned(range(len(one.variants["en"])), place)
            lines += [f"{letter}{form + 1}: {self._plain(one, form)}" for form in ways]
            options[letter] = [f"{letter}{form + 1}" for form in ways]
            offered = () if before is None else joints(self.facts, before, one)
            if len(offered) > 1:
                options[f"{letter} joins"] = list(_turned(offered, place))
                lines.append(f"{letter} joins: {', '.join(options[f'{letter} joins'])}")
            before = one
        answer = await self._ask("stylist", "\n".join(lines), _choice_schema(options))
        chosen = [_choice(answer, letter, options[letter]) for letter in letters]
        draft.fallbacks += sum(one is None for one in chosen)
        forms = [None if one is None else int(one[1:]) - 1 for one in chosen]
        wished = [
            _choice(answer, f"{letter} joins", options.get(f"{letter} joins", ())) for letter in letters
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
        if self.words:
            handles, shown = handled(sentence, form)
            for _ in range(TRIES):
                answer = await self._ask("editor", shown)
                if (pieces := worded(answer, handles, shown)) is not None:
                    draft.written += 1
                    return Said(sentence, form, written={"en": pieces})
            draft.fallbacks += 1
        draft.chosen += chosen is not None
        return Said(sentence, form)

    def _plain(self, sentence: Sentence, form: int = 0) -> str:
        """The sentence as it will be read, so that the analyst knows what it is about."""
        return "".join(
            piece if isinstance(piece, str) else word(lookup(self.facts, piece.cell, "en"), piece.form, "en")
            for piece in sentence.variants["en"][form]
        )

    async def _ask(self, role: str, task: str, schema: Mapping[str, object] | None = None) -> str:
        """What the role answers; empty where it has no answer or nobody serves it."""
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


def _order_schema(letters: str) -> Mapping[str, object]:
    """All letters, in any order."""
    item = {"type": "string", "enum": list(letters)}
    order = {"type": "array", "minItems": len(letters), "maxItems": len(letters), "items": item}
    return {
        "type": "object",
        "required": ["order"],
        "additionalProperties": False,
        "properties": {"order": order},
    }


def _order(answer: str, letters: str) -> list[str] | None:
    """The letters in the order of the answer, each once; those that it leaves out follow. ``None``: no
    order.
    """
    try:
        given = json.loads(answer)["order"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(given, list):
        return None
    named = [one for one in dict.fromkeys(map(str, given)) if one in letters and len(one) == 1]
    return [*named, *(letter for letter in letters if letter not in named)] if named else None


def _choice_schema(options: Mapping[str, Sequence[str]]) -> Mapping[str, object]:
    """One of the options for each name."""
    return {
        "type": "object",
        "required": list(options),
        "additionalProperties": False,
        "properties": {name: {"type": "string", "enum": list(some)} for name, some in options.items()},
    }


def _choice(answer: str, name: str, options: Sequence[str]) -> str | None:
    """Which of the options the answer has for a name. ``None``: none of them."""
    try:
        chosen = json.loads(answer)[name]
    except (ValueError, KeyError, TypeError):
        return None
    return chosen if chosen in options else None


def _turned(options: Sequence[Option], by: int) -> list[Option]:
    """The same options, beginning with another one."""
    by %= len(options)
    return [*options[by:], *options[:by]]


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


def worded(answer: str, handles: Mapping[str, Handle], shown: str) -> tuple[Piece, ...] | None:
    """The answer's pieces, if it says every cell once and no number, direction or ranking of its own."""
    text = " ".join(answer.split())
    if not text or len(text) > MAX_GROWTH * len(shown) + SPARE_CHARS or text[-1] not in ".!":
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
