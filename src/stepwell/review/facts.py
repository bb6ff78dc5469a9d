"""Cells: every figure, date and statement of a review, with where it came from.

A cell is read from raw bytes, derived from other cells by a named formula, or missing with a reason. Raw
replies are kept under their SHA-256, so that a cell's path leads to the same bytes for ever.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal
from enum import StrEnum

from stepwell.errors import StepwellError


class Unit(StrEnum):
    """What a value counts. The renderer and the verifier each know how to print and read every one."""

    PERCENT = "percent"
    """1.5 is 1.5 %."""
    BASIS_POINTS = "basis_points"
    PERCENTAGE_POINTS = "percentage_points"
    POINTS = "points"
    """Of an index of prices."""
    TOTAL_POINTS = "total_points"
    """Of an index with dividends reinvested: another quantity, so that no formula takes both."""
    RATE = "rate"
    """Percent to one place, as unemployment is published."""
    USD = "usd"
    MICROUSD = "microusd"
    """Millionths of a dollar: what turns of a model cost."""
    YEAR = "year"
    COUNT = "count"
    """People, contracts, announcements."""
    DATE = "date"
    NAME = "name"
    """A proper name that has digits in it, such as S&P 500."""


class Origin(StrEnum):
    """How far a value may be trusted, and how it may be said."""

    DATA = "data"
    """Published by a source of data."""
    DOCUMENT = "document"
    """From a table in a document, with its line."""
    CLAIM = "claim"
    """What a person said: printed as reported speech only, with the speaker."""
    MADE = "made"
    """Made up for the sample. The page says so."""


Value = Decimal | date | str


@dataclass(frozen=True, slots=True)
class CellPlace:
    """Where a value stands in a raw reply.

    ``path`` is a JSON pointer, ``row/COLUMN`` of a CSV, ``entry/TAG`` of a Treasury feed, or ``line/column``
    of a Markdown table; rows, entries and lines count from 0.
    """

    sha256: str
    kind: str
    path: str


@dataclass(frozen=True, slots=True)
class Derivation:
    """A formula by its name and version, and the ids of the cells it was given, in order."""

    formula: str
    version: int
    inputs: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Cell:
    """One fact. Exactly one of ``place``, ``derivation`` and ``missing`` says where it came from."""

    id: str
    unit: Unit
    value: Value | None
    observed: date | None = None
    """The day the value is about."""
    known_since: date | None = None
    """The day from which it could be known: its vintage."""
    source: str = ""
    origin: Origin = Origin.DATA
    place: CellPlace | None = None
    derivation: Derivation | None = None
    missing: str = ""
    speaker: str = ""
    """Of a claim: who said it."""

    def __post_init__(self) -> None:
        ways = [self.place is not None, self.derivation is not None, bool(self.missing)]
        if sum(ways) != 1:
            raise ValueError(f"cell {self.id}: read, derived or missing, and one of these only")
        if (self.value is None) != bool(self.missing):
            raise ValueError(f"cell {self.id}: a missing value has a reason, and no other has one")
        if self.origin is Origin.CLAIM and not self.speaker and not self.missing:
            raise ValueError(f"cell {self.id}: a claim names its speaker")

    @property
    def number(self) -> Decimal:
        """The value of a cell that counts something. Raises ``TypeError`` for the others."""
        if not isinstance(self.value, Decimal):
            raise TypeError(f"cell {self.id} is no number")
        return self.value


@dataclass(frozen=True, slots=True)
class Conflict:
    """Two facts that cannot both be right, or one that cannot be right by itself."""

    kind: str
    """``weekday``, ``product``, ``sum``, ``sources``, ``claim`` and others: the verifier checks each anew."""
    cells: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class OwnText:
    """A sentence that comes with the data: a row of a person's own table, or a filing.

    In both languages the templates of ``sentences.toml``: cells in braces, and nothing of its own that says a
    number, a direction or a ranking.
    """

    id: str
    section: str
    must: tuple[str, ...]
    en: str
    zh: str


class NotKnown(StepwellError):
    """A cell that the facts do not have."""


@dataclass(slots=True)
class Facts:
    """Every cell of a review, the raw bytes they rest on, and what does not fit."""

    cells: dict[str, Cell] = field(default_factory=dict)
    raw: dict[str, bytes] = field(default_factory=dict)
    """By SHA-256, in hexadecimal."""
    names: dict[str, str] = field(default_factory=dict)
    """What each raw reply is called, by SHA-256."""
    conflicts: list[Conflict] = field(default_factory=list)
    texts: list[OwnText] = field(default_factory=list)

    def copy(self) -> Facts:
        """The same cells in tables of their own."""
        return Facts(
            dict(self.cells), dict(self.raw), dict(self.names), list(self.conflicts), list(self.texts)
        )

    def keep(self, name: str, data: bytes) -> str:
        """Keep a raw reply; its SHA-256."""
        sha256 = hashlib.sha256(data).hexdigest()
        self.raw[sha256] = data
        self.names[sha256] = name
        return sha256

    def add(self, cell: Cell) -> Cell:
        """Add a cell. Two sources that differ on one id become a conflict, and the first one stays."""
        known = self.cells.get(cell.id)
        if known is None or known.missing:
            self.cells[cell.id] = cell
            return cell
        if cell.missing or (cell.value, cell.unit) == (known.value, known.unit):
            return known
        other = self._beside(cell)
        kind = "sources" if cell.unit is known.unit else "units"
        self.conflicts.append(Conflict(kind, (known.id, other.id)))
        return known

    def _beside(self, cell: Cell) -> Cell:
        number = 2
        while f"{cell.id}~{number}" in self.cells:
            number += 1
        other = Cell(**{name: getattr(cell, name) for name in cell.__slots__} | {"id": f"{cell.id}~{number}"})
        self.cells[other.id] = other
        return other

    def __getitem__(self, id: str) -> Cell:
        try:
            return self.cells[id]
        except KeyError:
            raise NotKnown(f"there is no fact {id}") from None

    def get(self, id: str) -> Cell | None:
        """The cell, if it is there and has a value."""
        cell = self.cells.get(id)
        return None if cell is None or cell.missing else cell

    def under(self, prefix: str) -> Iterator[Cell]:
        """Cells with a value whose ids begin with ``prefix``, in the order they were added."""
        return (cell for cell in self.cells.values() if cell.id.startswith(prefix) and not cell.missing)


def missing(id: str, unit: Unit, why: str, source: str = "") -> Cell:
    """A cell that says why it has no value."""
    return Cell(id, unit, None, source=source, missing=why)


def as_json(cell: Cell) -> Mapping[str, object]:
    """A cell as the trace keeps it: numbers as text, because readers of JSON round its own numbers."""
    row: dict[str, object] = {"id": cell.id, "unit": cell.unit.value}
    if cell.value is not None:
        row["value"] = str(cell.value)
    for name in ("observed", "known_since"):
        if (day := getattr(cell, name)) is not None:
            row[name] = day.isoformat()
    for name in ("source", "missing", "speaker"):
        if text := getattr(cell, name):
            row[name] = text
    row["origin"] = cell.origin.value
    if cell.place is not None:
        row["place"] = {"sha256": cell.place.sha256, "kind": cell.place.kind, "path": cell.place.path}
    if cell.derivation is not None:
        made = cell.derivation
        row["derivation"] = {"formula": made.formula, "version": made.version, "inputs": list(made.inputs)}
    return row
