"""Hashes of units that were computed once and are gone: what is computed again is found here."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

from stepwell.policy.block_index import BlockIndex


class Ghosts:
    """The last ``limit`` units that no KV tier holds any more."""

    def __init__(self, index: BlockIndex, limit: int) -> None:
        self._index = index
        self._limit = limit
        self._lost: OrderedDict[bytes, None] = OrderedDict()

    def add(self, units: Iterable[bytes]) -> None:
        for unit in units:
            if not self._index.holds_unit(unit):
                self._lost[unit] = None
        while len(self._lost) > self._limit:
            self._lost.popitem(last=False)

    def forget(self, units: Iterable[bytes]) -> None:
        """They have been computed again."""
        if self._lost:
            for unit in units:
                self._lost.pop(unit, None)

    def computed_before(self, units: Iterable[bytes]) -> int:
        """How many of these units have been computed before, whether they are still held or not."""
        return sum(1 for unit in units if unit in self._lost or self._index.holds_unit(unit))
