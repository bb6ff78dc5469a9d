"""The order of the queue is the same however long a tenant's line is, and every turn in it is found."""

from __future__ import annotations

from collections import deque

from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.policy.contracts import Contract, ContractBook
from stepwell.policy.queue import Queue
from stepwell.policy.turns import AgentRecord, Turn, TurnState
from stepwell.policy.types import Caller, RequestArrived

DEFAULT = Contract("default", max_wait_us=40)


def turn(number: int, session: str, *, since_us: int = 0) -> Turn:
    caller = Caller("acme", session=session)
    arrival = RequestArrived(number, caller, 10, 1, ())
    return Turn(
        arrival, AgentRecord("acme", "default", session, "", None), 10, [], DEFAULT, waiting_since_us=since_us
    )


def in_order(queue: Queue, waiting: list[Turn], aged: list[int], count: int) -> list[int]:
    """What ``Queue`` promises, over all turns at once: who leads, then ``aged`` in the order in which
    they came to it."""
    young = [one for one in waiting if not one.aged]
    young.sort(key=lambda one: (not one.had_place, queue.attained.session_rank(one), one.id))
    present = {one.id for one in waiting}
    leads = [one.id for one in waiting if one.leads]
    others = [one for one in aged if one in present and one not in leads]
    return [*leads, *others, *(one.id for one in young)][:count]


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
    aged: list[int] = []
    for now_us, (what, which) in enumerate(steps, start=1):
        waiting = list(queue)
        if what == "add":
            for _ in range(3):
                number += 1
                queue.add(turn(number, f"s{which}", since_us=now_us))
        elif what == "open" and waiting:
            opened.append(waiting[which % len(waiting)])
            queue.remove(opened[-1])
            opened[-1].goes_on(now_us)
            opened[-1].state = TurnState.RUNNING
        elif what in ("preempt", "load fails") and opened:
            again = opened.popleft()
            again.had_place = again.had_place or what == "preempt"
            again.stands_still(now_us)
            again.state = TurnState.WAITING
            queue.add_first(again)
            if again.aged:
                aged.remove(again.id)
                aged.insert(0, again.id)
        elif what == "charge" and waiting:
            queue.attained.charge([waiting[-1]], {waiting[-1].id: which})
        elif what == "age":
            queue.age(now_us + which)
            aged += [one.id for one in queue if one.aged and one.id not in aged]
        waiting = list(queue)
        assert waiting == sorted(waiting, key=lambda one: one.waiting_since_us)
        assert [one.id for one in queue.window(count)] == in_order(queue, waiting, aged, count)
    for one in list(queue):
        queue.at_bound.ended(one)
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
