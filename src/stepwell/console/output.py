"""What a command prints: tables and sentences for people, one JSON shape for programs."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterable, Mapping, Sequence
from decimal import Decimal
from pathlib import Path
from string import Formatter
from typing import Any

from rich.console import Console
from rich.markup import escape
from rich.table import Table
from rich.text import Text

from stepwell.errors import BadInput

REDIRECTED_WIDTH = 120
"""Columns without a terminal: a report in a file is not squeezed."""


def table(title: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> Table:
    """A table whose first column is text and whose other columns are figures."""
    made = Table(title=title, title_justify="left")
    for index, column in enumerate(columns):
        made.add_column(column, justify="left" if index == 0 else "right")
    for row in rows:
        made.add_row(*(escape(cell) for cell in row))
    return made


def sheet(
    title: str,
    columns: Mapping[str, str] | Sequence[tuple[str, str]],
    rows: Iterable[Mapping[str, Any] | object],
) -> Table:
    """A table of figures: each column with the form of its cells, ``{"p99, us": "{step_us_p99:,.0f}"}``.

    Names are keys of a row that is a mapping, or attributes of any other. A figure that is None is a dash.
    """
    pairs = list(columns.items()) if isinstance(columns, Mapping) else columns
    cells = [[_cell(form, row) for _, form in pairs] for row in rows]
    return table(title, [name for name, _ in pairs], cells)


def facts(
    title: str, rows: Mapping[str, str], figures: Mapping[str, Any] | object, head: tuple[str, str] = ("", "")
) -> Table:
    """A table of one thing: a line for each figure, by what it is called, with the form of its cell."""
    return table(title, head, [(name, _cell(form, figures)) for name, form in rows.items()])


class _Figures(dict[str, Any]):
    """The figures of a row by name."""

    def __init__(self, row: Any) -> None:
        super().__init__(row if isinstance(row, Mapping) else {})
        self._row = row

    def __missing__(self, name: str) -> Any:
        return self._row[name] if isinstance(self._row, Mapping) else getattr(self._row, name)


def _cell(form: str, row: Any) -> str:
    figures = _Figures(row)
    names = [name for _, name, _, _ in Formatter().parse(form) if name is not None]
    absent = any(figures[name] is None for name in names if name.isidentifier())
    return "-" if absent else form.format_map(figures)


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
    """Write to a file, or to standard output for ``-``; None: it is not asked for.

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
