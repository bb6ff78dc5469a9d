"""What runs too long is ended from another thread."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager


@contextmanager
def ended_after(limit_s: float, end: Callable[[], object]) -> Iterator[None]:
    """Calls ``end`` if the block takes longer. Nothing of it goes on after the block.

    An end that came late would stop what runs next, and a thread that still holds a database when the process
    ends can make a crash of it.
    """
    timer = threading.Timer(limit_s, end)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()
