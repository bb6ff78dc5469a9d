"""``stepwell ledger export``: the books as a file."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from rich.console import Console
from rich.progress import Progress, SpinnerColumn, TextColumn

from stepwell.basics.private import private_umask
from stepwell.commands.ledger.flags import Config, Ledger, Since, Tenant, Until, opened, period
from stepwell.console.options import no_option
from stepwell.errors import BadInput
from stepwell.ledger.base import Store
from stepwell.ledger.reading import export as exporting
from stepwell.ledger.reading.export import Sheet
from stepwell.ledger.reading.queries import Period

Format = Literal["csv", "parquet", "spend-log"]
ENDINGS = (".csv", ".parquet")

SHEETS: Mapping[str, Callable[[Store, Period, str | None], Sheet]] = {
    "usage": exporting.usage_sheet,
    "postings": exporting.postings_sheet,
    "spend-log": exporting.spend_log_sheet,
}


def export(
    file: Annotated[Path, Parameter(allow_leading_hyphen=True, validator=no_option)],
    *,
    what: Literal["usage", "postings"] = "usage",
    format: Format | None = None,
    ledger: Ledger = None,
    config: Config = None,
    since: Since = None,
    until: Until = None,
    tenant: Tenant = None,
) -> int:
    """Write the spend log, or every posting, to a file for other programs.

    CSV, or Parquet when the file is called so (needs the extra 'analytics'). Money is in micro-dollars, times
    are microseconds since 1970. ``--format spend-log`` has LiteLLM's columns instead, spend in dollars.
    In CSV a name that a spreadsheet would take for a formula gets a ``'`` before it.

    Example: ``stepwell ledger export november.parquet --since 2026-11-01 --until 2026-12-01``

    Parameters
    ----------
    file
        Where to; ``-`` is standard output. Replaced only when all is written.
    what
        ``usage``: a row for each request and correction. ``postings``: every entry of the books.
    format
        Otherwise the file's name decides.
    """
    if format == "spend-log" and what == "postings":
        raise BadInput("--format spend-log has a row for each request: leave out --what postings")
    _require_known_ending(file, format)
    parquet = format == "parquet" or (format != "csv" and file.suffix.lower() == ".parquet")
    if parquet and str(file) == "-":
        raise BadInput("Parquet is no text: name a file instead of -")
    asked = period(since, until)
    with opened(ledger, config) as store, _progress() as advance:
        sheet = SHEETS["spend-log" if format == "spend-log" else what](store, asked, tenant)
        count = _to_output(sheet, advance) if str(file) == "-" else _to_file(sheet, file, parquet, advance)
    Console(stderr=str(file) == "-", highlight=False).print(
        f"{count:,} rows in {file if str(file) != '-' else 'standard output'}", markup=False, soft_wrap=True
    )
    return 0


def _require_known_ending(file: Path, format: Format | None) -> None:
    """CSV under a name that says otherwise opens as a damaged workbook."""
    if format is None and str(file) != "-" and file.suffix.lower() not in ENDINGS:
        raise BadInput(
            f"{file}: an export is {', '.join(ENDINGS)}; for another name say what it is, as in --format csv"
        )


def _to_output(sheet: Sheet, advance: exporting.Progress) -> int:
    return exporting.write_csv(sheet, sys.stdout, advance)


def _to_file(sheet: Sheet, file: Path, parquet: bool, advance: exporting.Progress) -> int:
    with private_umask(), _whole(file) as part:
        if parquet:
            return exporting.write_parquet(sheet, part, advance)
        with part.open("w", encoding="utf-8", newline="") as text:
            return exporting.write_csv(sheet, text, advance)


@contextmanager
def _whole(file: Path) -> Iterator[Path]:
    """A file beside ``file`` that takes its place when all went well: half an export looks whole."""
    part = file.with_name(f".{file.name}.{os.getpid()}.part")
    try:
        yield part
        part.replace(file)
    finally:
        part.unlink(missing_ok=True)


@contextmanager
def _progress() -> Iterator[exporting.Progress]:
    console = Console(stderr=True)
    columns = (SpinnerColumn(), TextColumn("{task.completed:,} rows"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task("", total=None)
        yield lambda count: bar.update(task, completed=count)
