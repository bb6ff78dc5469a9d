"""Files of dropped blocks that the next block of the same size is written into.

Giving space back to the file system and taking new space costs more than the write itself: 4 ms
against 0.4 ms per block on a thinly provisioned disk, where fresh space must first be found by
the provider of the disk (docs/adr/0003-disk-layout.md). All full blocks have one size, so they
nearly always find a spare file; tails lose, they mostly get fresh space.
"""

from __future__ import annotations

from collections import OrderedDict


class Spares:
    """Names of spare files by size. Knows no files; the caller that asks it to give one up removes it."""

    def __init__(self, most_bytes: int) -> None:
        self.most_bytes = most_bytes
        self.bytes = 0
        self._by_size: OrderedDict[int, list[str]] = OrderedDict()

    def add(self, name: str, file_bytes: int) -> None:
        self._by_size.setdefault(file_bytes, []).append(name)
        self._by_size.move_to_end(file_bytes)
        self.bytes += file_bytes

    def take(self, file_bytes: int) -> str | None:
        """A spare file of exactly this size."""
        names = self._by_size.get(file_bytes)
        return None if names is None else self._pop(file_bytes, names)

    def give_up(self) -> tuple[str, int] | None:
        """Name and bytes of the spare least likely to be wanted: of the size dropped longest ago."""
        if not self._by_size:
            return None
        file_bytes, names = next(iter(self._by_size.items()))
        return self._pop(file_bytes, names), file_bytes

    def _pop(self, file_bytes: int, names: list[str]) -> str:
        name = names.pop()
        if not names:
            del self._by_size[file_bytes]
        self.bytes -= file_bytes
        return name
