"""One server of a name beside a ledger in a file: an flock'd file that goes when its server does."""

from __future__ import annotations

import contextlib
import fcntl
import os
from dataclasses import dataclass
from pathlib import Path

from stepwell.errors import StepwellError


class LockHeld(StepwellError):
    """Another process has it; ``holder`` is the number of that process, or ``unknown``."""

    def __init__(self, holder: str) -> None:
        super().__init__(f"held by process {holder}")
        self.holder = holder


@dataclass(frozen=True, slots=True)
class NodeLock:
    """Held from ``take`` until ``release`` or the death of the process: the kernel gives it back.

    ``release`` removes the file, so that none is left per name that ever was. That is safe because it is
    removed while it is held, and because a taker of the lock looks whether the file that it locked is still
    the one of that name: it may have opened the file of a holder that was about to go. A process that is
    killed leaves its file, and the next of its name locks that one.
    """

    path: Path
    fd: int

    @classmethod
    def take(cls, path: Path) -> NodeLock:
        """Without waiting. Raises ``LockHeld``, and ``OSError`` where no file can be made."""
        while True:
            fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
            try:
                _lock(fd)
                is_there = _is_at(fd, path)
            except BaseException:
                os.close(fd)
                raise
            if is_there:
                _write_holder(fd)
                return cls(path, fd)
            os.close(fd)

    def release(self) -> None:
        """Once. A file that cannot be removed stays, and is no harm."""
        with contextlib.suppress(OSError):
            if _is_at(self.fd, self.path):  # else a person removed it, and another process has made a new one
                self.path.unlink()
        os.close(self.fd)


def _lock(fd: int) -> None:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        holder = os.pread(fd, 32, 0).split(b"\n")[0].decode("ascii", "replace")
        raise LockHeld(holder or "unknown") from error


def _is_at(fd: int, path: Path) -> bool:
    try:
        return os.path.samestat(os.fstat(fd), os.lstat(path))
    except FileNotFoundError:
        return False


def _write_holder(fd: int) -> None:
    with contextlib.suppress(OSError):  # full: the lock holds, only the number stays untold
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"{os.getpid()}\n".encode(), 0)
