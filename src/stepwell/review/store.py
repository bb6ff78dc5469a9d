"""Facts of one week or of many as tables that SQL is asked of, over the raw replies they were read from.

A folder of raw replies is what is kept; its tables are made anew from it in a quarter of a second, so that
they cannot fall out of step with the bytes or with the readers. DuckDB answers.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Context, Decimal
from typing import Any

from stepwell.errors import BadInput
from stepwell.review.facts import Cell, Facts, Value

PLACES = Decimal(1).scaleb(-12)
"""Of a number in the tables; the text beside it has all digits."""
WIDE, MOST_DIGITS = Context(prec=38), 25
"""What a column of numbers holds."""
MAX_ROWS = 10_000
TABLES = {
    "cells": """CREATE TABLE cells (week DATE, id TEXT, unit TEXT, value TEXT, number DECIMAL(38, 12),
        observed DATE, known_since DATE, source TEXT, origin TEXT, speaker TEXT, missing TEXT, formula TEXT,
        version INTEGER, inputs TEXT[], sha256 TEXT, path TEXT)""",
    "replies": "CREATE TABLE replies (week DATE, sha256 TEXT, name TEXT, size_bytes BIGINT, data BLOB)",
    "conflicts": "CREATE TABLE conflicts (week DATE, kind TEXT, cells TEXT[])",
}


@dataclass(frozen=True, slots=True)
class Answer:
    """Rows of an answer. ``more``: there were others, beyond ``MAX_ROWS``."""

    columns: Sequence[str]
    rows: Sequence[Sequence[Any]]
    more: bool


def ask(weeks: Iterable[tuple[date, Facts]], sql: str) -> Answer:
    """What the tables answer; a week is named by its Friday. Raises ``BadInput`` where SQL does not run."""
    import duckdb

    with duckdb.connect() as connection:
        for table in TABLES.values():
            connection.execute(table)
        for friday, facts in weeks:
            _fill(connection, friday, facts)
        connection.execute(
            "SET enable_external_access = false"
        )  # the facts are asked, and no file beside them
        try:
            answered = connection.execute(sql)
            columns = [str(column[0]) for column in answered.description or ()]
            rows = answered.fetchmany(MAX_ROWS + 1) if columns else []
        except duckdb.Error as error:
            raise BadInput(f"DuckDB: {str(error).strip().splitlines()[0]}") from error
    return Answer(columns, rows[:MAX_ROWS], len(rows) > MAX_ROWS)


def _fill(connection: Any, friday: date, facts: Facts) -> None:
    rows = {
        "cells": [_row(friday, cell) for cell in facts.cells.values()],
        "replies": [
            (friday, sha256, facts.names[sha256], len(data), data) for sha256, data in facts.raw.items()
        ],
        "conflicts": [(friday, one.kind, list(one.cells)) for one in facts.conflicts],
    }
    for table, listed in rows.items():
        if listed:
            marks = ", ".join("?" * len(listed[0]))
            connection.executemany(f"INSERT INTO {table} VALUES ({marks})", listed)


def _row(friday: date, cell: Cell) -> tuple[Any, ...]:
    made, place = cell.derivation, cell.place
    return (
        friday,
        cell.id,
        cell.unit.value,
        None if cell.value is None else str(cell.value),
        _number(cell.value),
        cell.observed,
        cell.known_since,
        cell.source,
        cell.origin.value,
        cell.speaker,
        cell.missing,
        made and made.formula,
        made and made.version,
        list(made.inputs) if made else None,
        place and place.sha256,
        place and place.path,
    )


def _number(value: Value | None) -> Decimal | None:
    """None: no number, or one that only the text beside it can hold."""
    if not isinstance(value, Decimal) or not value.is_finite() or value.adjusted() > MOST_DIGITS:
        return None
    return value.quantize(PLACES, context=WIDE)


def as_text(answer: Answer) -> Iterator[str]:
    """The answer as lines of columns, each as wide as its longest value."""
    table = [list(answer.columns), *([_shown(one) for one in row] for row in answer.rows)]
    widths = [max(len(row[at]) for row in table) for at in range(len(answer.columns))]
    for row in table:
        yield "  ".join(one.ljust(width) for one, width in zip(row, widths, strict=True)).rstrip()


def _shown(value: Any) -> str:
    if value is None:
        return ""
    if isinstance(value, bytes):
        return f"{len(value)} bytes"
    if isinstance(value, Decimal):
        return f"{value.normalize(WIDE):f}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
