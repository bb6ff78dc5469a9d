"""Threads that do the tiers' I/O beside the loop, and an alarm clock for what takes too long."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from typing import Protocol

Job = Callable[[], None]


class Worker(Protocol):
    """Runs jobs one after the other, in order, somewhere else. Jobs raise nothing."""

    def submit(self, job: Job) -> None: ...

    def close(self, timeout_s: float) -> bool:
        """Run what was submitted, then end. False: it did not end in time (a disk that hangs)."""


class ThreadWorker:
    """A worker that is a daemon thread: a hung disk must not keep the process from ending."""

    def __init__(self, name: str) -> None:
        self._jobs: deque[Job] = deque()
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, job: Job) -> None:
        with self._wake:
            self._jobs.append(job)
            self._wake.notify()

    def _run(self) -> None:
        while (job := self._next()) is not None:
            job()

    def _next(self) -> Job | None:
        with self._wake:
            while not self._jobs and not self._closing:
                self._wake.wait()
            return self._jobs.popleft() if self._jobs else None

    def close(self, timeout_s: float) -> bool:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join(timeout_s)
        return not self._thread.is_alive()


class Alarm:
    """Calls ``ring`` at the earliest time it was set to. One daemon thread, asleep until then.

    It exists because a hung read posts no result: without it a loop that sleeps until something
    happens would sleep through the deadline.
    """

    def __init__(self, name: str, ring: Callable[[], None]) -> None:
        self._ring = ring
        self._at_s: float | None = None
        self._wake = threading.Condition()
        self._closing = False
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def set(self, in_s: float) -> None:
        """Ring ``in_s`` seconds from now, unless it rings earlier anyway."""
        at_s = time.monotonic() + in_s
        with self._wake:
            if self._at_s is None or at_s < self._at_s:
                self._at_s = at_s
                self._wake.notify()

    def _run(self) -> None:
        while self._sleep():
            self._ring()

    def _sleep(self) -> bool:
        """Wait until it is time to ring; False when closing."""
        with self._wake:
            while not self._closing:
                left_s = None if self._at_s is None else self._at_s - time.monotonic()
                if left_s is not None and left_s <= 0:
                    self._at_s = None
                    return True
                self._wake.wait(left_s)
            return False

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()
        self._thread.join()
