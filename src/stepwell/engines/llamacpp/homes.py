"""Sequence ids that keep cells alive: a cell of llama.cpp's cache lives while some id holds it.

A *home* is such an id. At every depth it holds the cells of at most one frame, so that
``remove(home, positions)`` names exactly one place in the cache. Pure bookkeeping.
"""

from __future__ import annotations

from collections.abc import Iterable


class Homes:
    """Ids and the depths at which each holds a frame.

    ``span`` bounds how far apart the depths of one home may lie. With sliding-window layers
    llama.cpp may overwrite a cell that only one id holds once that id's newest position is a window
    away; depths from one group of ``span`` never are. None: no such layers.
    """

    def __init__(self, ids: Iterable[int], span: int | None) -> None:
        assert span is None or span > 0
        self._span = span
        self._held: dict[int, set[int]] = {home: set() for home in ids}
        self._group: dict[int, int] = {}

    def take(self, depth: int) -> int | None:
        """An id that holds nothing at ``depth`` yet; None when there is none."""
        group = 0 if self._span is None else depth // self._span
        unbound = None
        for home, held in self._held.items():
            bound_to = self._group.get(home)
            if bound_to == group and depth not in held:
                held.add(depth)
                return home
            if bound_to is None and unbound is None:
                unbound = home
        if unbound is not None:
            self._group[unbound] = group
            self._held[unbound].add(depth)
        return unbound

    def give(self, home: int, depth: int) -> None:
        """The id holds nothing at ``depth`` any more."""
        self._held[home].remove(depth)
        if not self._held[home]:
            del self._group[home]

    def depths(self) -> dict[int, set[int]]:
        """What every id holds."""
        return {home: set(held) for home, held in self._held.items()}

    def check(self) -> None:
        for home, held in self._held.items():
            assert (home in self._group) == bool(held)
            if self._span is not None:
                assert len({depth // self._span for depth in held}) <= 1
