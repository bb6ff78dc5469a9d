"""Which processes use a directory now: one locked file each, which the kernel unlocks when its process dies.

A process that is killed leaves its file behind and no lock on it. The next one to look takes the lock, and
knows by that that the process is dead and that what it had begun has no owner any more.
"""

from __future__ import annotations

import fcntl
import os
import re
import secrets
from collections.abc import Callable

from stepwell.tiers.files import Files

_ALIVE = re.compile(r"alive-([0-9a-f]{12})")
_FLAGS = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC


class Participants:
    """This process's place among those that use the directory behind ``directory`` (a descriptor)."""

    def __init__(self, files: Files, directory: int) -> None:
        self._files = files
        self._directory = directory
        self.me = secrets.randbits(47) + 1  # 0 stands for no process
        self._fd = os.open(_name(self.me), _FLAGS, 0o600, dir_fd=directory)
        fcntl.flock(self._fd, fcntl.LOCK_EX)

    def bury_dead(self, take_over: Callable[[int], None]) -> int:
        """Call ``take_over`` once for every process that has died; returns how many others live.

        Its file goes last: if we die in the middle, the next one buries it again.
        """
        living = 0
        for number in self._others():
            try:
                fd = os.open(_name(number), os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=self._directory)
            except FileNotFoundError:
                continue  # it has just left
            try:
                fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except OSError:
                living += 1
            else:
                take_over(number)
                self._remove(number)
            finally:
                os.close(fd)
        return living

    def _others(self) -> list[int]:
        found = (_ALIVE.fullmatch(info.name) for info in self._files.list(self._directory))
        return sorted(number for match in found if match and (number := int(match[1], 16)) != self.me)

    def close(self) -> None:
        """Leave: the file goes, then its lock."""
        self._remove(self.me)
        os.close(self._fd)

    def _remove(self, number: int) -> None:
        try:
            self._files.unlink(_name(number), self._directory)
        except FileNotFoundError:
            return


def _name(number: int) -> str:
    return f"alive-{number:012x}"
