"""How long an event loop works and how long it waits, and what it works at.

The loop of a program that talks to a server is either in ``select``, where it waits for the server, a tool
or a timer, or it runs the program's own code. ``BusyWatch`` times ``select`` from inside: all other wall
time is the program's own, whatever it does: Python, SQLite's writes, the kernel's share of a socket.
"""

from __future__ import annotations

import asyncio
import selectors
import signal
import threading
import time
from collections import Counter
from collections.abc import Coroutine, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import PurePath
from types import FrameType
from typing import Any, TypeVar

Result = TypeVar("Result")
SAMPLE_S = 0.001
"""Of CPU time, between two looks at the stack."""
REST = "runtime"


class _TimedSelector(selectors.DefaultSelector):
    """Knows how long it was waited in."""

    def __init__(self) -> None:
        super().__init__()
        self.waited_ns = 0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        began_ns = time.perf_counter_ns()
        try:
            return super().select(timeout)
        finally:
            self.waited_ns += time.perf_counter_ns() - began_ns


@dataclass(slots=True)
class BusyWatch:
    """One loop under observation. ``elsewhere_ns``: work in it that is not the program's (a server that is
    played inside the process), which its player adds, in wall and in CPU time."""

    selector: _TimedSelector = field(default_factory=_TimedSelector)
    began_ns: int = 0
    elsewhere_ns: int = 0
    elsewhere_cpu_ns: int = 0

    @contextmanager
    def elsewhere(self) -> Iterator[None]:
        """Around work that is not the program's."""
        began_ns, cpu_ns = time.perf_counter_ns(), time.thread_time_ns()
        try:
            yield
        finally:
            self.elsewhere_ns += time.perf_counter_ns() - began_ns
            self.elsewhere_cpu_ns += time.thread_time_ns() - cpu_ns

    def run(self, work: Coroutine[Any, Any, Result]) -> Result:
        """Run ``work`` in a loop of its own to its end."""
        self.began_ns = time.perf_counter_ns()
        self.selector.waited_ns = 0
        with asyncio.Runner(loop_factory=lambda: asyncio.SelectorEventLoop(self.selector)) as runner:
            return runner.run(work)

    def busy_us(self) -> int:
        """Since ``run`` began, what was not waited."""
        whole_ns = time.perf_counter_ns() - self.began_ns
        return (whole_ns - self.selector.waited_ns - self.elsewhere_ns) // 1_000


PLACES: Mapping[str, tuple[str, ...]] = {
    "SQLite": ("stepwell/agents/state.py",),
    "HTTP": ("/httpx2/", "/httpcore2/", "/httpcore/", "/h11/", "/anyio/", "/ssl.py"),
    "JSON": ("/json/",),
    "event loop": ("/asyncio/", "/selectors.py"),
}
"""Where time goes, by what the file of a frame's code contains. Looked for from the innermost frame outwards,
so that JSON inside the HTTP client counts as JSON; the event loop and ``runtime`` are what is left."""
FIRST = ("SQLite", "HTTP", "JSON")


@contextmanager
def sampled() -> Iterator[Counter[str]]:
    """Counts samples of this thread's CPU time by place. Empty outside of a main thread, and where the
    system has no profiling timer."""
    found: Counter[str] = Counter()
    if threading.current_thread() is not threading.main_thread() or not hasattr(signal, "setitimer"):
        yield found
        return

    def look(number: int, frame: FrameType | None) -> None:
        found[place_of(frame)] += 1

    before = signal.signal(signal.SIGPROF, look)
    signal.setitimer(signal.ITIMER_PROF, SAMPLE_S, SAMPLE_S)
    try:
        yield found
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.signal(signal.SIGPROF, before)


def place_of(frame: FrameType | None) -> str:
    """The name in ``PLACES`` that a stack belongs to."""
    if frame is not None and _in(frame, "event loop"):
        return "event loop"
    while frame is not None:
        for name in FIRST:
            if _in(frame, name):
                return name
        frame = frame.f_back
    return REST


def _in(frame: FrameType, name: str) -> bool:
    path = PurePath(frame.f_code.co_filename).as_posix()
    return any(part in path for part in PLACES[name])
