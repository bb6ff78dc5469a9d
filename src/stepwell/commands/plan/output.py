"""What all plans write: JSON, an HTML report, a progress bar, money as people read it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from stepwell.basics.this_machine import machine
from stepwell.console.report import command_line, versions
from stepwell.report.page import Page

Item = TypeVar("Item")


def progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """With the time left; gone when it is done."""
    shown = Console(stderr=True)
    yield from track(items, description=what, total=total, console=shown, transient=True)


def kept(
    name: str,
    inputs: Mapping[str, object],
    tables: Sequence[tuple[str, Sequence[str], Sequence[Sequence[str]]]],
) -> dict[str, Any]:
    """What makes the JSON of a command a result that ``bench page`` can show: the command, when and where it
    ran, and its tables (title, head, rows)."""
    return {
        "bench": name,
        "date": datetime.now(UTC).isoformat(timespec="seconds"),
        "machine": machine(),
        "versions": versions(),
        "command": command_line(),
        "settings": {key: str(value) for key, value in inputs.items()},
        "tables": [
            {"title": title, "columns": list(head), "rows": [list(row) for row in rows]}
            for title, head, rows in tables
        ],
        "verdicts": [],
    }


def write_page(page: Page, html: Path | None, console: Console) -> None:
    if html is not None:
        page.write(html)
        console.print(f"report: {html}", markup=False)


def billions(amount: Decimal) -> str:
    """``$-69.8 bn``; smaller amounts in millions."""
    if abs(amount) < 1_000_000_000:
        return f"${float(amount) / 1e6:,.1f} m"
    return f"${float(amount) / 1e9:,.1f} bn"


def amount(value: Decimal) -> str:
    """Whole above a thousand, four figures below."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{float(value):.4g}"
