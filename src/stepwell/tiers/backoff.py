"""What to do about a disk that keeps failing: try less and less often, and say so once."""

from __future__ import annotations

import logging
from collections.abc import Callable

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 1.0
LONGEST_PAUSE_S = 60.0


class LineLimit:
    """One warning a minute at most, for all that share it: what fails and works by turns would fill a log."""

    def __init__(self, clock: Callable[[], float], every_s: float = 60.0) -> None:
        self._clock, self._every_s = clock, every_s
        self._next_s = clock()

    def allows(self) -> bool:
        """Whether a line may be written now; if so, the next one has to wait."""
        now_s = self._clock()
        if now_s < self._next_s:
            return False
        self._next_s = now_s + self._every_s
        return True


class Backoff:
    """After a failure, no further try for a while; twice as long after each further one.

    One log line per kind of failure and one when things work again, not one per block: a full disk
    would otherwise fill the log, on the same disk. ``lines`` limits them further.
    """

    def __init__(self, what: str, clock: Callable[[], float], lines: LineLimit | None = None) -> None:
        self._what = what
        self._clock = clock
        self._lines = lines
        self._pause_s = 0.0
        self._until_s = 0.0
        self._said: set[str] = set()
        self.failures = 0
        """Since the last success."""

    def ready(self) -> bool:
        """Whether it is time to try."""
        return self._clock() >= self._until_s

    def failed(self, kind: str) -> None:
        self.failures += 1
        self._pause_s = min(max(2 * self._pause_s, FIRST_PAUSE_S), LONGEST_PAUSE_S)
        self._until_s = self._clock() + self._pause_s
        if kind not in self._said and (self._lines is None or self._lines.allows()):
            self._said.add(kind)
            log.warning("%s fails: %s; blocks are dropped or computed again instead", self._what, kind)

    def worked(self) -> None:
        if self.failures and (self._lines is None or self._said):
            log.warning("%s works again after %d failures", self._what, self.failures)
        self.failures, self._pause_s, self._until_s = 0, 0.0, 0.0
        self._said.clear()
