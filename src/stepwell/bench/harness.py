"""What every measurement shares: its options, progress, arms in turn, tables, verdicts, JSON and exit code.

A command is a function under ``@bench``. It is given a ``BenchRun``, which is its report and its screen::

    @bench("sleep", fails=True)
    def main(run: BenchRun, *, rounds: Positive = 3, model: ModelOption = "smollm2") -> None:
        \"""Measure how long a sleep takes. Example: stepwell bench sleep\"""
        run.settings = {"rounds": rounds, "model": model}
        for number, arm in in_turn(rounds, ("short", "long"), run.progress):
            run.samples.append({"arm": arm, "s": measured(arm)})
        run.show(sheet("Sleeps", {"arm": "{arm}", "s": "{s:.2f}"}, run.samples))
        run.verdicts = [Verdict("the longest sleep", max(one["s"] for one in run.samples), 1.0, " s")]

``--quick`` and ``--json`` come by themselves. A row for it in ``stepwell.cli.BENCHES`` makes it a command.
"""

from __future__ import annotations

import functools
import inspect
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any, Concatenate, ParamSpec, TypeVar, get_type_hints

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.table import Table

from stepwell.console.options import JsonOption, QuickOption
from stepwell.console.output import report_console
from stepwell.console.progress import Ticker, ticker
from stepwell.console.report import Report, Verdict
from stepwell.errors import BadInput

NULL_MODEL = "null"
"""The model of the engine that computes nothing at once: for trying a measurement out."""

Options = ParamSpec("Options")
ArmName = TypeVar("ArmName")
Found = TypeVar("Found")

ModelOption = Annotated[
    str, Parameter(help="smollm2, gemma3, the path of a GGUF file, or null (computes nothing).")
]
RealModelOption = Annotated[str, Parameter(help="smollm2, gemma3 or the path of a GGUF file.")]
ThreadsOption = Annotated[
    int | None,
    Parameter(
        validator=Number(gte=1),
        help="Threads of everything that computes (default: the cores there are).",
    ),
]
SeedOption = Annotated[int, Parameter(validator=Number(gte=0), help="Decides all that is drawn by chance.")]
DirectoryOption = Annotated[
    Path | None,
    Parameter(
        help="Where to do it: in a new directory in there, removed afterwards (default: the system's "
        "temporary directory). Name one on the disk that matters.",
    ),
]


@dataclass(slots=True)
class BenchRun(Report):
    """One run of one measurement: the report that it fills, and how it talks meanwhile."""

    quick: bool = False
    json_file: Path | None = None
    progress: Ticker = field(kw_only=True)
    shown: list[Table | str] = field(default_factory=list)
    when_written: list[Callable[[], None]] = field(default_factory=list)
    """What is done once the report is safe in its file."""

    def show(self, *what: Table | str) -> None:
        """Tables and sentences, printed when all is measured."""
        self.shown += what


def bench(
    name: str, *, fails: bool = False
) -> Callable[[Callable[Concatenate[BenchRun, Options], int | None]], Callable[..., int]]:
    """Makes a command of a measurement. ``fails``: exit code 1 when a target is missed; a measurement that
    returns a code has that one."""

    def command(measure: Callable[Concatenate[BenchRun, Options], int | None]) -> Callable[..., int]:
        @functools.wraps(measure)
        def main(*words: Any, quick: bool = False, json_file: Path | None = None, **options: Any) -> int:
            console = report_console(json_file)
            with ticker() as progress:
                run = BenchRun(name, {}, quick=quick, json_file=json_file, progress=progress)
                code = measure(run, *words, **options)
            for one in run.shown:
                console.print(one) if isinstance(one, Table) else console.print(one, markup=False)
            run.finish(console, json_file)
            for do in run.when_written:
                do()
            return int(fails and bool(run.missed)) if code is None else code

        _sign(main, measure)
        return main

    return command


def _sign(main: Callable[..., int], measure: Callable[..., Any]) -> None:
    """The command line is that of the measurement without its run, with the options that all have."""
    taken = inspect.signature(measure)
    hints = get_type_hints(measure, include_extras=True)
    _, *own = taken.parameters.values()
    shared = [
        inspect.Parameter("quick", inspect.Parameter.KEYWORD_ONLY, default=False, annotation=QuickOption),
        inspect.Parameter("json_file", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=JsonOption),
    ]
    own = [one.replace(annotation=hints[one.name]) for one in own]
    signed: Any = main
    signed.__signature__ = taken.replace(parameters=[*own, *shared], return_annotation=int)
    signed.__annotations__ = {one.name: one.annotation for one in (*own, *shared)} | {"return": int}


def in_turn(rounds: int, arms: Sequence[ArmName], progress: Ticker) -> Iterator[tuple[int, ArmName]]:
    """Every arm in every round, in the other order every second time: what one arm leaves behind (caches,
    a busy moment of the machine) meets all alike."""
    for number in range(rounds):
        for arm in arms if number % 2 == 0 else arms[::-1]:
            yield number, arm
            progress.advance()


def both_ways(
    rounds: int, measure: Callable[[int, bool], Found], progress: Ticker
) -> tuple[list[Found], list[Found]]:
    """The same work without and with something, in turn; ``measure`` is told the round, and which it is."""
    ways: tuple[list[Found], list[Found]] = [], []
    for number, on in in_turn(rounds, (False, True), progress):
        ways[on].append(measure(number, on))
    return ways


@contextmanager
def scratch(name: str, directory: Path | None = None) -> Iterator[Path]:
    """A new directory, removed afterwards whatever still writes to it."""
    prefix = f"stepwell-{name}-"
    with tempfile.TemporaryDirectory(prefix=prefix, dir=directory, ignore_cleanup_errors=True) as place:
        yield Path(place)


def none_of(counts: Mapping[str, int], what: Mapping[str, str]) -> list[Verdict]:
    """A verdict for each thing that must never happen: what it is called, by the name of its counter."""
    return [Verdict(text, counts[name], 0) for name, text in what.items()]


def words_of(flag: str, text: str, known: Sequence[str]) -> tuple[str, ...]:
    """``a,b`` from the command line. ``BadInput`` for none, and for a word that is not known."""
    words = tuple(word.strip() for word in text.split(",") if word.strip())
    for word in words or ("",):
        if word not in known:
            raise BadInput(f"{flag} {word!r}: there is {', '.join(known)}")
    return words


def numbers_of(flag: str, text: str, what: str, least: int, most: int) -> tuple[int, ...]:
    """``8,64`` from the command line. ``BadInput``, which says ``what`` is counted, for anything else."""
    words = [word.strip() for word in text.split(",") if word.strip()]
    for word in words or [text]:
        if not (word.isascii() and word.isdigit() and len(word) < 20 and least <= int(word) <= most):
            raise BadInput(
                f"{flag} {word!r}: {what} are whole numbers from {least:,} to {most:,}, with commas"
            )
    return tuple(int(word) for word in words)


def require_real(model: str) -> None:
    """A missing model is said before anything is started or measured. ``BadInput``."""
    from stepwell.engines.models import resolve_model

    if model != NULL_MODEL:
        resolve_model(model)


def grown(before: Mapping[str, int], after: Mapping[str, int], *names: str) -> dict[str, int]:
    """By how much counters have grown."""
    return {name: after[name] - before[name] for name in names}
