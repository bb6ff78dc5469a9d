"""What a command prints: tables and sentences for people, one JSON shape for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Sequence
from decimal import Decimal
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stepwell.errors import BadInput

REDIRECTED_WIDTH = 120
"""Columns when nobody looks: a report in a file is not squeezed."""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and whose other columns are figures."""
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made


class ReportConsole(Console):
    """Keeps the tables that it prints, for the file of the report."""

    def __init__(self, **options: Any) -> None:
        super().__init__(**options)
        self.tables: list[dict[str, Any]] = []

    def print(self, *objects: Any, **options: Any) -> None:
        self.tables += [_as_data(one) for one in objects if isinstance(one, Table)]
        super().print(*objects, **options)


def _as_data(made: Table) -> dict[str, Any]:
    columns = [[_plain(cell) for cell in column.cells] for column in made.columns]
    return {
        "title": _plain(made.title or ""),
        "columns": [_plain(column.header) for column in made.columns],
        "rows": [list(row) for row in zip(*columns, strict=True)],
    }


def _plain(cell: Any) -> str:
    return Text.from_markup(cell).plain if isinstance(cell, str) else str(cell)


def report_console(json_file: Path | None) -> ReportConsole:
    """Tables and verdicts go to standard output, unless the JSON was asked for there."""
    console = ReportConsole(highlight=False, stderr=str(json_file) == "-")
    if not console.is_terminal:
        console.width = REDIRECTED_WIDTH
    return console


def console_for(json_file: Path | None) -> Console:
    """Words and tables go to standard error where standard output is for JSON."""
    return Console(highlight=False, stderr=str(json_file) == "-")


def write_json(file: Path | None, content: dict[str, Any]) -> None:
    """Write to a file, or to standard output for ``-``; None: nobody asked for it.

    ``BadInput`` when the file cannot be written.
    """
    if file is None:
        return
    text = json.dumps(_finite(content), indent=1, allow_nan=False, default=_number) + "\n"
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"{file} cannot be written: {error.strerror}") from error


def _number(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


def _finite(value: Any) -> Any:
    """JSON knows neither infinity nor nan; what has no result is null there."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
