"""SIGTERM ends a command like Ctrl-C, so that what it put on disk goes away with it."""

from __future__ import annotations

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType


@contextmanager
def told_to_stop() -> Iterator[None]:
    """For the time of the block; in the main thread alone, where signals arrive.

    The signal is handed on as Ctrl-C rather than raised, for ``asyncio.run`` has a handler of its own for
    that one, which cancels the task. What a handler raises is lost where Python happens to be in a
    finaliser or a weak reference's callback ("Exception ignored in"); a block without ``asyncio`` that
    loses it goes on, and ends as interrupted. Where Ctrl-C is ignored, as in what a script starts with "&",
    there is nothing to hand it on to, and it is raised.
    """
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    told: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        told.append(number)
        if signal.getsignal(signal.SIGINT) in (signal.SIG_IGN, None):
            raise KeyboardInterrupt
        signal.raise_signal(signal.SIGINT)

    before = signal.signal(signal.SIGTERM, hand_on)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
    if told:
        raise KeyboardInterrupt
