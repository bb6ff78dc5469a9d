"""Blocks that lie on the device and on the host: nothing is lost with the copy on the host, so it goes first.

They are asked for once for every block that comes down, while the first of them are often claimed by the very
turn for which room is made: a path of hundreds of blocks. So the order remembers how far it has passed over
claimed blocks, until some are released.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain

from stepwell.policy.block_index import Block

_LEAST_LOG = 64


class Copies:
    """The blocks in the order in which they became copies."""

    def __init__(self) -> None:
        self._place: dict[Block, int] = {}
        """Where in the log each one stands; any other entry of the log is over."""
        self._log: list[Block] = []
        self._begin = 0
        """All entries before it are over."""
        self._passed = 0
        """All entries from there to here are over, or were claimed or in flight when last looked at."""

    def __len__(self) -> int:
        return len(self._place)

    def add(self, block: Block) -> None:
        """The block has become a copy."""
        if block not in self._place:
            self._place[block] = len(self._log)
            self._log.append(block)

    def discard(self, block: Block) -> None:
        """The block is a copy no more."""
        if self._place.pop(block, None) is not None and len(self._log) > _LEAST_LOG + 2 * len(self._place):
            self._log = list(self._place)
            self._place = {copy: place for place, copy in enumerate(self._log)}
            self._begin = self._passed = 0

    def freed(self, block: Block) -> None:
        """The block may be claimed no more: if it was passed over, it is looked at again."""
        place = self._place.get(block)
        if place is not None and place < self._passed:
            self._passed = place

    def first(self) -> Block | None:
        """The first to go of those that are neither claimed nor in flight; None: there is none."""
        at = self._pass_over()
        return self._log[at] if at < len(self._log) else None

    def _pass_over(self) -> int:
        """Where in the log ``first`` stands; its end if there is none."""
        log, place = self._log, self._place
        begin, end = self._begin, len(log)
        while begin < end and place.get(log[begin]) != begin:
            begin += 1
        self._begin = begin
        at = max(begin, self._passed)
        while at < end:
            block = log[at]
            if not block.claims and block.moving is None and place.get(block) == at:
                break
            at += 1
        self._passed = at
        return at

    def free(self) -> Iterator[Block]:
        """``first`` and those behind it; some of them may not be free."""
        return self._between(self._pass_over(), len(self._log))

    def parted(self) -> tuple[Iterator[Block], Iterator[Block]]:
        """``free``, and those before: none of them is."""
        at = self._pass_over()
        return self._between(at, len(self._log)), self._between(self._begin, at)

    def __iter__(self) -> Iterator[Block]:
        """The first to go first; at the end those that were passed over."""
        return chain(*self.parted())

    def _between(self, start: int, stop: int) -> Iterator[Block]:
        log, place = self._log, self._place
        for number in range(start, stop):
            if place.get(log[number]) == number:
                yield log[number]
