"""What time and memory are measured with: calls, threads, other processes, this process."""

from __future__ import annotations

import resource
import threading
import time
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any


@contextmanager
def timed_calls(
    calls: Iterable[tuple[Any, str, str]], now: Callable[[], float]
) -> Iterator[defaultdict[str, float]]:
    """While the block runs, adds up what calls take: of which owner, of which name, under which label.

    ``now`` is the clock, in whatever unit. Owners are objects, classes or modules, left as they were.
    """
    spent: defaultdict[str, float] = defaultdict(float)

    def timed(call: Callable[..., Any], label: str) -> Callable[..., Any]:
        def wrapper(*arguments: Any, **named: Any) -> Any:
            began = now()
            try:
                return call(*arguments, **named)
            finally:
                spent[label] += now() - began

        return wrapper

    patched = [(owner, name, vars(owner).get(name)) for owner, name, _ in calls]
    for owner, name, label in calls:
        setattr(owner, name, timed(getattr(owner, name), label))
    try:
        yield spent
    finally:
        for owner, name, before in patched:
            if before is None:
                delattr(owner, name)
            else:
                setattr(owner, name, before)


def thread_cpu_s(name: str) -> Callable[[], float]:
    """The clock of the CPU time, in seconds, of the thread of this name."""
    (thread,) = (one for one in threading.enumerate() if one.name == name)
    assert thread.ident is not None
    clock = time.pthread_getcpuclockid(thread.ident)
    return lambda: time.clock_gettime(clock)


def process_cpu_ns(pid: int) -> Callable[[], int] | None:
    """The clock of another process's CPU time in nanoseconds; None where there is none (it is Linux's)."""
    clock = (~pid << 3) | 2  # MAKE_PROCESS_CPUCLOCK(pid, CPUCLOCK_SCHED)
    try:
        time.clock_gettime_ns(clock)
    except OSError:
        return None
    return lambda: time.clock_gettime_ns(clock)


def resident_bytes() -> int:
    """Memory of this process now (elsewhere than on Linux the most it has had)."""
    try:
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    except OSError:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return pages * resource.getpagesize()
