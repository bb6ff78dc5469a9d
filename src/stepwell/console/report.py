"""A report of measurements: what measured (machine, versions, command), what came out, and the verdicts.

It is printed as tables with one verdict line per target, and written with ``--json`` in one shape for all,
raw samples included, so that other figures can be computed from it.
"""

from __future__ import annotations

import importlib.metadata
import math
import platform
import shlex
import sys
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rich.console import Console

from stepwell.basics.this_machine import machine
from stepwell.console.output import ReportConsole, write_json

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
        write_json(json_file, self.as_json())
        console.print(self.last_line(), style="bold", markup=False, highlight=False, soft_wrap=True)

    def last_line(self) -> str:
        measured = [verdict for verdict in self.verdicts if verdict.reached is not None]
        if not measured:
            return f"{self.bench}: measured; no target applies to this run."
        reached = sum(1 for verdict in measured if verdict.reached)
        return f"{self.bench}: {reached} of {len(measured)} measured targets reached."


def versions() -> dict[str, str | None]:
    """Versions of what was measured; None: not installed."""
    return {name: _version(name) for name in PACKAGES} | {"python": platform.python_version()}


def command_line() -> str:
    """The command as it was given, but for where its figures go, and for the folders of this machine."""
    words = ["stepwell", *(Path(word).name if Path(word).is_absolute() else word for word in sys.argv[1:])]
    if "--json" in words[:-1]:
        at = words.index("--json")
        del words[at : at + 2]
    return shlex.join(words)


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
