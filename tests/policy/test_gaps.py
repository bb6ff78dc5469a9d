"""What is learned about gaps, and what holding a context is worth."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from stepwell.policy.eviction.forecast import Forecaster
from stepwell.policy.eviction.gaps import (
    N_BINS,
    RATE_ONE,
    RATIO_EDGES,
    TIME_EDGES_US,
    GapClass,
    bin_of,
    expected_left,
    index_of,
    prior_gaps,
    prior_ratios,
)
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import Hint, Wait

SECOND = 1_000_000
ONE = 1 << 20


def reach(kind: GapClass, k: int, *, ends: bool = False) -> None:
    """A rest comes to bin ``k``, and is in it still or ends there."""
    kind.begin()
    kind.outlast(0, k)
    if ends:
        kind.end(k)


def learned(gaps_us: list[int], never: int = 0) -> GapClass:
    """A class that saw these gaps, and agents that never came back within a day."""
    kind = GapClass(N_BINS, prior_gaps(ONE // 10, 10 * SECOND, 3600 * SECOND))
    for gap_us in gaps_us:
        reach(kind, bin_of(TIME_EDGES_US, gap_us), ends=True)
    for _ in range(never):
        reach(kind, N_BINS - 1)
    return kind


@given(st.integers(0, 10**12))
def test_a_value_lies_in_its_bin(value: int) -> None:
    for edges in (TIME_EDGES_US, RATIO_EDGES):
        k = bin_of(edges, value)
        assert edges[k] <= value
        assert k + 1 == len(edges) or value < edges[k + 1]


@given(st.integers(SECOND, 600 * SECOND))
def test_a_sure_gap_is_worth_one_over_what_is_left(gap_us: int) -> None:
    """Then the ranking is Belady's."""
    hazards = learned([gap_us] * 500).hazards()
    worth = RATE_ONE / index_of(hazards, TIME_EDGES_US, 0)
    assert 0.5 * gap_us <= worth <= 2 * gap_us


def test_agents_that_never_come_back_are_worth_less() -> None:
    gaps = [10 * SECOND] * 100
    sure, half = learned(gaps), learned(gaps, never=100)
    assert index_of(half.hazards(), TIME_EDGES_US, 0) < index_of(sure.hazards(), TIME_EDGES_US, 0)
    assert sure.chance(0) > 0.95 * ONE
    assert 0.4 * ONE < half.chance(0) < 0.65 * ONE
    assert expected_left(half.hazards(), TIME_EDGES_US, 60 * SECOND) is None


def every_time_tried(hazards: list[int], edges: tuple[int, ...], elapsed: int) -> int:
    """The index by its definition: no time at which one might give up is left out."""
    alive, returned, held, best = ONE, 0, 0, 0
    for k in range(bin_of(edges, elapsed), len(edges) - 1):
        start, hazard = max(elapsed, edges[k]), hazards[k]
        hazard = hazard * (edges[k + 1] - start) // (edges[k + 1] - edges[k])
        gone = alive * hazard >> 20
        returned += gone
        held += (alive - gone // 2) * (edges[k + 1] - start)
        best = max(best, returned * RATE_ONE // max(held, 1))
        alive -= gone
        if alive <= 16:
            break
    return best


HAZARDS = st.integers(0, 21).map(lambda halvings: ONE >> halvings)


@given(st.lists(HAZARDS, min_size=N_BINS, max_size=N_BINS), st.integers(0, 10**12))
def test_giving_up_the_search_early_finds_the_same_worth(hazards: list[int], elapsed: int) -> None:
    assert index_of(hazards, TIME_EDGES_US, elapsed) == every_time_tried(hazards, TIME_EDGES_US, elapsed)


def test_the_worth_falls_once_the_usual_time_is_over() -> None:
    """Quick tools and slow people: after ten seconds it was not the quick one."""
    hazards = learned([2 * SECOND] * 300 + [600 * SECOND] * 100).hazards()
    assert index_of(hazards, TIME_EDGES_US, 10 * SECOND) * 20 < index_of(hazards, TIME_EDGES_US, 0)


def test_two_classes_that_differ_are_told_apart_by_few_observations() -> None:
    quick, slow = learned([SECOND] * 10), learned([300 * SECOND] * 10)
    assert index_of(quick.hazards(), TIME_EDGES_US, 0) > 10 * index_of(slow.hazards(), TIME_EDGES_US, 0)


def test_a_rest_that_goes_on_counts_for_the_bins_it_outlasted_only() -> None:
    kind = learned([10 * SECOND] * 50)
    before = kind.chance(0)
    for _ in range(50):  # young rests: they say nothing about ten seconds
        reach(kind, bin_of(TIME_EDGES_US, SECOND))
    assert abs(kind.chance(0) - before) < ONE // 20


def test_who_is_still_in_a_bin_counts_there_beside_who_has_ended_in_it() -> None:
    """Else the oldest bin that anybody has come to looks as if all who come to it ended there."""
    kind, oldest = learned([]), bin_of(TIME_EDGES_US, 900 * SECOND)
    for number in range(105):
        reach(kind, oldest, ends=number < 5)
    assert 0.04 * ONE < kind.hazards()[oldest] < 0.12 * ONE, "5 of the 50 or so that have had their time"


def test_where_nobody_has_been_yet_a_class_is_taken_to_go_on_as_it_did() -> None:
    """One in a hundred has ended in each bin up to 15 minutes, where one in ten was expected."""
    kind, oldest = learned([]), bin_of(TIME_EDGES_US, 900 * SECOND)
    for _ in range(100):
        for k in range(bin_of(TIME_EDGES_US, 10 * SECOND), oldest):
            reach(kind, k, ends=True)
    for _ in range(10_000 // 8):
        reach(kind, oldest)
    prior = prior_gaps(ONE // 10, 10 * SECOND, 3600 * SECOND)
    assert kind.chance(oldest + 1) < prior.chance(oldest + 1) // 2
    as_expected = learned([k_us for k_us in TIME_EDGES_US if k_us <= 900 * SECOND])
    assert as_expected.chance(oldest + 1) > prior.chance(oldest + 1) * 3 // 4, (
        "little is known: the prior counts"
    )


def test_old_habits_fade() -> None:
    kind = learned([SECOND] * 3_000)
    for _ in range(3_000):
        reach(kind, bin_of(TIME_EDGES_US, 300 * SECOND), ends=True)
    worth = RATE_ONE / index_of(kind.hazards(), TIME_EDGES_US, 0)
    assert worth > 3 * SECOND


def test_one_tenant_bends_what_others_begin_with_only_so_far() -> None:
    """A flood of one tenant's rests counts like its first few."""

    def everybody(flood: int) -> GapClass:
        common = GapClass(N_BINS, prior_gaps(ONE // 10, 10 * SECOND, 3600 * SECOND))
        for gap_us, rests in ((10 * SECOND, 100), (1_000 * SECOND, flood)):
            tenant = GapClass(N_BINS, common, shared=24)
            for _ in range(rests):
                reach(tenant, bin_of(TIME_EDGES_US, gap_us), ends=True)
        return common

    few, many = everybody(25), everybody(5_000)
    assert index_of(few.hazards(), TIME_EDGES_US, 0) == index_of(many.hazards(), TIME_EDGES_US, 0)


def test_declarations_that_come_true_are_believed_more_than_those_that_do_not() -> None:
    def tenant(ratio: int) -> GapClass:
        kind = GapClass(len(RATIO_EDGES), prior_ratios())
        for _ in range(40):
            reach(kind, bin_of(RATIO_EDGES, ratio), ends=True)
        return kind

    honest, liar = tenant(1024), tenant(1024 * 60)
    assert index_of(honest.hazards(), RATIO_EDGES, 0) > 4 * index_of(liar.hazards(), RATIO_EDGES, 0)


def test_an_exact_declaration_is_told_exactly_and_not_to_a_bin() -> None:
    """Agents that come when they said are worth 1 / what is left shortly before, though a bin is a fifth of
    what they said; those that come anywhere in it are not."""

    def index(late_us: int) -> int:
        forecaster, now_us = Forecaster(), 0
        record = AgentRecord("t", "default", "s", "main", None, hint=Hint(Wait.TOOL, 1_000 * SECOND))
        for _ in range(200):
            idle = forecaster.begin(record, now_us)
            now_us += 1_000 * SECOND + late_us
            forecaster.end(idle, now_us)
        idle = forecaster.begin(record, now_us)
        return forecaster.index(idle, now_us + 990 * SECOND)

    sharp, spread = RATE_ONE // index(SECOND // 1_000), RATE_ONE // index(180 * SECOND)
    assert 10 * SECOND <= sharp < 30 * SECOND
    assert spread > 100 * SECOND


def test_a_declared_rest_is_looked_at_ever_sooner_before_its_end() -> None:
    forecaster, now_us, looks = Forecaster(), 0, 0
    record = AgentRecord("t", "default", "s", "main", None, hint=Hint(Wait.TOOL, 1_000 * SECOND))
    idle = forecaster.begin(record, now_us)
    while now_us < 1_000 * SECOND - SECOND // 10:
        next_us = forecaster.advance(idle, now_us)
        assert next_us is not None and next_us - now_us <= max(SECOND, 1_000 * SECOND - now_us) // 2
        now_us, looks = next_us, looks + 1
    assert looks < 40


def test_who_only_looks_changes_nothing() -> None:
    """What was learned is taken up at certain points, and a glance from outside is none of them."""
    looked_at, left_alone = learned([SECOND] * 3), learned([SECOND] * 3)
    assert looked_at.peek() == left_alone.hazards()
    looked_at.hazards()
    for count in range(200):
        for kind in (looked_at, left_alone):
            reach(kind, count % 5, ends=True)
        looked_at.peek()
        if count % 7 == 0:
            assert looked_at.hazards() == left_alone.hazards()


DEEDS = st.lists(
    st.tuples(
        st.integers(0, 2), st.sampled_from(["rest", "ask", "age"]), st.integers(0, 48), st.integers(0, 6)
    ),
    max_size=60,
)


@given(DEEDS)
def test_only_what_has_changed_is_worked_out_and_it_is_what_all_of_it_would_be(
    deeds: list[tuple[int, str, int, int]],
) -> None:
    wide = GapClass(N_BINS, prior_gaps(1 << 17, SECOND, 600 * SECOND))
    kinds = [wide, GapClass(N_BINS, wide), GapClass(N_BINS, wide, 24)]
    for number, deed, first, length in deeds:
        kind = kinds[number]
        if deed == "rest":
            last = min(first + length, N_BINS - 1)
            kind.begin()
            kind.outlast(0, last)
            if length % 3:
                kind.end(last)
        elif deed == "age":
            kind.reached[0] = 2_000
            kind.begin()  # makes all counts half
        kind._due_version = 0
        wide._due_version = 0
        assert kind.hazards() == kind._rates(None if kind.parent is None else kind.parent._hazards)
