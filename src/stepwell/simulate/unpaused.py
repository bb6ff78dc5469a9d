"""Simulate without Python's garbage collector walking over every block and agent again and again."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager

from stepwell.loop.collector import Collector

OnEnd = Callable[[int, int], None]


@contextmanager
def unpaused(on_end: OnEnd | None = None) -> Iterator[OnEnd]:
    """What to call at every turn's end (its count, the time): young objects are looked at there, as in the
    server's loop, and ``on_end`` after that."""
    collector = Collector()
    collector.take_over()

    def ended(count: int, now_us: int) -> None:
        collector.between_steps()
        if on_end is not None:
            on_end(count, now_us)

    try:
        yield ended
    finally:
        collector.give_back()
