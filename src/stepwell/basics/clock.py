"""Time comes in from outside, so that a run can be driven by a real clock or by a simulated one."""

from __future__ import annotations

import time
from typing import Protocol


class Clock(Protocol):
    """Microseconds that never go backwards."""

    def now_us(self) -> int: ...

    def sleep_us(self, duration_us: int) -> None:
        """Let that much time pass (an engine that only pretends to compute waits here)."""


class MonotonicClock:
    """The machine's own clock."""

    def now_us(self) -> int:
        return time.monotonic_ns() // 1000

    def sleep_us(self, duration_us: int) -> None:
        time.sleep(duration_us / 1e6)


class ManualClock:
    """Stands still until it is slept on: tests and simulation."""

    def __init__(self, now_us: int = 0) -> None:
        self._now_us = now_us

    def now_us(self) -> int:
        return self._now_us

    def sleep_us(self, duration_us: int) -> None:
        self._now_us += duration_us
