from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.economics.finance import (
    annuity,
    capital_recovery,
    irr,
    monthly_rate,
    npv,
    payback_month,
    yearly,
)

pyxirr = pytest.importorskip("pyxirr")
D = Decimal


def test_present_value_by_hand() -> None:
    flows = [D(-100)] + [D(0)] * 11 + [D(110)]
    assert abs(npv(D("0.1"), flows)) < D("1e-9")
    assert irr(flows) == pytest.approx(0.1, abs=1e-7)


def test_a_rate_where_the_flows_turn_twice_is_the_one_of_the_investment() -> None:
    flows = [D(-100), *[D(5)] * 36, *[D(-1)] * 60]
    rate = irr(flows)
    assert rate is not None
    assert npv(D(str(rate - 0.01)), flows) > 0 > npv(D(str(rate + 0.01)), flows)


def test_there_is_no_rate_without_income() -> None:
    assert irr([D(-1), D(-1)]) is None


@given(st.lists(st.integers(1, 1000), min_size=13, max_size=60), st.integers(100, 5000))
def test_the_rate_agrees_with_the_library(income: list[int], cost: int) -> None:
    flows = [D(-cost), *map(D, income)]
    ours, theirs = irr(flows), pyxirr.irr([float(f) for f in flows])
    if ours is not None and theirs is not None:
        assert ours == pytest.approx((1 + theirs) ** 12 - 1, abs=1e-5)


def test_annuity_and_capital_recovery_by_hand() -> None:
    assert annuity(D(1200), D(0), 12) == 100
    assert float(annuity(D(1000), D("0.12"), 12)) == pytest.approx(88.8488, abs=1e-4)
    assert float(capital_recovery(D("0.1"), D(5))) == pytest.approx(0.263797, abs=1e-6)
    assert capital_recovery(D(0), D(5)) == D("0.2")
    assert float((1 + monthly_rate(D("0.1"))) ** 12) == pytest.approx(1.1)


def test_payback_is_the_last_crossing() -> None:
    assert payback_month([D(-1), D(2), D(-3), D(3)]) == 3
    assert payback_month([D(-2), D(1)]) is None
    assert payback_month([D(1), D(1)]) == 0


def test_years_are_twelve_months() -> None:
    assert yearly([D(1)] * 14) == [12, 2]
