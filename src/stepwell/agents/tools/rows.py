"""What a question to tables comes back with, and how a model reads it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

CELL_CHARS = 200


@dataclass(frozen=True, slots=True)
class Rows:
    """A result: names of the columns, the first rows, and how many there are.

    Of values of files that are longer than 10,000 signs the rows hold the beginning (``sql_wire``).
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    count: int
    at_least: bool = False
    """Counting ended there: there may be more."""


def show_rows(result: Rows) -> str:
    """A Markdown table, and how many rows there are."""
    if not result.rows:
        return f"0 rows (columns: {', '.join(result.columns)})"
    lines = [_row(result.columns), _row(["---"] * len(result.columns)), *(_row(row) for row in result.rows)]
    count = f"more than {result.count}" if result.at_least else str(result.count)
    cut = result.at_least or result.count > len(result.rows)
    lines.append(f"{count} rows, the first {len(result.rows)} shown" if cut else plural(result.count))
    return "\n".join(lines)


def plural(count: int) -> str:
    """``1 row``, ``2 rows``."""
    return "1 row" if count == 1 else f"{count} rows"


def _row(cells: Sequence[Any]) -> str:
    return "| " + " | ".join(_cell(cell) for cell in cells) + " |"


def _cell(value: Any) -> str:
    text = "NULL" if value is None else " ".join(str(value).split()).replace("|", "\\|")
    return text if len(text) <= CELL_CHARS else text[:CELL_CHARS] + "..."
