"""``stepwell run --watch``: the same run again whenever one of its files changes."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from rich.console import Console

from stepwell.errors import StepwellError

POLL_S = 0.5


def run_on_change(
    paths: Sequence[Path],
    work: Callable[[], int],
    console: Console,
    sleep: Callable[[float], None] = time.sleep,
) -> int:
    """``work`` at once and after every change of ``paths``, until Ctrl-C; the code of its last run.

    A fault of the input, such as a crew's file that is half written, is said, and the next change waited for.
    """
    code = 0
    while True:
        seen = _stamps(paths)
        try:
            code = work()
        except StepwellError as error:
            code = error.exit_code
            console.print(f"stepwell: {error}", markup=False, soft_wrap=True)
        names = ", ".join(path.name for path in paths)
        console.print(f"Watching {names}: the next change runs it again; Ctrl-C ends.", markup=False)
        try:
            while _stamps(paths) == seen:
                sleep(POLL_S)
        except KeyboardInterrupt:
            return code


def _stamps(paths: Sequence[Path]) -> list[tuple[int, int] | None]:
    """When each was changed, and its size; None: it is not there, as while an editor writes it anew."""
    made: list[tuple[int, int] | None] = []
    for path in paths:
        try:
            found = path.stat()
            made.append((found.st_mtime_ns, found.st_size))
        except OSError:
            made.append(None)
    return made
