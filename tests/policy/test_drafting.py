"""How many guesses are checked follows from what they were worth and what they cost."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.costs import Costs
from stepwell.policy.drafting import DraftRecord, worth_checking
from stepwell.policy.types import Computed


def costs_of(step_us: int, draft_us: int) -> Costs:
    costs = Costs()
    for streams in (1, 2, 4, 1, 2, 4):
        costs.saw_step(Computed(0, streams, 0, step_us))
    costs.draft_ns = draft_us * 1000
    return costs


def test_nothing_is_checked_before_a_step_was_measured() -> None:
    assert worth_checking(DraftRecord(), 16, 1, Costs()) == 0


def test_cheap_right_guesses_are_all_checked_and_wrong_ones_soon_none() -> None:
    record, costs = DraftRecord(), costs_of(10_000, 500)
    for _ in range(40):
        record.saw(16, 16)
    assert worth_checking(record, 16, 1, costs) == 16
    for _ in range(60):
        record.saw(4, 0)
    assert worth_checking(record, 16, 1, costs) == 0


def test_an_agent_whose_guesses_were_wrong_is_tried_again_now_and_then() -> None:
    record, costs = DraftRecord(), costs_of(10_000, 500)
    for _ in range(40):
        record.saw(4, 0)
    asked = [worth_checking(record, 16, 1, costs) for _ in range(64)]
    assert asked.count(1) == 2 and set(asked) == {0, 1}


@given(
    drafts=st.lists(st.tuples(st.integers(1, 32), st.integers(0, 32)), max_size=40),
    step_us=st.integers(1, 10**6),
    draft_us=st.integers(1, 10**6),
    offered=st.integers(0, 32),
)
def test_more_streams_never_check_more_and_right_guesses_never_less(
    drafts: list[tuple[int, int]], step_us: int, draft_us: int, offered: int
) -> None:
    record = DraftRecord()
    for drafted, accepted in drafts:
        record.saw(drafted, min(drafted, accepted))
    assert 0 <= record.right <= record.tried
    costs = costs_of(step_us, draft_us)
    counts = [worth_checking(record, offered, streams, costs) for streams in (1, 2, 8, 32)]
    assert all(0 <= count <= offered for count in counts)
    record.passed_over = 0
    before = worth_checking(record, offered, 1, costs)
    record.saw(16, 16)
    assert worth_checking(record, offered, 1, costs) >= before


def test_what_a_guess_costs_is_measured() -> None:
    costs = costs_of(10_000, 1)
    costs.draft_ns = None
    costs.saw_step(Computed(0, 1, 0, 14_000, draft_tokens=8))
    assert costs.draft_us() == 500
    assert costs.decode_us()[0] == 10_000
