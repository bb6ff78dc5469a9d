"""The order of the queue is the same however long a tenant's line is, and every turn in it is found."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.policy.contracts import Contract, ContractBook
from stepwell.policy.queue import Queue
from stepwell.policy.turns import AgentRecord, Turn
from stepwell.policy.types import Caller, RequestArrived

DEFAULT = Contract("default")


def turn(number: int, session: str, *, since_us: int = 0) -> Turn:
    caller = Caller("acme", session=session)
    arrival = RequestArrived(number, caller, 10, 1, ())
    return Turn(
        arrival, AgentRecord("acme", "default", session, "", None), 10, [], DEFAULT, waiting_since_us=since_us
    )


def in_order(queue: Queue, waiting: list[Turn], count: int) -> list[int]:
    """What ``Queue`` promises, over all turns at once."""
    aged = [one.id for one in waiting if one.aged]
    young = [one for one in waiting if not one.aged]
    young.sort(key=lambda one: (not one.had_place, queue.attained.session_rank(one), one.id))
    return [*aged, *(one.id for one in young)][:count]


Steps = st.lists(
    st.tuples(
        st.sampled_from(["add", "add", "add", "open", "preempt", "load fails", "charge", "age"]),
        st.integers(0, 7),
    ),
    min_size=30,
    max_size=120,
)


@settings(max_examples=60)
@given(Steps, st.integers(1, 10))
def test_a_long_line_has_the_order_of_a_short_one(steps: list[tuple[str, int]], count: int) -> None:
    queue, opened, number = Queue(ContractBook([DEFAULT], ordered=True)), deque[Turn](), 0
    for what, which in steps:
        waiting = list(queue)
        if what == "add":
            for _ in range(3):
                number += 1
                queue.add(turn(number, f"s{which}", since_us=number))
        elif what == "open" and waiting:
            opened.append(waiting[which % len(waiting)])
            queue.remove(opened[-1])
        elif what in ("preempt", "load fails") and opened:
            again = opened.popleft()
            again.had_place, again.aged = again.had_place or what == "preempt", False
            again.waiting_since_us = number = number + 1
            queue.add_first(again)
        elif what == "charge" and waiting:
            queue.attained.charge([waiting[-1]], {waiting[-1].id: which})
        elif what == "age":
            queue.age(DEFAULT.max_wait_us + which)
        waiting = list(queue)
        assert [one.id for one in queue.window(count)] == in_order(queue, waiting, count)
    for one in list(queue):
        queue.remove(one)
    assert not queue.window(count) and not queue._by_session["default"]


def test_a_turn_whose_load_failed_is_found_in_a_long_line() -> None:
    queue = Queue(ContractBook([DEFAULT], ordered=True))
    for number in range(1, 60):
        queue.add(turn(number, "a"))
    first = queue.window(1)[0]
    queue.remove(first)
    queue.add_first(first)
    assert queue.window(1) == [first]
