"""Where other threads leave events for the loop, and the bell that wakes it."""

from __future__ import annotations

import threading
from collections import deque
from dataclasses import dataclass, field

from stepwell.policy.types import Event


@dataclass(slots=True)
class Inbox:
    """A queue of events. ``bell`` is its lock (reentrant) and its condition."""

    events: deque[Event] = field(default_factory=deque)
    bell: threading.Condition = field(default_factory=threading.Condition)
    rung: bool = False

    def put(self, event: Event) -> None:
        with self.bell:
            self.events.append(event)
            self._ring()

    def ring(self) -> None:
        """Wake the loop although there is no event here (a transfer has ended)."""
        with self.bell:
            self._ring()

    def _ring(self) -> None:
        self.rung = True
        self.bell.notify()

    def drain(self) -> list[Event]:
        """Take everything."""
        with self.bell:
            self.rung = False
            taken = list(self.events)
            self.events.clear()
            return taken

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the bell; whether it has rung since the last ``drain``."""
        with self.bell:
            return self.rung or self.bell.wait(timeout_s)
