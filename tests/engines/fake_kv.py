"""llama.cpp's unified KV cache, cell by cell, in a few lines: where it puts tokens and what it steals.

Follows ``find_slot``, ``apply_ubatch``, ``seq_rm`` and ``seq_cp`` of src/llama-kv-cache.cpp. A cell's
content is a word that says which prefix it belongs to, so a test can see whose KV lies where.
"""

from __future__ import annotations

import pickle
from collections.abc import Sequence
from dataclasses import dataclass, field

from stepwell.engines.base import Buffer


@dataclass(slots=True)
class Cell:
    position: int = -1
    holders: set[int] = field(default_factory=set)
    content: str = ""


class FakeKv:
    """Obeys ``cells.Kv``; ``window``: the sliding window, or 0."""

    def __init__(self, n_cells: int, window: int = 0) -> None:
        self.cells = [Cell() for _ in range(n_cells)]
        self.head = 0
        self.window = window

    def copy(self, source: int, target: int, first: int, end: int) -> None:
        for cell in self.cells:
            if first <= cell.position < end and source in cell.holders:
                cell.holders.add(target)

    def remove(self, seq: int, first: int = -1, end: int = -1) -> None:
        lowest = len(self.cells)
        for i, cell in enumerate(self.cells):
            inside = cell.position >= max(first, 0) and (end < 0 or cell.position < end)
            if cell.position >= 0 and inside and seq in cell.holders:
                cell.holders.discard(seq)
                if not cell.holders:
                    cell.position = -1
                    lowest = min(lowest, i)
        self.head = min(self.head, lowest)

    def save(self, seq: int, size_bytes: int) -> bytearray:
        held = [(cell.position, cell.content) for cell in self.cells if seq in cell.holders]
        assert len(held) == size_bytes
        return bytearray(pickle.dumps(held))

    def restore(self, seq: int, data: Buffer) -> bool:
        held = pickle.loads(bytes(data))
        self.remove(seq)
        return self.put([(position, seq, content) for position, content in held])

    def span(self, seq: int) -> tuple[int, int]:
        held = [cell.position for cell in self.cells if seq in cell.holders]
        return (min(held), max(held)) if held else (-1, -1)

    def put(self, tokens: Sequence[tuple[int, int, str]]) -> bool:
        """Place ``(position, seq, content)``, as a decode would. False: no room."""
        found = self._find(len(tokens))
        if found is None:
            return False
        for i, (position, seq, content) in zip(found, tokens, strict=True):
            self.cells[i] = Cell(position, {seq}, content)
        self.head = found[-1] + 1
        return True

    def _find(self, count: int) -> list[int] | None:
        used = sum(1 for cell in self.cells if cell.position >= 0)
        newest = self._newest() if self.window else {}
        head = 0 if self.head > used + 2 * count else self.head
        found = []
        for step in range(len(self.cells)):
            i = (head + step) % len(self.cells)
            if self._usable(self.cells[i], newest):
                found.append(i)
                if len(found) == count:
                    return found
        return None

    def _newest(self) -> dict[int, int]:
        newest: dict[int, int] = {}
        for cell in self.cells:
            for holder in cell.holders:
                newest[holder] = max(newest.get(holder, -1), cell.position)
        return newest

    def _usable(self, cell: Cell, newest: dict[int, int]) -> bool:
        if cell.position < 0:
            return True
        if not self.window or len(cell.holders) != 1:
            return False
        (holder,) = cell.holders
        return newest[holder] + 1 - cell.position >= self.window
