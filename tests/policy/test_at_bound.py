"""Of the turns at their bound one leads at a time, in the order in which they came."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.policy.at_bound import AtBound
from stepwell.policy.turns import Turn, TurnState
from tests.policy.test_queue import turn

Steps = st.lists(
    st.tuples(st.sampled_from(["add", "add", "open", "waits", "waits no more", "end"]), st.integers(0, 9)),
    min_size=20,
    max_size=80,
)


@settings(max_examples=100)
@given(Steps)
def test_one_leads_until_it_ends_and_then_who_came_first_of_those_that_can_go_on(
    steps: list[tuple[str, int]],
) -> None:
    at_bound, there = AtBound(), list[Turn]()
    for number, (what, which) in enumerate(steps, start=1):
        before = at_bound.leader
        chosen = there[which % len(there)] if there else None
        if what == "add":
            there.append(turn(number, "s", since_us=which))
            at_bound.add(there[-1])
            at_bound.add(there[-1])  # as in the next step
        elif chosen is not None and what == "open":
            chosen.state, chosen.behind = TurnState.RUNNING, False
        elif chosen is not None and what == "end":
            there.remove(chosen)
            at_bound.ended(chosen)
        elif chosen is not None and chosen.state is not TurnState.RUNNING:
            chosen.behind = what == "waits"
        at_bound.choose()
        holds(at_bound, there, before)
    for one in sorted(there, key=lambda one: (not one.leads, one.due_us, one.id)):
        one.behind = False
    while there:
        at_bound.choose()
        leader = at_bound.leader
        assert leader is not None
        there.remove(leader)
        at_bound.ended(leader)
    assert at_bound.leader is None
    assert not at_bound.front(9)


def holds(at_bound: AtBound, there: list[Turn], before: Turn | None) -> None:
    can = [one for one in there if one.state is TurnState.RUNNING or not one.behind]
    leader = at_bound.leader
    assert [one for one in there if one.leads] == ([leader] if leader else [])
    if before in can:
        assert leader is before
    else:
        assert leader is min(can, key=lambda one: (one.due_us, one.id), default=None)
    front = at_bound.front(4)
    assert all(one in there and one.state is not TurnState.RUNNING for one in front)
    if leader is not None and leader.state is not TurnState.RUNNING:
        assert leader in front, "it is in sight however many it has passed"
        assert all(one.behind for one in front[: front.index(leader)]), (
            "and none that finds no room stands before it"
        )
    assert len(front) <= 4


def test_what_it_has_passed_stays_in_sight_until_it_has_a_place() -> None:
    """Else what was read for it would be dropped again, and it would never be ready when it is its turn."""
    at_bound, first, second = AtBound(), turn(1, "a"), turn(2, "b")
    first.behind = True
    for one in (second, first):
        at_bound.add(one)
    at_bound.choose()
    assert at_bound.leader is second
    assert at_bound.front(9) == [first, second]
    second.state, first.behind = TurnState.RUNNING, False
    at_bound.choose()
    assert at_bound.leader is second
    assert at_bound.front(9) == [first]
    at_bound.ended(second)
    at_bound.choose()
    assert at_bound.leader is first
