"""What a source is, and what every one of them checks."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import date
from decimal import Decimal, InvalidOperation
from typing import Any, Protocol

from stepwell.errors import StepwellError
from stepwell.review.facts import Cell, CellPlace, Facts, Origin, Unit, Value
from stepwell.review.week import Week

MAX_REPLY_BYTES = 32 * 1024 * 1024
FIRST_BYTES = 80
MISSING_MARKS = frozenset({"", ".", "-", "--", "null", "NaN", "N/A", "ND"})
"""How sources write that there is no value: FRED a dot, FiscalData the text null, BLS a hyphen."""


class SourceError(StepwellError):
    """A reply that does not keep its source's contract."""


@dataclass(frozen=True, slots=True)
class Request:
    """One GET. ``query`` never holds a key: the fetcher adds what the source's ``secret`` names."""

    source: str
    name: str
    """Unique within a week; the file's name in the index."""
    path: str
    query: Mapping[str, str] = field(default_factory=dict)
    body: Mapping[str, object] | None = None
    """Sent as JSON by POST, where it is given."""


@dataclass(frozen=True, slots=True)
class Reply:
    """Raw bytes and what they are."""

    source: str
    name: str
    data: bytes
    fetched: date
    made: bool = False
    """Made up, for the sample."""

    @property
    def origin(self) -> Origin:
        return Origin.MADE if self.made else Origin.DATA


class Source(Protocol):
    """A place that publishes figures."""

    @property
    def name(self) -> str: ...

    @property
    def base_url(self) -> str:
        """Empty: the source is a file that a person brings."""
        ...

    @property
    def secret(self) -> str:
        """The environment variable that holds the key; empty: none is needed."""
        ...

    @property
    def pause_s(self) -> float:
        """Between two requests, by the site's own rules."""
        ...

    def requests(self, week: Week) -> Sequence[Request]: ...

    def read(self, facts: Facts, reply: Reply) -> None:
        """Add the reply's cells. Raises ``SourceError``."""
        ...


def read(source: Source, facts: Facts, reply: Reply) -> None:
    """Add the reply's cells. Raises ``SourceError``, also where it is shaped as no reply of the source is."""
    try:
        source.read(facts, reply)
    except (AttributeError, TypeError, ValueError, LookupError, ArithmeticError) as error:
        start = reply.data[:FIRST_BYTES].decode("utf-8", "replace").replace("\n", " ")
        raise SourceError(
            f"{source.name} ({reply.name}): not in the form of this source; the reply begins {start!r}"
        ) from error


@dataclass(slots=True)
class Reader:
    """One reply on its way into cells."""

    facts: Facts
    reply: Reply
    title: str
    """What the reader of a report is told: the source's name."""
    kind: str
    sha256: str = ""

    def __post_init__(self) -> None:
        self.sha256 = self.facts.keep(self.reply.name, self.reply.data)

    def fail(self, why: str) -> SourceError:
        start = self.reply.data[:FIRST_BYTES].decode("utf-8", "replace").replace("\n", " ")
        return SourceError(f"{self.title} ({self.reply.name}): {why}; the reply begins {start!r}")

    def text(self) -> str:
        """The reply as text, refused where it is a web page or too large."""
        data = self.reply.data
        if len(data) > MAX_REPLY_BYTES:
            raise self.fail(f"{len(data)} bytes are more than {MAX_REPLY_BYTES}")
        if not data.strip():
            raise self.fail("an empty reply")
        head = data[:512].removeprefix(b"\xef\xbb\xbf").lstrip().lower()
        if head.startswith(b"<!doctype html") or b"<html" in head:
            raise self.fail("a web page instead of data")
        try:
            return data.decode("utf-8-sig")
        except UnicodeDecodeError as error:
            raise self.fail("the reply is not UTF-8") from error

    def json(self) -> Any:
        """Numbers as ``Decimal``: a binary float is not what was published."""
        try:
            return json.loads(self.text(), parse_float=Decimal, parse_int=Decimal)
        except ValueError as error:
            raise self.fail(f"no JSON, or cut short ({error})") from error

    def rows(self, *columns: str) -> Iterator[tuple[int, Mapping[str, str]]]:
        """Rows of a CSV with their numbers from 0. The columns are required; others may come."""
        table = csv.DictReader(io.StringIO(self.text()), strict=True)
        try:
            if lacking := [name for name in columns if name not in (table.fieldnames or ())]:
                raise self.fail(f"there is no column {', '.join(lacking)}")
            for number, row in enumerate(table):
                if None in row or None in row.values():
                    raise self.fail(f"row {number + 2} has not as many fields as the header, or is cut short")
                yield number, row
        except csv.Error as error:
            raise self.fail(f"no CSV ({error})") from error

    def field(self, row: Mapping[str, Any], name: str) -> Any:
        """What a row has under a name that every row of the source has: one that was renamed is no gap."""
        if name not in row:
            raise self.fail(f"a row has no {name}")
        return row[name]

    def number(self, text: object) -> Decimal | None:
        """A published figure; ``None`` where the source says that there is none."""
        if isinstance(text, Decimal):
            return text
        if text is None or str(text).strip() in MISSING_MARKS:
            return None
        try:
            value = Decimal(str(text).strip().replace(",", ""))
        except InvalidOperation as error:
            raise self.fail(f"{str(text)[:40]!r} is no number") from error
        if not value.is_finite():
            raise self.fail(f"{text!r} is no number")
        return value

    def day(self, text: object) -> date:
        """``YYYY-MM-DD``, with a time behind it or without, or ``MM/DD/YYYY``."""
        words = str(text)
        try:
            if "/" in words:
                month, day, year = words.split("/")
                return date(int(year), int(month), int(day))
            return date.fromisoformat(words[:10])
        except ValueError as error:
            raise self.fail(f"{words[:40]!r} is no date") from error

    def cell(
        self, id: str, unit: Unit, value: Value | None, path: str, observed: date, known: date | None = None
    ) -> None:
        """Add what stands at ``path``; a value that the source leaves out is missing, and says so."""
        if value is None:
            self.facts.add(
                Cell(
                    id,
                    unit,
                    None,
                    observed=observed,
                    source=self.title,
                    missing=f"{self.title} has no value for {observed}",
                )
            )
            return
        self.facts.add(
            Cell(
                id,
                unit,
                value,
                observed=observed,
                known_since=known or observed,
                source=self.title,
                origin=self.reply.origin,
                place=CellPlace(self.sha256, self.kind, path),
            )
        )
