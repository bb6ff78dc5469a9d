"""A table in a text, row by row: events, claims, and the calendar of releases.

The table is Markdown with the columns of ``COLUMNS``. A row with a speaker is a claim; any other one is a
fact of the document. Values are written plainly: ``300000000000``, ``-1.5``, ``2025-12-12``.

A table may have two further columns, ``en`` and ``zh``: the sentence that says the row, where no template of
the review does. ``{it}`` is the row's own value, in the forms of ``sentences.toml``; other cells are named by
their ids. Such a sentence may say nothing of its own that a cell has to say. A column ``section`` puts it
elsewhere than among the events.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation

from stepwell.review.facts import Cell, CellPlace, Facts, Origin, OwnText, Unit, Value
from stepwell.review.lexicon import untraced
from stepwell.review.outline import SECTIONS
from stepwell.review.sources.base import Reader, Reply, Request
from stepwell.review.week import Week

ITS_OWN = re.compile(r"\{it(?=[:}])")
IN_BRACES = re.compile(r"\{[^{}]*\}")
COLUMNS = ("id", "unit", "value", "observed", "known since", "speaker")


@dataclass(frozen=True, slots=True)
class Documents:
    name: str = "documents"
    base_url: str = ""
    secret: str = ""
    pause_s: float = 0.0

    def requests(self, week: Week) -> Sequence[Request]:
        return ()

    def read(self, facts: Facts, reply: Reply) -> None:
        reader = Reader(facts, reply, reply.name, "table")
        header: list[str] = []
        for number, line in enumerate(reader.text().splitlines()):
            if not line.startswith("|"):
                header = []
                continue
            fields = [field.strip() for field in line.strip().strip("|").split("|")]
            if not header:
                header = [field.lower() for field in fields]
                continue
            if set(line) <= set("|-: "):
                continue
            if header[: len(COLUMNS)] == list(COLUMNS):
                self._row(reader, number, dict(zip(header, fields, strict=False)))

    def _row(self, reader: Reader, number: int, row: dict[str, str]) -> None:
        where = f"line {number + 1}"
        try:
            unit = Unit(row["unit"])
        except (KeyError, ValueError) as error:
            raise reader.fail(f"{where}: the unit is one of {', '.join(Unit)}") from error
        if not row.get("known since"):
            raise reader.fail(f"{where}: a fact without the day it was known since is not used")
        known = reader.day(row["known since"])
        speaker = row.get("speaker", "")
        reader.facts.add(
            Cell(
                row["id"],
                unit,
                self._value(reader, where, unit, row["value"]),
                observed=reader.day(row["observed"]) if row.get("observed") else known,
                known_since=known,
                source=f"{reader.title}, {where}",
                origin=Origin.CLAIM if speaker else Origin.DOCUMENT,
                place=CellPlace(reader.sha256, "table", f"{number}/value"),
                speaker=speaker,
            )
        )
        if row.get("en") or row.get("zh"):
            reader.facts.texts.append(self._text(reader, where, row))

    def _text(self, reader: Reader, where: str, row: dict[str, str]) -> OwnText:
        """The sentence of a row in both languages. Raises ``SourceError``."""
        said = {}
        for language in ("en", "zh"):
            said[language] = ITS_OWN.sub("{" + row["id"], row.get(language, ""))
            if not said[language]:
                raise reader.fail(f"{where}: a sentence is written in both columns, en and zh")
            bare = IN_BRACES.sub("", said[language])
            if "{" in bare or "}" in bare:
                raise reader.fail(f"{where}: a brace has no partner in {said[language]!r}")
            if hidden := next(untraced(bare), ""):
                raise reader.fail(f"{where}: {hidden!r} has to be a cell, as in {{it}} or {{it:move}}")
        section = row.get("section") or "events"
        if section not in SECTIONS:
            raise reader.fail(f"{where}: the section is one of {', '.join(SECTIONS)}")
        return OwnText(row["id"], section, (row["id"],), said["en"], said["zh"])

    def _value(self, reader: Reader, where: str, unit: Unit, text: str) -> Value:
        if unit is Unit.NAME:
            return text
        if unit is Unit.DATE:
            try:
                return date.fromisoformat(text)
            except ValueError as error:
                raise reader.fail(f"{where}: {text!r} is no date") from error
        try:
            return Decimal(text)
        except InvalidOperation as error:
            raise reader.fail(f"{where}: {text!r} is no number") from error
