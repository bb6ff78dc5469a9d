"""Intervals hold what they promise, on simulated data and at the edges."""

from __future__ import annotations

import random

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.fit.statistics import Estimate, Resamples, mcnemar, quantile, wilson

FEW = Resamples(count=200)
answers = st.lists(st.tuples(st.booleans(), st.booleans()), min_size=1, max_size=40)


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    [(0, 10, 0.0, 0.2775), (10, 10, 0.7225, 1.0), (5, 10, 0.2366, 0.7634), (1, 1, 0.2065, 1.0)],
)
def test_wilsons_interval_is_the_published_one(right: int, count: int, low: float, high: float) -> None:
    found = wilson(right, count)
    assert found.value == right / count
    assert (found.low, found.high) == pytest.approx((low, high), abs=1e-3)


def test_a_proportion_of_nothing_is_refused() -> None:
    for right, count in ((0, 0), (2, 1), (-1, 3)):
        with pytest.raises(ValueError, match="no proportion"):
            wilson(right, count)


@given(st.integers(0, 300), st.integers(1, 300))
def test_a_proportion_lies_in_its_interval(right: int, count: int) -> None:
    found = wilson(min(right, count), count)
    assert found.low is not None
    assert found.high is not None
    assert 0 <= found.low <= found.value <= found.high <= 1


@settings(max_examples=25)
@given(answers)
def test_a_difference_lies_in_its_interval_and_turns_round_with_its_sides(
    pairs: list[tuple[bool, bool]],
) -> None:
    left, right = [a for a, _ in pairs], [b for _, b in pairs]
    there, back = FEW.difference(left, right), FEW.difference(right, left)
    assert there.low is not None
    assert there.high is not None
    assert -1 <= there.low <= there.value <= there.high <= 1
    assert there.value == -back.value
    assert FEW.difference(left, left).value == 0


def covered(rate_left: float, rate_right: float, items: int, runs: int) -> int:
    """How often the interval holds the true difference; answers go together, as on the same items."""
    dice = random.Random(1)
    hits = 0
    for run in range(runs):
        draws = [(dice.random(), dice.random()) for _ in range(items)]
        left = [hard * 0.7 + own * 0.3 < rate_left for hard, own in draws]
        right = [hard * 0.7 + own * 0.3 < rate_right for hard, own in ((h, dice.random()) for h, _ in draws)]
        found = Resamples(seed=run, count=300).difference(left, right)
        truth = share_below(rate_left) - share_below(rate_right)
        assert found.low is not None
        assert found.high is not None
        hits += found.low <= truth <= found.high
    return hits


def share_below(rate: float) -> float:
    dice = random.Random(2)
    return sum(0.7 * dice.random() + 0.3 * dice.random() < rate for _ in range(100_000)) / 100_000


@pytest.mark.parametrize(("left", "right"), [(0.6, 0.6), (0.7, 0.5)])
def test_the_true_difference_is_in_nineteen_of_twenty_intervals(left: float, right: float) -> None:
    runs = 120
    assert covered(left, right, items=60, runs=runs) >= 0.9 * runs


def test_a_few_equal_answers_are_no_certainty() -> None:
    for right in ([True] * 8, [False] * 8, [True]):
        found = Resamples().difference(right, right)
        assert found.value == 0
        assert found.low is not None
        assert found.low < 0
        assert not found.surely_positive


def test_a_plain_difference_is_sure() -> None:
    found = Resamples().difference([True] * 40, [False] * 30 + [True] * 10)
    assert found.surely_positive
    worse = Resamples().difference([False] * 40, [True] * 40)
    assert worse.high is not None and worse.high < 0


def test_the_same_seed_gives_the_same_interval() -> None:
    left, right = [True, False, True, True] * 5, [False, False, True, False] * 5
    assert Resamples(3).difference(left, right) == Resamples(3).difference(left, right)


def test_a_ratio_of_sums_has_bounds_where_the_data_bound_it() -> None:
    found = Resamples().ratio([2] * 30, [4] * 30)
    assert found == Estimate(0.5, 0.5, 0.5)
    assert Resamples().ratio([1, 1], [0, 0]) is None
    assert Resamples().ratio([1, 1], [-3, 1]) is None


def test_a_ratio_over_what_is_hardly_positive_is_open() -> None:
    found = Resamples().ratio([1] * 10, [1, -1] * 4 + [1, 1])
    assert found == Estimate(5.0, None, None)
    assert not found.surely_positive


def test_doubts_widen_a_ratio_and_leave_its_value() -> None:
    plain, careful = (
        Resamples().ratio([0] * 9, [5] * 9),
        Resamples().ratio([0] * 9, [5] * 9, [(1, 5), (-1, 5)]),
    )
    assert plain == Estimate(0, 0, 0)
    assert careful is not None
    assert careful.value == 0
    assert careful.low is not None
    assert careful.low < 0


def test_mcnemar_is_the_binomial_test_of_the_items_that_differ() -> None:
    assert mcnemar([True] * 5, [True] * 5) == 1
    assert mcnemar([True] * 6 + [False], [False] * 7) == pytest.approx(2 / 64)
    assert mcnemar([True, False], [False, True]) == 1


def test_a_quantile_is_one_of_the_values() -> None:
    assert [quantile([5, 1, 3, 9], share) for share in (0.0, 0.25, 0.5, 0.75, 1.0)] == [1, 1, 3, 5, 9]
    with pytest.raises(ValueError, match="nothing"):
        quantile([], 0.5)
