"""Which cells of llama.cpp's cache are free, to the cell.

llama.cpp puts tokens into the first free cells. So if the only free cells are those we mean, it puts
them exactly there. Therefore every cell below a high-water mark stays occupied at all times: what is
forgotten stays lying as *waste* under the id that held it, until its frame is needed; then just the
cells about to be written are freed. A frame that would be left half empty is filled up with
*filler*, tokens that no sequence can see. docs/adr/0002-frames.md has the whole story.

A frame is ``[0, live)`` cells that are needed, and waste behind them, held by one home. Between the two
there may be *leftovers*: tokens that were drafted and turned out wrong, held by their own frame's home.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stepwell.engines.base import Buffer
from stepwell.engines.llamacpp.homes import Homes

FRAME_TOKENS = 64
"""llama.cpp's attention works on tiles of 64 cells (GGML_FA_TILE_KV in ggml-cpu/common.h)."""
SCRATCH = 0
"""The id through which bytes enter and leave; it holds nothing between operations."""


class Kv(Protocol):
    """The little of llama.cpp's memory API that is needed here. Positions are half-open ranges."""

    def copy(self, source: int, target: int, first: int, end: int) -> None:
        """``target`` holds the cells that ``source`` holds at these positions as well; no bytes move."""

    def remove(self, seq: int, first: int = -1, end: int = -1) -> None:
        """``seq`` lets go of these positions (-1: all); a cell that no sequence holds is free."""

    def save(self, seq: int, size_bytes: int) -> bytearray:
        """Everything ``seq`` holds, as bytes; the caller knows how many these are."""

    def restore(self, seq: int, data: Buffer) -> bool:
        """Bring saved cells back into the first free cells, held by ``seq``. False: refused."""

    def span(self, seq: int) -> tuple[int, int]:
        """Lowest and highest position ``seq`` holds; (-1, -1) when it holds nothing."""


@dataclass(frozen=True, slots=True)
class Filler:
    """A saved frame at a depth no sequence reaches."""

    depth: int
    data: Buffer


@dataclass(frozen=True, slots=True)
class Waste:
    """The cells of a frame behind its live ones are held by ``home`` at the positions of ``depth``."""

    home: int
    depth: int
    filler: bool


@dataclass(frozen=True, slots=True)
class Leftovers:
    """Cells of a frame behind its live ones, up to ``end``; ``home`` holds them at ``depth``'s positions."""

    home: int
    depth: int
    end: int


class Cells:
    """The occupancy of every frame. Frames at and above ``used`` have never been touched."""

    def __init__(self, kv: Kv, n_frames: int, homes: Homes, fillers: Sequence[Filler]) -> None:
        self._kv = kv
        self._homes = homes
        self._fillers = fillers
        self.n_frames = n_frames
        self.used = 0
        self.live = [0] * n_frames
        self.waste: list[Waste | None] = [None] * n_frames
        self.leftovers: dict[int, Leftovers] = {}
        """By frame."""

    def open(self, wanted: Sequence[tuple[int, int]]) -> None:
        """Free cells ``[live, upto)`` of each ``(frame, upto)``: now these and no others are free.

        The caller fills all of them before it calls anything else here.
        """
        self._reach(max(frame for frame, _ in wanted))
        for frame, upto in wanted:
            self._free_waste(frame, upto)
            self.live[frame] = upto

    def _free_waste(self, frame: int, upto: int) -> None:
        waste = self.waste[frame]
        start = self._free_leftovers(frame, upto)
        assert waste is not None and self.live[frame] < upto
        first = waste.depth * FRAME_TOKENS
        if start < upto:
            self._kv.remove(waste.home, first + start, first + upto)
        if upto == FRAME_TOKENS:
            self._homes.give(waste.home, waste.depth)
            self.waste[frame] = None

    def _free_leftovers(self, frame: int, upto: int) -> int:
        """Where the waste begins that is still to be freed."""
        left, live = self.leftovers.get(frame), self.live[frame]
        if left is None:
            return live
        first = left.depth * FRAME_TOKENS
        self._kv.remove(left.home, first + live, first + min(upto, left.end))
        if upto >= left.end:
            del self.leftovers[frame]
        return left.end

    def take_back(self, frame: int, live: int, seq: int, home: int, depth: int) -> None:
        """``seq`` lets go of the frame's live cells from ``live`` on; ``home`` keeps them occupied."""
        first, until = depth * FRAME_TOKENS, self.live[frame]
        assert live <= until < FRAME_TOKENS
        self._kv.copy(seq, home, first + live, first + until)
        self._kv.remove(seq, first + live, first + until)
        known = self.leftovers.get(frame)
        self.leftovers[frame] = Leftovers(home, depth, until if known is None else known.end)
        self.live[frame] = live

    def leave(self, frame: int, home: int, depth: int) -> None:
        """A full frame that only ``home`` holds is not wanted any more: it becomes waste."""
        assert self.live[frame] == FRAME_TOKENS and self.waste[frame] is None
        self.live[frame] = 0
        self.waste[frame] = Waste(home, depth, filler=False)

    def refill(self, frames: Sequence[int]) -> None:
        """The live cells of these frames are free, and no others are: fill the frames with filler."""
        for frame in frames:
            if self.live[frame] < FRAME_TOKENS:
                self._free_waste(frame, FRAME_TOKENS)
        for frame in sorted(frames):
            self._fill(frame)

    def _reach(self, frame: int) -> None:
        while self.used <= frame:
            self._fill(self.used)
            self.used += 1

    def _fill(self, frame: int) -> None:
        filler, home = self._filler()
        first = filler.depth * FRAME_TOKENS
        refused = not self._kv.restore(SCRATCH, filler.data)
        assert not refused, "llama.cpp refused a frame it had written itself"
        self._kv.copy(SCRATCH, home, first, first + FRAME_TOKENS)
        self._kv.remove(SCRATCH)
        self.live[frame] = 0
        self.waste[frame] = Waste(home, filler.depth, filler=True)

    def _filler(self) -> tuple[Filler, int]:
        for filler in self._fillers:
            home = self._homes.take(filler.depth)
            if home is not None:
                return filler, home
        raise AssertionError("there are filler homes for every frame")

    def compact(self) -> bool:
        """Turn forgotten blocks into filler, which frees their homes. False: there was nothing to do."""
        frames = [f for f, waste in enumerate(self.waste) if waste and not waste.filler and not self.live[f]]
        for frame in frames:
            self.refill([frame])
        return bool(frames)

    def check(self) -> None:
        """Assert that each frame below the mark is full to the last cell."""
        for frame in range(self.n_frames):
            live, waste = self.live[frame], self.waste[frame]
            if frame >= self.used:
                assert live == 0 and waste is None
            else:
                assert (waste is None) == (live == FRAME_TOKENS), f"frame {frame} is not full"
        for frame, left in self.leftovers.items():
            assert self.live[frame] < left.end < FRAME_TOKENS, f"frame {frame} has leftovers of nothing"
