"""Many steps that only decode cost what they cost one by one, to the microsecond."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.simulate.accelerator import Accelerator
from stepwell.simulate.hardware import MachineModel, StepCosts
from stepwell.simulate.sums import floor_sum

SMALL = st.integers(0, 10_000)


@given(count=st.integers(0, 60), divisor=st.integers(1, 10_000), slope=SMALL, first=SMALL)
def test_a_sum_of_whole_parts_needs_no_loop(count: int, divisor: int, slope: int, first: int) -> None:
    assert floor_sum(count, divisor, slope, first) == sum(
        (first + slope * i) // divisor for i in range(count)
    )


@pytest.mark.parametrize(
    "model",
    [
        MachineModel(),
        Accelerator(9_876_543, 10, 3, 1_234_567, 4_321, 1),
        Accelerator(900, 10, 3, 7, 4_321, 1),
        Accelerator(9_876_543, 10, 3, 1_234_567, 4_321, 1, experts_ps=77_777_777, expert_tokens=9),
    ],
)
@given(count=st.integers(1, 80), decoding=st.integers(1, 70), depth=st.integers(0, 3_000_000))
def test_strides_are_the_sum_of_their_steps(model: StepCosts, count: int, decoding: int, depth: int) -> None:
    steps = [model.step_us(0, decoding, 0, depth + decoding * i) for i in range(count)]
    assert model.strides_us(count, decoding, depth) == sum(steps)
