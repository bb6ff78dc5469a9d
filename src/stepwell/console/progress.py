"""Progress of a long command: a moving bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn


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
