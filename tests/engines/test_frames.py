"""The allocator of frames: order always, whatever comes and goes."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from stepwell.engines.llamacpp.frames import FramePlace, FrameTable, NoFreeFrame, Shift
from stepwell.engines.llamacpp.homes import Homes

N_FRAMES = 12


class Tree(RuleBasedStateMachine):
    """Nodes grow below any node and leaves go; ``content`` plays the cache's part in the moves."""

    def __init__(self) -> None:
        super().__init__()
        self.table = FrameTable(N_FRAMES)
        self.places: list[FramePlace] = []
        self.content: dict[int, FramePlace] = {}

    @rule(pick=st.integers(0, 10_000))
    def grow(self, pick: int) -> None:
        candidates: list[FramePlace | None] = [None, *self.places]
        place = FramePlace(candidates[pick % len(candidates)])
        if len(self.places) == N_FRAMES:
            with pytest.raises(NoFreeFrame):
                self.table.add(place)
            return
        self.carry_out(self.table.add(place))
        assert place.frame not in self.content
        self.content[place.frame] = place
        self.places.append(place)

    def carry_out(self, shifts: list[Shift]) -> None:
        for shift in shifts:
            assert shift.target not in self.content, "a move would overwrite somebody"
            assert shift.target < shift.source
            assert self.content.pop(shift.source) is shift.place
            self.content[shift.target] = shift.place

    @precondition(lambda self: self.places)
    @rule(pick=st.integers(0, 10_000))
    def cut(self, pick: int) -> None:
        leaves = [place for place in self.places if not place.children]
        leaf = leaves[pick % len(leaves)]
        del self.content[leaf.frame]
        self.places.remove(leaf)
        self.table.remove(leaf)

    @invariant()
    def all_is_in_order(self) -> None:
        self.table.check(self.places)
        assert self.table.n_free == N_FRAMES - len(self.places)
        assert all(self.content[place.frame] is place for place in self.places)


TestTree = Tree.TestCase
TestTree.settings = settings(max_examples=60, stateful_step_count=60, deadline=None)


def chain(table: FrameTable, length: int, parent: FramePlace | None = None) -> list[FramePlace]:
    places = []
    for _ in range(length):
        parent = FramePlace(parent)
        assert table.add(parent) == []
        places.append(parent)
    return places


def test_no_move_while_a_frame_above_is_free() -> None:
    table = FrameTable(8)
    low, high = chain(table, 3), chain(table, 3)
    table.remove(low[2])
    child = FramePlace(high[2])
    assert table.add(child) == []
    assert child.frame == 6


def test_the_fewest_nodes_step_down() -> None:
    table = FrameTable(6)
    first = chain(table, 1)
    path = chain(table, 4)
    last = chain(table, 1)
    table.remove(first[0])
    filler = FramePlace(None)
    table.add(filler)  # frame 0 again
    table.remove(last[0])
    table.add(FramePlace(path[3]))
    table.remove(filler)
    child = FramePlace(path[0])
    assert table.add(child) == [Shift(path[0], 1, 0)]
    assert (path[0].frame, child.frame) == (0, 1)


def test_a_home_holds_one_frame_per_depth() -> None:
    homes = Homes(range(10, 12))
    assert [homes.take(3), homes.take(3), homes.take(3)] == [10, 11, None]
    assert homes.take(4) == 10
    homes.give(11, 3)
    assert homes.take(3) == 11
