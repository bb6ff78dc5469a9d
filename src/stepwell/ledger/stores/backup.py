"""A copy of a ledger in a file, taken while a server writes to it."""

from __future__ import annotations

import contextlib
import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

from stepwell.basics.private import private_file
from stepwell.errors import BadInput, StepwellError
from stepwell.ledger.base import NoLedger

PAGES_AT_ONCE = 4_096
"""16 MiB; between two such pieces the server may write."""

Progress = Callable[[int, int], None]
"""Pages done, and pages in all."""


def back_up(source: Path, target: Path, progress: Progress = lambda done, total: None) -> None:
    """Copy ``source`` as it stands at one moment to ``target``, which must be new: whole or not at all, and
    on disk when this returns. Raises ``BadInput`` or ``StepwellError``."""
    if target.exists():
        raise BadInput(f"{target} is there already: name a new file")
    if not source.is_file():
        raise NoLedger(f"there is no ledger at {source}")
    part = target.with_name(target.name + ".part")
    try:
        private_file(part, truncate=True).close()
        _copy(source, part, progress)
        _sync(part)
        part.replace(target)
        _sync(target.absolute().parent)
    except sqlite3.Error as error:
        raise StepwellError(f"{source} cannot be copied to {target}: {error}") from error
    except OSError as error:
        raise StepwellError(f"{target} cannot be written: {error.strerror}") from error
    finally:
        with contextlib.suppress(OSError):
            part.unlink(missing_ok=True)


def _copy(source: Path, part: Path, progress: Progress) -> None:
    uri = f"file:{quote(str(source.absolute()))}?mode=ro"
    with (
        contextlib.closing(sqlite3.connect(uri, uri=True, isolation_level=None)) as books,
        contextlib.closing(sqlite3.connect(part)) as copy,
    ):
        books.execute("BEGIN")  # one moment of the books: a copy that begins anew at each write never ends
        books.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        books.backup(
            copy,
            pages=PAGES_AT_ONCE,
            progress=lambda status, left, total: progress(total - left, total),
        )
        # One file, however it is read: readers of a write-ahead log leave two more beside it.
        copy.execute("PRAGMA journal_mode = DELETE")


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
