"""Files and folders for the user of the server alone: what customers wrote and what it cost lies in them.

The mode is given when a thing is made, so there is no moment in which others could open it, and set again
on what an earlier version or another umask left open.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO

FOLDER_MODE, FILE_MODE, UMASK = 0o700, 0o600, 0o077


@contextmanager
def private_umask() -> Iterator[None]:
    """Whatever the process makes meanwhile, libraries and children included, is private."""
    before = os.umask(UMASK)
    try:
        yield
    finally:
        os.umask(before)


def private_folder(path: Path) -> None:
    """Make a folder that is ours alone, or close one that is there. Raises ``OSError``."""
    path.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)
    if _is_open(path.stat(), FOLDER_MODE):
        path.chmod(FOLDER_MODE)


def private_parent(path: Path) -> None:
    """Make the folder that ``path`` is to lie in where it is missing. One that is there belongs to a user
    (a home, ``/tmp``) and stays as it is. Raises ``OSError``."""
    path.parent.mkdir(mode=FOLDER_MODE, parents=True, exist_ok=True)


def begun_privately(path: Path | str) -> None:
    """Make an empty file that is ours alone where none is, for a library that opens it by its path; what is
    there, and ``:memory:``, is left as it is. Raises ``OSError``."""
    if path != ":memory:" and not Path(path).exists():
        private_file(Path(path)).close()


def private_file(path: Path, *, new: bool = False, truncate: bool = False) -> BinaryIO:
    """Open a file for reading and writing that is ours alone; made when it is missing.

    ``new``: it must be missing (``FileExistsError``). ``truncate``: begin it anew. What is no plain file,
    such as a pipe, is opened for writing and keeps its mode. Raises ``OSError``.
    """
    plain = not path.exists() or path.is_file()
    flags = (os.O_RDWR if plain else os.O_WRONLY) | os.O_CREAT | os.O_CLOEXEC
    flags |= (os.O_EXCL if new else 0) | (os.O_TRUNC if truncate else 0)
    descriptor = os.open(path, flags, FILE_MODE)
    try:
        if plain and _is_open(os.fstat(descriptor), FILE_MODE):
            os.fchmod(descriptor, FILE_MODE)
        return os.fdopen(descriptor, "r+b" if plain else "wb")
    except BaseException:
        os.close(descriptor)
        raise


def _is_open(found: os.stat_result, mode: int) -> bool:
    """Whether it is ours and not as it should be; another's mode cannot be changed."""
    return found.st_uid == os.geteuid() and stat.S_IMODE(found.st_mode) != mode
