"""What all plans write: JSON, an HTML report, a progress bar, money as people read it."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Iterator
from decimal import Decimal
from pathlib import Path
from typing import Any, TypeVar

from rich.console import Console
from rich.progress import track

from stepwell.report.page import Page

Item = TypeVar("Item")


def console_for(json_file: Path | None) -> Console:
    """Tables go to stderr when JSON goes to stdout."""
    return Console(highlight=False, stderr=str(json_file) == "-")


def progress(items: Iterable[Item], total: int, what: str) -> Iterator[Item]:
    """With the time left; gone when it is done."""
    shown = Console(stderr=True)
    yield from track(items, description=what, total=total, console=shown, transient=True)


def write_json(result: dict[str, Any], json_file: Path | None) -> None:
    if json_file is None:
        return
    text = json.dumps(result, indent=2, default=_plain) + "\n"
    if str(json_file) == "-":
        sys.stdout.write(text)
    else:
        json_file.write_text(text, encoding="utf-8")


def _plain(value: object) -> float:
    if isinstance(value, Decimal):
        return float(value)
    raise TypeError(f"{type(value).__name__} has no JSON")


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
