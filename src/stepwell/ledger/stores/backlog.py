"""Batches that wait to be written: as they are while there is room, added up when there is none."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable
from dataclasses import replace

from stepwell.ledger.base import PostingBatch
from stepwell.ledger.types import Account, Cause, Position, Posting, Resource, Usage

_Key = tuple[Account, Account, Resource, Cause, int]


class _Sum:
    """Batches added up into one that carries the number and time of the last."""

    def __init__(self) -> None:
        self._amounts: dict[_Key, int] = {}
        self._usage: list[Usage] = []
        self._positions: dict[Account, Position] = {}
        self.last: PostingBatch | None = None

    def add(self, batch: PostingBatch) -> None:
        amounts = self._amounts
        for debit, credit, resource, amount, cause, request in batch.postings:
            key = (debit, credit, resource, cause, request)
            amounts[key] = amounts.get(key, 0) + amount
        self._usage.extend(batch.usage)
        self._positions.update((position.account, position) for position in batch.positions)
        self.last = batch

    @property
    def entries(self) -> int:
        return len(self._amounts) + len(self._usage)

    def batch(self) -> PostingBatch | None:
        if self.last is None:
            return None
        postings = [
            Posting(debit, credit, resource, amount, cause, request)
            for (debit, credit, resource, cause, request), amount in self._amounts.items()
        ]
        positions = list(self._positions.values())
        return replace(self.last, postings=postings, usage=self._usage, positions=positions)


class Backlog:
    """A queue of batches, oldest first, that holds ``limit_postings`` as they came. What comes behind those
    is added up until it is taken: postings of the same accounts, resource, cause and request become one, with
    the time of the last. So it grows with requests and agents, and no longer with steps."""

    def __init__(self, limit_postings: int) -> None:
        if limit_postings < 1:
            raise ValueError("a backlog holds at least one posting")
        self.limit_postings = limit_postings
        self._queue: deque[PostingBatch] = deque()
        self._queued = 0
        self._sum = _Sum()

    @property
    def entries(self) -> int:
        """Postings and rows of usage that wait."""
        return self._queued + self._sum.entries

    @property
    def entries_waiting(self) -> bool:
        """Whether any batch waits, an empty one included."""
        return bool(self._queue) or self._sum.last is not None

    def add(self, batch: PostingBatch) -> None:
        """Put a batch behind the others."""
        size = _entries(batch)
        if self._sum.last is None and self._queued + size <= self.limit_postings:
            self._queue.append(batch)
            self._queued += size
            return
        self._sum.add(batch)

    def take(self, most_postings: int) -> PostingBatch:
        """The oldest batches as one, up to so many postings (one batch at least). ``IndexError`` when none
        waits."""
        if not self._queue:
            summed = self._sum.batch()
            if summed is None:
                raise IndexError("no batch waits")
            self._sum = _Sum()
            return summed
        taken = [self._queue.popleft()]
        size = _entries(taken[0])
        while self._queue and size + _entries(self._queue[0]) <= most_postings:
            size += _entries(self._queue[0])
            taken.append(self._queue.popleft())
        self._queued -= size
        return joined(taken)


def joined(batches: list[PostingBatch]) -> PostingBatch:
    """One batch with everything of several, and the number and time of the last. Nothing is added up."""
    if len(batches) == 1:
        return batches[0]
    return replace(
        batches[-1],
        postings=[posting for batch in batches for posting in batch.postings],
        usage=[usage for batch in batches for usage in batch.usage],
        positions=list(_latest(position for batch in batches for position in batch.positions)),
    )


def _latest(positions: Iterable[Position]) -> Iterable[Position]:
    return {position.account: position for position in positions}.values()


def _entries(batch: PostingBatch) -> int:
    return len(batch.postings) + len(batch.usage)
