from __future__ import annotations

from dataclasses import replace

import pytest

from stepwell.commands.plan.choice import Choice
from stepwell.economics.roofline import _tpot_by_batch, largest_batch, sequences_that_fit, tpot_ms
from stepwell.economics.splits import cheapest
from stepwell.economics.steps import Gaps, Memory, steady, usd_per_gb_written
from stepwell.errors import BadInput

GAPS = Gaps(((1.0, 0.0), (10.0, 0.5), (100.0, 1.0)))


def test_gaps_follow_their_quantiles() -> None:
    assert GAPS.shorter(10) == 0.5 and GAPS.shorter(0.5) == 0 and GAPS.shorter(1e9) == 1


def test_mean_held_is_the_integral() -> None:
    steps = [0.001 * k for k in range(50_000)]
    assert GAPS.mean_held(50) == pytest.approx(sum(0.001 * (1 - GAPS.shorter(s)) for s in steps), rel=1e-3)


def test_kept_time_inverts_the_mean() -> None:
    assert GAPS.mean_held(GAPS.kept_s(12.0)) == pytest.approx(12.0, rel=1e-6)


def test_wear_costs_what_the_formula_says() -> None:
    assert float(usd_per_gb_written(Choice().case("h200").ssd)) == pytest.approx(0.36 / (365 * 5))


def test_more_memory_finds_more_and_a_third_step_is_cheaper_for_agents() -> None:
    case = Choice().case("h200")
    found = [steady(case, m).hit_share for m in (Memory(), Memory(500), Memory(500, 30_720))]
    assert found == sorted(found) and found[0] < found[2] <= 0.962248
    costs = {
        kind: cheapest(case, kind)[1].usd_per_turn for kind in ("hbm", "dram", "selective", "everything")
    }
    assert costs["selective"] < costs["dram"] < costs["hbm"]
    assert costs["selective"] <= costs["everything"]


def test_the_largest_batch_meets_the_target_and_one_more_does_not() -> None:
    case = Choice(workload="conversation").case("h200")
    full = largest_batch(case.serving, case.constants, 60)
    assert tpot_ms(full, case.constants) <= 60
    more = full.with_batch(full.batch + 1)
    assert tpot_ms(more, case.constants) > 60 or more.batch > sequences_that_fit(more)


def test_what_cannot_be_met_says_what_binds() -> None:
    with pytest.raises(BadInput, match="HBM binds"):
        steady(Choice(chips=1, weights="bf16").case("h100"), Memory())
    with pytest.raises(BadInput, match="binds"):
        steady(replace(Choice().case("h200"), target_tpot_ms=0.01), Memory())


def test_what_the_catalogue_lacks_can_be_set() -> None:
    with pytest.raises(BadInput, match="usd_hour"):
        Choice().case("tpu-v7")
    assert Choice(what_if=["usd_hour_rent=3"]).case("tpu-v7").usd_chip_hour == 3
    with pytest.raises(BadInput, match="no such input"):
        Choice(what_if=["hbm=3"]).case("h200")
    with pytest.raises(BadInput, match="at or above zero"):
        Choice(what_if=["hbm_gb=-3"]).case("h200")


@pytest.mark.parametrize("model", ["llama-3.1-70b", "qwen3-30b-a3b", "deepseek-v3"])
def test_times_of_many_batches_are_those_of_each(model: str) -> None:
    """Also of a mixture, whose weights are read in part by small batches."""
    case = Choice(model=model, chips=8, workload="chat").case("h200")
    quick = _tpot_by_batch(case.serving, case.constants)
    for batch in (1, 2, 3, 17, 256):
        assert quick(batch) == pytest.approx(tpot_ms(case.serving.with_batch(batch), case.constants))
