"""What every benchmark shares: who measured (machine, versions), what came out, and the verdicts.

A report is printed as tables with one verdict line per target, and written with ``--json`` in one
shape for all benchmarks, raw samples included, so that somebody else can compute other figures.
"""

from __future__ import annotations

import importlib.metadata
import json
import math
import os
import platform
import shlex
import statistics
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table
from rich.text import Text

from stepwell.errors import BadInput
from stepwell.report.charts import require_charts
from stepwell.units import parse_size


def ending_in(*known: str) -> Callable[[Any, Path | None], None]:
    """A check for an option that writes one kind of file: another name would promise what is not in it."""

    def check(_: Any, file: Path | None) -> None:
        if file is not None and str(file) != "-" and file.suffix.lower() not in known:
            raise ValueError(f"{file}: its name ends in {' or '.join(known)}, as what is written is that")

    return check


PAGES = (".html", ".htm")
HtmlOption = Annotated[Path | None, Parameter(validator=ending_in(*PAGES))]


def _page_with_charts(given: Any, file: Path | None) -> None:
    ending_in(*PAGES)(given, file)
    if file is not None:
        require_charts()


ChartsOption = Annotated[Path | None, Parameter(validator=_page_with_charts)]
"""A page with charts: without the library that draws them nothing is begun."""
JsonOption = Annotated[
    Path | None,
    Parameter(
        name="--json",
        allow_leading_hyphen=True,
        help="Write machine, versions, settings, figures and all raw samples here (-: standard output).",
    ),
]
QuickOption = Annotated[
    bool,
    Parameter(
        name="--quick",
        negative="",
        show_default=False,
        help="A small version of the same measurement, for a first look.",
    ),
]

Positive = Annotated[int, Parameter(validator=Number(gte=1))]
OptionalPositive = Annotated[int | None, Parameter(validator=Number(gte=1), show_default=False)]
"""None: the default that the command's help names."""
Flag = Annotated[bool, Parameter(negative="", show_default=False)]

REDIRECTED_WIDTH = 120
"""Columns when nobody looks: a report in a file is not squeezed."""

PACKAGES = ("stepwell", "llama-cpp-python", "xllamacpp")


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target and what was measured against it. ``measured`` None: this run did not measure it."""

    target: str
    measured: float | None
    limit: float
    unit: str = ""
    at_most: bool = True

    @property
    def reached(self) -> bool | None:
        if self.measured is None:
            return None
        return self.measured <= self.limit if self.at_most else self.measured >= self.limit

    def line(self) -> str:
        """One sentence for people: the target, whether it was reached, and the figure."""
        bound = "at most" if self.at_most else "at least"
        goal = f"{self.target} ({bound} {_number(self.limit)}{self.unit})"
        if self.measured is None:
            return f"{goal}: not measured in this run"
        word = "reached" if self.reached else "NOT reached"
        if not math.isfinite(self.measured):
            return f"{goal}: {word}, no result"
        return f"{goal}: {word}, {_apart(self.measured, self.limit)}{self.unit}"

    def as_json(self) -> dict[str, Any]:
        return {
            "target": self.target,
            "limit": self.limit,
            "at_most": self.at_most,
            "unit": self.unit,
            "line": self.line(),
            "measured": self.measured,
            "reached": self.reached,
        }


def write_between(page: Path, marks: tuple[str, str], text: str) -> None:
    """Put a generated table between two marks of a page. ``BadInput`` when that cannot be done."""
    try:
        before, mark, rest = page.read_text(encoding="utf-8").partition(marks[0])
        _, end, after = rest.partition(marks[1])
        if not (mark and end):
            raise BadInput(f"--page {page} has no place for the table: it needs {marks[0]} and {marks[1]}")
        page.write_text(f"{before}{mark}\n{text}{end}{after}", encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--page {page} cannot be written: {error.strerror}") from error


@dataclass(slots=True)
class Report:
    """One run of one benchmark. ``results`` holds the figures, ``samples`` everything measured."""

    bench: str
    settings: dict[str, Any]
    results: dict[str, Any] = field(default_factory=dict)
    verdicts: list[Verdict] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)
    tables: list[dict[str, Any]] = field(default_factory=list)
    """Those that were printed, cell by cell."""
    date: str = field(default_factory=lambda: datetime.now(UTC).isoformat(timespec="seconds"))

    @property
    def missed(self) -> list[Verdict]:
        """Targets that were measured and not reached."""
        return [verdict for verdict in self.verdicts if verdict.reached is False]

    def as_json(self) -> dict[str, Any]:
        return {
            "bench": self.bench,
            "date": self.date,
            "machine": machine(),
            "versions": versions(),
            "command": command_line(),
            "settings": self.settings,
            "tables": self.tables,
            "results": self.results,
            "verdicts": [verdict.as_json() for verdict in self.verdicts],
            "notes": self.notes,
            "samples": self.samples,
        }

    def finish(self, console: Console, json_file: Path | None) -> None:
        """Print notes and verdicts, and write the file if one was asked for."""
        self.tables = console.tables if isinstance(console, ReportConsole) else []
        for note in self.notes:
            console.print(f"note: {note}", style="yellow", markup=False, highlight=False, soft_wrap=True)
        for verdict in self.verdicts:
            style = {True: "green", False: "bold red", None: "dim"}[verdict.reached]
            console.print(verdict.line(), style=style, markup=False, highlight=False, soft_wrap=True)
        if json_file is not None:
            write_json(json_file, self.as_json())
        console.print(self.last_line(), style="bold", markup=False, highlight=False, soft_wrap=True)

    def last_line(self) -> str:
        measured = [verdict for verdict in self.verdicts if verdict.reached is not None]
        if not measured:
            return f"{self.bench}: measured; no target applies to this run."
        reached = sum(1 for verdict in measured if verdict.reached)
        return f"{self.bench}: {reached} of {len(measured)} measured targets reached."


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write to a file, or to standard output for ``-``. ``BadInput`` when the file cannot be written."""
    text = json.dumps(_finite(content), indent=1, allow_nan=False) + "\n"
    if str(file) == "-":
        sys.stdout.write(text)
        return
    try:
        file.write_text(text, encoding="utf-8")
    except OSError as error:
        raise BadInput(f"--json {file} cannot be written: {error.strerror}") from error


def _finite(value: Any) -> Any:
    """JSON knows neither infinity nor nan; what has no result is null there."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


def require_writable(file: Path | None, flag: str = "--json") -> None:
    """Say that a file cannot be written before an hour of measuring, not after it."""
    if file is None or str(file) == "-":
        return
    if not file.absolute().parent.is_dir():
        raise BadInput(f"{flag} {file}: the directory {file.absolute().parent} does not exist")
    if file.is_dir():
        raise BadInput(f"{flag} {file} is a directory: give the name of a file")


def size_bytes(flag: str, text: str) -> int:
    """A size given on the command line. ``BadInput`` names the flag."""
    try:
        return parse_size(text)
    except ValueError as error:
        raise BadInput(f"{flag}: {error}") from error


def machine() -> dict[str, Any]:
    """What the figures depend on besides the code."""
    return {
        "cpu": _cpu_model(),
        "cores": usable_cores(),
        "memory_bytes": memory_bytes(),
        "system": platform.system(),
        "arch": platform.machine(),
    }


def versions() -> dict[str, str | None]:
    """Versions of what was measured; None: not installed."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


def usable_cores() -> int:
    """Cores this process may use (a container often has fewer than the machine)."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> int:
    """Physical memory of the machine."""
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")


def available_memory_bytes() -> int:
    """Memory that can be had now without pushing anything out (Linux; elsewhere all there is)."""
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return memory_bytes()
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return memory_bytes()


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that ``percent`` (1 to 99) of the samples do not pass, linear between neighbours."""
    if not values:
        raise ValueError("no samples: a percentile needs at least one")
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)


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


def command_line() -> str:
    """The command as it was given, but for where its figures go, and for the folders of this machine."""
    words = ["stepwell", *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])]
    if "--json" in words[:-1]:
        at = words.index("--json")
        del words[at : at + 2]
    return shlex.join(words)


def report_console(json_file: Path | None) -> ReportConsole:
    """Tables and verdicts go to standard output, unless the JSON was asked for there."""
    console = ReportConsole(highlight=False, stderr=str(json_file) == "-")
    if not console.is_terminal:
        console.width = REDIRECTED_WIDTH
    return console


class Ticker:
    """Progress of one benchmark: a moving bar on a terminal, plain lines elsewhere."""

    def __init__(self, progress: Progress | None, console: Console) -> None:
        self._progress = progress
        self._console = console
        self._task = progress.add_task("", total=None) if progress is not None else None

    def phase(self, text: str, total: int | None = None) -> None:
        """A new part of the work begins."""
        if self._progress is None or self._task is None:
            self._console.print(f"... {text}", markup=False, soft_wrap=True)
        else:
            self._progress.reset(self._task, description=text, total=total)

    def advance(self, count: int = 1) -> None:
        if self._progress is not None and self._task is not None:
            self._progress.advance(self._task, count)


@contextmanager
def ticker() -> Iterator[Ticker]:
    """Show progress on the error stream, so that a redirected report stays clean."""
    console = Console(stderr=True, highlight=False)
    if not console.is_terminal:
        yield Ticker(None, console)
        return
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        yield Ticker(progress, console)


def _number(value: float, digits: int = 3) -> str:
    if value == int(value):
        return f"{int(value):,}"
    return f"{value:.{digits}g}" if abs(value) < 100 else f"{value:,.{digits - 3}f}"


def _apart(value: float, limit: float) -> str:
    """As many digits as it takes to tell a figure from its limit."""
    shown = (_number(value, digits) for digits in range(3, 10))
    return next((text for text in shown if value == limit or text != _number(limit)), repr(value))


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None


def _cpu_model() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    for line in lines:
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return platform.processor()
