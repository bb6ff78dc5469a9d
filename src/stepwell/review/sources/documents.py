"""A table in a text, row by row: events, claims, and the calendar of releases.

The table is Markdown with the columns of ``COLUMNS``. A row with a speaker is a claim; any other one is a
fact of the document. Values are written plainly: ``300000000000``, ``-1.5``, ``2025-12-12``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal, InvalidOperation

from stepwell.review.facts import Cell, Facts, Origin, Place, Unit, Value
from stepwell.review.sources.base import Reader, Reply, Request
from stepwell.review.week import Week

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
                place=Place(reader.sha256, "table", f"{number}/value"),
                speaker=speaker,
            )
        )

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
