"""Blocks that lie on the device and on the host: nothing is lost with the copy on the host, so it goes first.

They are asked for once for every block that comes down, while the first of them are often claimed by the very
turn for which room is made: a path of hundreds of blocks. So the order remembers how far it has passed over
claimed blocks, until some are released.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import chain
from typing import Final

from stepwell.policy.block_index import Block

_LEAST_LOG: Final = 64


class Copies:
    """The blocks in the order in which they became copies. Each knows its place in the log (``copy_at``)."""

    def __init__(self) -> None:
        self._log: list[Block] = []
        """An entry is over when its block has another place, or none."""
        self._count = 0
        """Entries that are not over."""
        self._begin = 0
        """All entries before it are over."""
        self._passed = 0
        """All entries from there to here are over, or were claimed or in flight when last looked at."""

    def __len__(self) -> int:
        return self._count

    def add(self, block: Block) -> None:
        """The block has become a copy."""
        if block.copy_at < 0:
            block.copy_at = len(self._log)
            self._log.append(block)
            self._count += 1

    def discard(self, block: Block) -> None:
        """The block is a copy no more."""
        if block.copy_at >= 0:
            block.copy_at = -1
            self._count -= 1
            if len(self._log) > _LEAST_LOG + 2 * self._count:
                self._tidy()

    def _tidy(self) -> None:
        """Leave out the entries that are over."""
        self._log = [block for place, block in enumerate(self._log) if block.copy_at == place]
        for place, block in enumerate(self._log):
            block.copy_at = place
        self._begin = self._passed = 0

    def freed(self, block: Block) -> None:
        """The block may be claimed no more: if it was passed over, it is looked at again."""
        if 0 <= block.copy_at < self._passed:
            self._passed = block.copy_at

    def first(self) -> Block | None:
        """The first to go of those that are neither claimed nor in flight; None: there is none."""
        at = self._pass_over()
        return self._log[at] if at < len(self._log) else None

    def _pass_over(self) -> int:
        """Where in the log ``first`` stands; its end if there is none."""
        log = self._log
        begin, end = self._begin, len(log)
        while begin < end and log[begin].copy_at != begin:
            begin += 1
        self._begin = begin
        at = max(begin, self._passed)
        while at < end:
            block = log[at]
            if not block.claims and block.moving is None and block.copy_at == at:
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
        log = self._log
        for number in range(start, stop):
            block = log[number]
            if block.copy_at == number:
                yield block
