"""Who gives way to a heavier request: enough, no more, the lightest and latest first, and never in vain."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.vllm.preemption import MOST_AT_A_TIME, Running, victims

running = st.lists(
    st.builds(Running, st.integers(-1, 3), st.floats(0, 100), st.integers(0, 20), st.booleans()), max_size=12
)


@given(st.integers(-1, 3), st.integers(0, 60), st.integers(0, 30), st.integers(0, 2), running)
def test_what_leaves_is_lighter_and_is_enough(
    rank: int, needed: int, free: int, places: int, there: list[Running]
) -> None:
    leaving = victims(rank, needed, free, places, there)
    assert len(set(leaving)) == len(leaving) <= MOST_AT_A_TIME
    assert all(there[n].rank > rank and there[n].may_leave for n in leaving)
    if needed <= free and places > 0:
        assert leaving == [], "it fits: nobody leaves"
    if leaving:
        gained = [there[n].blocks for n in leaving]
        assert free + sum(gained) >= needed
        assert places + len(leaving) > 0
        short = free + sum(gained[:-1]) < needed or places + len(leaving) - 1 <= 0
        assert short, "nobody leaves for nothing"


def test_the_lightest_and_latest_leaves_first() -> None:
    there = [Running(1, 5.0, 8), Running(2, 1.0, 8), Running(2, 2.0, 8)]
    assert victims(0, 8, 0, 1, there) == [2]
    assert victims(0, 16, 0, 1, there) == [2, 1]
    assert victims(1, 20, 0, 1, there) == [], "two of them would not be enough: they stay"
