"""A child process that is kept between questions, has a time for each answer and is started with patience.

What may go wrong is the same for all of them: it ends, it says nothing, it says too much, it says nonsense.
The caller gets one sentence; the child is ended; and one that fails again and again is not started for
every question: each failure after the second doubles the pause before the next start, up to a minute.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from stepwell.basics.line_child import LineChild

MOST_PAUSE_S = 60.0
_TRIES = 2
"""A child that ended by itself, or just before it read the question, is started once more."""

Read = TypeVar("Read")
Begin = Callable[[LineChild], None]


class ChildAway(Exception):
    """There is no answer: a sentence about *it* without an end. ``starting``: it was not even ready."""

    def __init__(self, message: str, *, starting: bool = False) -> None:
        super().__init__(message)
        self.starting = starting


class KeptChild:
    """``python -m MODULE ARGUMENTS``, started at the first question. Safe over threads: one at a time."""

    def __init__(
        self,
        module: str,
        arguments: Sequence[str] = (),
        env: Mapping[str, str] | None = None,
        begin: Begin = lambda child: None,
        now_s: Callable[[], float] = time.monotonic,
    ) -> None:
        """``begin``: what is asked of each new child before anything else; it fails as questions do."""
        self._module, self.arguments, self._env = module, arguments, env
        self._begin, self._now_s = begin, now_s
        self._lock = threading.Lock()
        self._child: LineChild | None = None
        self._failures = 0
        self._not_before_s = 0.0
        self.starts = 0
        """How often it was started."""

    @property
    def lives(self) -> bool:
        """Whether there is a process now."""
        child = self._child
        return child is not None and child.lives()

    @property
    def pid(self) -> int | None:
        """Of that process."""
        return self._child.pid if self._child is not None else None

    def start(self) -> None:
        """Start it if it is not there. Raises ``ChildAway``, and what ``begin`` raises."""
        with self._lock:
            self._running()

    def ask(self, question: bytes, limit_s: float, most_bytes: int, read: Callable[[bytes], Read]) -> Read:
        """What ``read`` makes of the answer to a line; its ``ValueError``, ``TypeError`` or ``KeyError`` says
        that the answer is nonsense. Raises ``ChildAway``, and what ``begin`` raises."""
        with self._lock:
            for tries in range(1, _TRIES + 1):
                try:
                    found = read(self._running().ask(question, limit_s, most_bytes))
                except EOFError:
                    self._failed()
                    if tries == _TRIES:
                        raise ChildAway("it has ended") from None
                except TimeoutError:
                    self._failed()
                    raise ChildAway(f"it has not answered within {limit_s:g} s") from None
                except OverflowError:
                    self._failed()
                    raise ChildAway("its answer is too long") from None
                except (ValueError, TypeError, KeyError) as error:
                    self._failed()
                    raise ChildAway("its answer is none") from error
                except BaseException:
                    self._end()
                    raise
                else:
                    self._failures = 0
                    return found
        raise AssertionError("every try returns or raises")

    def close(self) -> None:
        """End it; a question starts another."""
        with self._lock:
            self._end()

    def _running(self) -> LineChild:
        if self._child is not None and self._child.lives():
            return self._child
        self._end()
        left_s = self._not_before_s - self._now_s()
        if left_s > 0:
            raise ChildAway(f"it failed {self._failures} times and is started again in {left_s:.0f} s")
        self.starts += 1
        try:
            self._child = LineChild(self._module, self._env, self.arguments)
            self._begin(self._child)
        except (EOFError, OSError, OverflowError, ValueError, TypeError, KeyError) as error:
            self._failed()  # a TimeoutError is an OSError
            late = isinstance(error, TimeoutError)
            what = "is not ready in time" if late else "ends before it is ready"
            raise ChildAway(f"its process {what}", starting=True) from error
        except BaseException:
            self._failed()
            raise
        return self._child

    def _failed(self) -> None:
        self._end()
        self._failures += 1
        if self._failures > 1:
            pause_s = min(MOST_PAUSE_S, 2.0 ** (self._failures - _TRIES))
            self._not_before_s = self._now_s() + pause_s

    def _end(self) -> None:
        child, self._child = self._child, None
        if child is not None:
            child.close()
