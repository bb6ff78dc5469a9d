"""Where other threads leave events for the loop, and the bell that wakes it."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Collection, Iterable
from dataclasses import dataclass, field

from stepwell.policy.types import Event, Hinted, RequestArrived, RequestCancelled


@dataclass(slots=True)
class Inbox:
    """A queue of events. ``bell`` is its lock (reentrant) and its condition."""

    events: deque[Event] = field(default_factory=deque)
    bell: threading.Condition = field(default_factory=threading.Condition)
    rung: bool = False
    holding: bool = False
    """While the model is not there for them, requests stay here."""

    @property
    def held(self) -> int:
        """Requests that are here, that the loop has not seen and that a client still waits for."""
        with self.bell:
            return len(_open(self.events))

    def arriving(self) -> frozenset[str]:
        """The service tiers of requests that the loop will see next; none while they are held."""
        if self.holding or not self.events:
            return frozenset()
        with self.bell:
            return frozenset(e.caller.service_tier for e in self.events if isinstance(e, RequestArrived))

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
        """Take everything; but for requests, and what was said of them since, while these are held. One that
        was cancelled is held no longer: nothing is loaded for it."""
        with self.bell:
            self.rung = False
            taken = list(self.events)
            self.events.clear()
            if self.holding:
                held = _open(taken)
                self.events.extend(event for event in taken if _is_of(event, held))
                taken = [event for event in taken if not _is_of(event, held)]
            return taken

    def take_held(self) -> list[int]:
        """The requests that are held; they, and what was said of them, are not here any more."""
        with self.bell:
            held = _open(self.events)
            self.events = deque(event for event in self.events if not _is_of(event, held))
            return list(held)

    def hold(self, on: bool) -> None:
        with self.bell:
            self.holding = on
            if not on and self.events:
                self._ring()

    def wait(self, timeout_s: float | None) -> bool:
        """Wait for the bell; whether it has rung since the last ``drain``."""
        with self.bell:
            return self.rung or self.bell.wait(timeout_s)


def _open(events: Iterable[Event]) -> dict[int, None]:
    """Requests that arrived and were not cancelled, in their order."""
    arrived: dict[int, None] = {}
    for event in events:
        if isinstance(event, RequestArrived):
            arrived[event.request] = None
        elif isinstance(event, RequestCancelled):
            arrived.pop(event.request, None)
    return arrived


def _is_of(event: Event, requests: Collection[int]) -> bool:
    return isinstance(event, RequestArrived | RequestCancelled | Hinted) and event.request in requests
