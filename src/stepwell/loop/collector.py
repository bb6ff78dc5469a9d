"""Python's garbage collector, kept out of the loop's steps.

Its full pass walks over every block and agent that the policy knows: a tenth of a second with fifty thousand
blocks, in the middle of whatever step happens to allocate the object that sets it off. While the loop has
taken it over, what is there from the start is not walked over at all, a full pass is made only while the
server has nothing to do, and the young objects of a server that is never idle are looked at between steps.
"""

from __future__ import annotations

import gc
from typing import Protocol

_MOST_YOUNG = 200_000
"""Objects made and not freed since the last pass: then the young ones are looked at, idle or not."""
_WORTH_A_PASS = 5_000


class Gc(Protocol):
    """The module ``gc``, as far as it is used here."""

    def collect(self, generation: int = 2) -> int: ...
    def freeze(self) -> None: ...
    def unfreeze(self) -> None: ...
    def disable(self) -> None: ...
    def enable(self) -> None: ...
    def get_count(self) -> tuple[int, int, int]: ...


class Collector:
    """See the module. One for the process; it has no effect before ``take_over``."""

    def __init__(self, collector: Gc = gc) -> None:
        self._gc = collector
        self._owned = False
        self._since_full = 0
        """Young objects that passes between steps have seen since the last full one."""

    def take_over(self) -> None:
        """What is there now stays for good; from now on the collector runs only when it is told to."""
        self._gc.collect()
        self._gc.freeze()
        self._gc.disable()
        self._owned = True

    def give_back(self) -> None:
        """As it was before."""
        if self._owned:
            self._gc.unfreeze()
            self._gc.enable()
            self._owned = False

    def between_steps(self) -> None:
        """The loop is about to take another step."""
        young = self._gc.get_count()[0] if self._owned else 0
        if young > _MOST_YOUNG:
            self._since_full += young
            self._gc.collect(0)

    def idle(self) -> None:
        """Nothing waits: a full pass, if there may be something to find."""
        if self._owned and self._since_full + self._gc.get_count()[0] > _WORTH_A_PASS:
            self._since_full = 0
            self._gc.collect()
