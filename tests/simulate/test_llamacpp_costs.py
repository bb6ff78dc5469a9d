"""The cost model of llama.cpp on a CPU: its three ways, sums in closed form, and lines that nobody saw."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.errors import StepwellError
from stepwell.simulate.hardware import depth_apart
from stepwell.simulate.llamacpp_costs import TILE_TOKENS, LlamaCppCosts, fit_costs, row_of

MODEL = LlamaCppCosts(
    22_000_000_000, 25_000_000, 20_000_000_000, 7_000_000_000, 8_000_000_000, 9_000_000, 2_500_000,
    300_000_000, 23_040,
)  # fmt: skip
STEPS = [
    *((0, 1, 0, 100 * n) for n in range(1, 8)),
    *((0, n, 0, 90 * n * n) for n in range(2, 9)),
    *((30, n, 30 * 400 * n, 700) for n in range(1, 8)),
    *((100 + 20 * n, n % 4, 9_000 * n, 500 * (n % 4)) for n in range(8)),
]


def test_each_way_has_its_own_line() -> None:
    assert MODEL.step_us(0, 1, 0, 1000) == 47_000  # one thread
    assert MODEL.step_us(0, 2, 0, 1000) == 45_000  # row by row
    assert MODEL.step_us(62, 1, 1000, 0) == MODEL.step_us(62, 1, 0, 1000)
    assert MODEL.step_us(63, 1, 1000, 0) < MODEL.step_us(63, 1, 0, 1000)  # in tiles
    assert MODEL.tile_tokens == TILE_TOKENS


@given(st.integers(1, 40), st.integers(1, 100), st.integers(0, 10**6))
def test_strides_are_the_sum_of_their_steps(count: int, decoding: int, depth: int) -> None:
    each = [MODEL.step_us(0, decoding, 0, depth + decoding * i) for i in range(count)]
    assert MODEL.strides_us(count, decoding, depth) == sum(each)


def test_lines_are_found_again() -> None:
    found = fit_costs([row_of(*step) for step in STEPS], [MODEL.step_us(*step) for step in STEPS], 1)
    assert [found.step_us(*step) for step in STEPS] == pytest.approx(
        [MODEL.step_us(*s) for s in STEPS], rel=1e-3
    )


@pytest.mark.parametrize(
    ("left", "asked"),
    [
        (lambda s: s[0] + s[1] != 1, (0, 1, 0, 500)),
        (lambda s: s[0] == 0, (100, 1, 5000, 500)),
        (lambda s: s[0] + s[1] == 1, (200, 2, 20_000, 900)),
        (lambda s: s[0] + s[1] >= TILE_TOKENS, (0, 4, 0, 4000)),
        (lambda s: s[1] == 0 or s[0] + s[1] < TILE_TOKENS, (100, 3, 5000, 900)),
    ],
)
def test_what_no_step_showed_still_takes_time(left: object, asked: tuple[int, int, int, int]) -> None:
    assert callable(left)
    steps = [step for step in STEPS * 3 if left(step)]
    costs = fit_costs([row_of(*s) for s in steps], [MODEL.step_us(*s) for s in steps], 1)
    took_us = costs.step_us(*asked)
    assert MODEL.step_us(*asked) / 10 < took_us < MODEL.step_us(*asked) * 10


def test_a_few_steps_are_no_fit() -> None:
    with pytest.raises(StepwellError, match="3 steps are too few"):
        fit_costs([row_of(*step) for step in STEPS[:3]], [1, 2, 3], 1)


def test_what_is_shared_is_read_once() -> None:
    names = [bytes([n]) for n in range(9)]
    alone = depth_apart([], [(names, 35)], 4)
    assert alone == 35
    assert depth_apart([], [(names, 35), (names, 34)], 4) == 32 + 3 + 2
    assert depth_apart([names[:4]], [(names, 35)], 4) == 35 - 16
