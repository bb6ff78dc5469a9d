"""Which frame every piece of the prefix tree lies in. Pure: it decides, others move the bytes.

One rule, and the reason for it in docs/adr/0002-frames.md: a child's frame is higher than its
parent's, so that walking the frames upwards meets the tokens of any sequence in order. Attention
adds up in the order of the cells; with this rule the order never depends on where things lie.
"""

from __future__ import annotations

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass


class NoFreeFrame(Exception):
    """Every frame is taken."""


@dataclass(eq=False, slots=True)
class FramePlace:
    """A node of the prefix tree that takes one frame. ``frame`` is -1 while it has none."""

    parent: FramePlace | None
    frame: int = -1
    children: int = 0


@dataclass(frozen=True, slots=True)
class Shift:
    """The node's content must move from frame ``source`` to ``target``, which is free by then."""

    place: FramePlace
    source: int
    target: int


class FrameTable:
    """Hands out frames ``0 .. n_frames - 1``."""

    def __init__(self, n_frames: int) -> None:
        self.n_frames = n_frames
        self._free = list(range(n_frames))

    @property
    def n_free(self) -> int:
        return len(self._free)

    def add(self, place: FramePlace) -> list[Shift]:
        """Give ``place`` a frame above its parent's; return the moves that make this true, in order.

        The lowest free frame above the parent is taken: no move. If all free frames are below, the
        highest of them is (fewest moves), and the tail of the path to the parent steps down into it,
        each node into the frame its predecessor left; the last one's frame is then free and above.
        A node that steps down stays above its parent and below its children, so no other node moves.
        """
        if not self._free:
            raise NoFreeFrame
        floor = place.parent.frame if place.parent is not None else -1
        shifts: list[Shift] = []
        above = bisect_right(self._free, floor)
        if above < len(self._free):
            place.frame = self._free.pop(above)
        else:
            place.frame, shifts = self._step_down(place.parent, self._free.pop())
        if place.parent is not None:
            place.parent.children += 1
        return shifts

    def _step_down(self, parent: FramePlace | None, free: int) -> tuple[int, list[Shift]]:
        path = []
        node = parent
        while node is not None and node.frame > free:
            path.append(node)
            node = node.parent
        shifts = []
        for node in reversed(path):
            shifts.append(Shift(node, node.frame, free))
            node.frame, free = free, node.frame
        return free, shifts

    def remove(self, place: FramePlace) -> None:
        """Take the frame back. A node with children stays: they could not be ordered below nothing."""
        assert place.frame >= 0 and not place.children
        insort(self._free, place.frame)
        place.frame = -1
        if place.parent is not None:
            place.parent.children -= 1

    def check(self, places: Sequence[FramePlace]) -> None:
        """Assert that these are all nodes, that no frame is used twice, and the rule above."""
        taken = sorted(place.frame for place in places)
        assert sorted(taken + self._free) == list(range(self.n_frames)), "a frame is lost or used twice"
        assert self._free == sorted(self._free)
        children: dict[int, int] = {}
        for place in places:
            if place.parent is not None:
                assert 0 <= place.parent.frame < place.frame, "frames do not ascend with depth"
                children[place.parent.frame] = children.get(place.parent.frame, 0) + 1
        assert all(place.children == children.get(place.frame, 0) for place in places)
