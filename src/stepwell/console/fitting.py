"""Tables that never cut a number: one that is too wide for the terminal is printed row by row instead."""

from __future__ import annotations

from collections.abc import Iterator

from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

UNBOUNDED = 100_000
"""Columns; a measure of rich's is never more than the width that it is given."""


def fitted(console: Console, table: Table) -> RenderableType:
    """The table if it fits, else a block for each row: its first cell, then ``column: value`` lines."""
    for column in table.columns:
        column.no_wrap = True
    if console.measure(table, options=console.options.update(max_width=UNBOUNDED)).maximum <= console.width:
        return table
    return Text("\n".join(_lines(table)))


def _lines(table: Table) -> Iterator[str]:
    if table.title:
        yield str(table.title)
    heads = [str(column.header) for column in table.columns]
    rows = zip(*(list(column.cells) for column in table.columns), strict=True)
    width = max(map(len, heads), default=0)
    for first, *rest in rows:
        yield f"{heads[0]}: {first}" if heads[0] else str(first)
        told = ((head, str(value)) for head, value in zip(heads[1:], rest, strict=True))
        yield from (f"  {head:<{width}}  {value}" for head, value in told if value)
