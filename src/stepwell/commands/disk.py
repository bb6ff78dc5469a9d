"""``stepwell disk verify | stat | clear``: look after a directory of KV blocks."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from stepwell.basics.units import format_size
from stepwell.console.options import ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.errors import BadInput
from stepwell.tiers import inspect

Directory = Annotated[Path, Parameter(help="The directory given to 'serve' as --disk-dir.")]


def verify(directory: Directory, *, json_file: ResultOption = None) -> int:
    """Read every record and check it against its checksums. Changes nothing.

    Run it while no server uses the directory. Torn records are what a crash leaves; the next server
    removes them. Damaged records would never be served either: a server checks each record it reads
    and computes the tokens again. Example: ``stepwell disk verify ~/.cache/stepwell/kv``

    Exit code 0: nothing is damaged; 1: something is, or the directory is in use; 2: it holds no store.
    """
    with _progress("checking") as advance:
        result = inspect.verify_store(directory, advance)
    console = console_for(json_file)
    for line in result.damaged_files:
        console.print(f"damaged: {line}", markup=False)
    speed = result.bytes_checked / max(result.seconds, 1e-6)
    console.print(
        f"{result.records} records ({format_size(result.bytes_checked)} at {format_size(int(speed))}/s): "
        f"{result.ok} ok, {result.damaged} damaged, {result.torn} torn, {result.foreign} foreign files",
        markup=False,
    )
    good = "Nothing is damaged." if not result.damaged else "Damaged records are misses; clear removes them."
    console.print(good, style="green" if not result.damaged else "bold red")
    write_json(json_file, result.as_json())
    return 1 if result.damaged else 0


def stat(directory: Directory, *, json_file: ResultOption = None) -> int:
    """Count what lies in a directory: per model and per tenant, blocks, tokens, bytes and ages.

    Reads headers only, so it is quick, and works while a server runs.

    Example: ``stepwell disk stat ~/.cache/stepwell/kv``
    """
    with _progress("reading headers") as advance:
        found = inspect.stat_store(directory, advance)
    console = console_for(json_file)
    for model in found.models:
        console.print(_model_table(model))
    if found.unreadable:
        console.print(f"{found.unreadable} records cannot be read: stepwell disk verify says more")
    bound = "no bound is noted" if found.limit_bytes is None else f"of {format_size(found.limit_bytes)}"
    user = f"in use by process {found.in_use_by}" if found.in_use_by else "not in use"
    console.print(
        f"{directory}: {sum(m.total.blocks for m in found.models)} blocks, "
        f"{sum(m.total.tokens for m in found.models)} tokens, "
        f"{format_size(found.used_bytes)} {bound}, {user}",
        markup=False,
        soft_wrap=True,
    )
    write_json(json_file, found.as_json())
    return 0


def clear(directory: Directory, *, yes: bool = False, json_file: ResultOption = None) -> int:
    """Remove every KV block of every model from a directory, and nothing else.

    Asks first unless --yes. Refused while a server uses the directory. What is lost is time: the
    tokens are computed again. Example: ``stepwell disk clear ~/.cache/stepwell/kv``

    Parameters
    ----------
    yes
        Do not ask.
    """
    if not yes and not _confirmed(directory):
        Console(stderr=True).print("Nothing was removed.")
        return 1
    with _progress("removing") as advance:
        result = inspect.clear_store(directory, advance)
    left = f"; {result.left} files that Stepwell did not write were left" if result.left else ""
    console_for(json_file).print(
        f"{directory}: removed {result.records} records, {format_size(result.size_bytes)}{left}.",
        markup=False,
        soft_wrap=True,
    )
    write_json(json_file, asdict(result))
    return 0


def _confirmed(directory: Path) -> bool:
    found = inspect.stat_store(directory)
    if found.in_use_by:
        return True  # no need to ask: it will be refused with its reason
    if not sys.stdin.isatty():
        raise BadInput(
            "clear asks before it removes anything: give --yes where there is no terminal to answer at"
        )
    blocks = sum(model.total.blocks for model in found.models)
    answer = input(f"Remove {blocks} blocks ({format_size(found.used_bytes)}) from {directory}? [y/N] ")
    return answer.strip().lower() in ("y", "yes")


def _model_table(model: inspect.ModelStat) -> Table:
    ages = f"written {_age(model.newest_age_s)} to {_age(model.oldest_age_s)} ago"
    table = Table(title=escape(f"model {model.fingerprint}: {ages}"), title_justify="left")
    table.add_column("tenant")
    for name in ("blocks", "tokens", "size"):
        table.add_column(name, justify="right")
    for tenant, share in sorted(model.tenants.items()):
        table.add_row(escape(tenant), f"{share.blocks:,}", f"{share.tokens:,}", format_size(share.size_bytes))
    return table


def _age(seconds: float) -> str:
    for unit, length in (("days", 86_400), ("h", 3_600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"


@contextmanager
def _progress(what: str) -> Iterator[inspect.Progress]:
    columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
    console = Console(stderr=True)
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        task = bar.add_task(what, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
