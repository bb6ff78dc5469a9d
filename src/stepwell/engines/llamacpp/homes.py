"""Sequence ids that keep cells alive: a cell of llama.cpp's cache lives while some id holds it.

A *home* is such an id. At every depth it holds the cells of at most one frame, so that
``remove(home, positions)`` names exactly one place in the cache. Pure bookkeeping.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from stepwell.engines.base import Buffer
    from stepwell.engines.llamacpp.cells import Kv


class Homes:
    """Ids and the depths at which each holds a frame."""

    def __init__(self, ids: Iterable[int]) -> None:
        self._held: dict[int, set[int]] = {home: set() for home in ids}

    def take(self, depth: int) -> int | None:
        """An id that holds nothing at ``depth`` yet; None when there is none."""
        for home, held in self._held.items():
            if depth not in held:
                held.add(depth)
                return home
        return None

    def give(self, home: int, depth: int) -> None:
        """The id holds nothing at ``depth`` any more."""
        self._held[home].remove(depth)

    def depths(self) -> dict[int, set[int]]:
        """What every id holds."""
        return {home: set(held) for home, held in self._held.items()}


class TwinHomes:
    """A ``Kv`` in which every home has a twin id that holds the same cells.

    With sliding-window layers llama.cpp may overwrite a cell that exactly one id holds once that id's
    newest position is a window away (``find_slot`` in src/llama-kv-cache.cpp: ``seq_count == 1``). A
    cell that two ids hold is safe whatever else they hold, so a home may cover any depths.
    """

    def __init__(self, kv: Kv, twins: Mapping[int, int]) -> None:
        self._kv = kv
        self._twins = twins

    def copy(self, source: int, target: int, first: int, end: int) -> None:
        self._kv.copy(source, target, first, end)
        if target in self._twins:
            self._kv.copy(source, self._twins[target], first, end)

    def remove(self, seq: int, first: int = -1, end: int = -1) -> None:
        self._kv.remove(seq, first, end)
        if seq in self._twins:
            self._kv.remove(self._twins[seq], first, end)

    def save(self, seq: int, size_bytes: int) -> bytearray:
        return self._kv.save(seq, size_bytes)

    def restore(self, seq: int, data: Buffer) -> bool:
        return self._kv.restore(seq, data)

    def span(self, seq: int) -> tuple[int, int]:
        return self._kv.span(seq)
