"""A number that is cut is a wrong number."""

from __future__ import annotations

import io

import pytest
from rich.console import Console
from rich.table import Table

from stepwell.console.fitting import fitted


def shown(width: int) -> str:
    table = Table(title="runs")
    table.add_column("policy")
    for number in range(6):
        table.add_column(f"column {number}", justify="right")
    table.add_row("lru", *(f"{number}23,456.789" for number in range(6)))
    console = Console(file=io.StringIO(), width=width)
    console.print(fitted(console, table), soft_wrap=True)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


@pytest.mark.parametrize("width", [20, 40, 80, 120, 200])
def test_every_number_is_whole_at_every_width(width: int) -> None:
    text = shown(width)
    assert "…" not in text
    assert [number for number in range(6) if f"{number}23,456.789" not in text] == []


def test_a_table_that_fits_stays_a_table() -> None:
    assert "┃" in shown(200)
    assert "policy: lru\n  column 0  023,456.789\n" in shown(80)
