from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.economics.cash import cash_flow
from stepwell.economics.contract_file import changed, parse_changes, plan_of, read_plan
from stepwell.economics.measures import cost_of_delay, left_out, measure, megawatt_year
from stepwell.economics.uncertainty import draws, percentile, swings, what_must_be_true
from stepwell.errors import BadInput
from tests.economics.plans import TEXT, raw_plan

EXAMPLES = Path(__file__).resolve().parents[2] / "examples" / "plans"


def plan(**changes: Any) -> Any:
    return plan_of(changed(raw_plan(), {k.replace("__", "."): v for k, v in changes.items()}), "test")


def test_one_site_by_hand() -> None:
    cash = cash_flow(plan())
    assert sum(cash.capex) == 200_000_000 == cash.capex[0]
    assert sum(cash.revenue) == 36 * 10_000_000
    assert sum(cash.lease) == 48 * 1_000_000
    assert sum(cash.power) == 36 * 10 * 730 * 50
    assert abs(sum(cash.depreciation) - 200_000_000) < Decimal("0.01")
    free = cash.free()
    assert free[0] == 10_000_000 - 200_000_000 - 1_000_000 - 365_000
    assert free[40] == -1_000_000
    found = measure(plan(), cash)
    assert found.exposure == 12 * 1_000_000
    assert found.cash_low == free[0] and found.cash_low_month == 0


def test_a_megawatt_year_by_hand() -> None:
    """20 m at 10 % over four years is 6,309,416 a year; a fifth left at the end is worth 861,883 a year."""
    year = megawatt_year(plan())
    assert abs(year.capital - 6_309_416) < 1
    assert (year.lease, year.power, year.operations, year.paid) == (1_200_000, 438_000, 0, 12_000_000)
    left = megawatt_year(plan(capex__0__residual_share=Decimal("0.2")))
    assert abs(year.capital - left.capital - Decimal("861883.2")) < 1
    assert megawatt_year(plan(discount_rate=0)).capital == 5_000_000


@settings(max_examples=25, deadline=None)
@given(rate=st.integers(1, 30), share=st.integers(0, 90), price=st.integers(2_000_000, 30_000_000))
def test_who_is_paid_what_a_megawatt_year_costs_earns_the_discount_rate(
    rate: int, share: int, price: int
) -> None:
    """Purchase now, level income a year for its life, the rest sold at its end: present value zero."""
    r, n, left = Decimal(rate) / 100, 4, Decimal(share) / 100
    changes = {"discount_rate": r, "capex.0.usd_per_mw": price, "capex.0.residual_share": left}
    charge = megawatt_year(plan_of(changed(raw_plan(), changes), "t")).capital
    earned = sum(charge / (1 + r) ** year for year in range(1, n + 1))
    assert abs(earned + price * left / (1 + r) ** n - price) < Decimal("0.01")


def test_debt_is_repaid_with_interest_and_no_more() -> None:
    cash = cash_flow(
        plan(
            financing__debt_share=Decimal("0.5"), financing__interest=Decimal("0.06"), financing__term_years=2
        )
    )
    assert sum(cash.drawn) == 100_000_000
    assert abs(sum(cash.debt_service) - sum(cash.interest) - 100_000_000) < Decimal("0.01")
    assert abs(cash.debt_service[1] - Decimal("4432061.03")) < 1  # Excel: PMT(0.06/12, 24, 1e8)
    assert cash.debt_service[30] == 0


def test_losses_carry_on_before_tax_is_paid() -> None:
    cash = cash_flow(plan(tax_rate=Decimal("0.2"), sites__0__ramp_months=11))
    profit = sum(cash.revenue[m] - cash.opex(m) - cash.depreciation[m] for m in range(36))
    assert cash.tax[0] == 0
    assert sum(cash.tax[:36]) <= max(Decimal(0), profit) * Decimal("0.2") + 1


def test_a_late_site_pays_rent_and_a_fixed_term_loses_revenue() -> None:
    lost, value = cost_of_delay(plan(sites__delay_months=6))
    assert lost == 6 * 10_000_000 and value > 0
    late = cash_flow(plan(sites__delay_months=6))
    assert late.lease[0] == 1_000_000 and late.revenue[5] == 0
    moved = plan(sites__delay_months=6, customer__end="per site")
    assert cost_of_delay(moved)[0] == 0


def test_the_prepayment_is_not_paid_twice() -> None:
    cash = cash_flow(plan(customer__prepayment_usd=25_000_000))
    assert cash.received[0] == 25_000_000
    assert cash.received[2] == 5_000_000
    assert sum(cash.received) == sum(cash.revenue)


def test_revenue_can_be_tied_to_tokens() -> None:
    tokens = {"usd_per_m_tokens": 1, "tokens_per_s_per_gpu": 1000, "kw_per_gpu": 2}
    once, twice = (
        cash_flow(plan_of(changed(raw_plan(), {"customer.tokens": tokens | {"amplification": a}}), "t"))
        for a in (1, 2)
    )
    assert sum(once.revenue[:12]) == 10 * 500 * Decimal("31536")  # 31,536 m tokens a GPU-year at 1 USD
    assert sum(once.revenue) == 2 * sum(twice.revenue)


@settings(max_examples=25, deadline=None)
@given(
    delay=st.integers(0, 30), ramp=st.integers(0, 24), before=st.integers(0, 12), residual=st.integers(0, 100)
)
def test_what_is_bought_is_paid_once_and_written_off_at_most_once(
    delay: int, ramp: int, before: int, residual: int
) -> None:
    changes = {"sites.delay_months": delay, "sites.ramp_months": ramp, "capex.0.months_before": before}
    built = plan_of(
        changed(raw_plan(years=12), changes | {"capex.0.residual_share": Decimal(residual) / 100}), "t"
    )
    cash = cash_flow(built)
    assert abs(sum(cash.capex) - 200_000_000) < Decimal("0.01")
    assert abs(sum(cash.depreciation) + sum(cash.residual) - 200_000_000) < Decimal("0.01")


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"sites.0.mw": -1}, "sites.0.mw = -1"),
        ({"customer.utilisation": 2}, "customer.utilisation"),
        ({"customer.utlisation": 1}, "utlisation is an unknown key, did you mean utilisation?"),
        ({"sites.0.megawatt_s": 1}, "megawatt_s is an unknown key, there is delay_months, lease_usd"),
        ({"customer.served.amplifcation": 2}, "did you mean amplification?"),
        ({"finance.interest": 1}, "finance is an unknown key, did you mean financing?"),
        ({"customer.usd_per_mw_year": 0}, "usd_per_mw_year or a table"),
        ({"start": "soon"}, "a year and a month, such as 2027-01"),
        ({"start": "2027-13"}, "a year and a month, such as 2027-01"),
        ({"start": 2027}, "start = 2027 is wrong, it should be text in quotes"),
        ({"sites.0.mw": Decimal("1e300")}, "sites.0.mw"),
        ({"sites.0.mw": "20 MW"}, "sites.0.mw = 20 MW is wrong, it should be a number"),
        ({"sites.0.mw": True}, "sites.0.mw = true is wrong, it should be a number"),
        ({"sites": {"mw": 3}}, r"should be tables, each under \[\[sites\]\] in double brackets"),
        ({"power": 3}, "power = 3 is wrong, it should be a table"),
        (
            {"uncertain": {"years": [1, 2]}},
            r"uncertain.years = \[1, 2\] is wrong, it should be three figures",
        ),
    ],
)
def test_wrong_figures_are_one_sentence(changes: dict[str, Any], said: str) -> None:
    with pytest.raises(BadInput, match=said):
        plan_of(changed(raw_plan(), changes), "plan.toml")


@pytest.mark.parametrize("text", ["customer.utilisation", "=3", "a="])
def test_a_what_if_is_key_and_value(text: str) -> None:
    with pytest.raises(BadInput, match="KEY=VALUE"):
        parse_changes([text])


def test_a_what_if_multiplies_and_adds() -> None:
    raw = changed(raw_plan(), parse_changes(["sites.mw=x1.5", "sites.0.delay_months=3", "years=+2"]))
    assert raw["sites"][0]["mw"] == 15 and raw["sites"][0]["delay_months"] == 3 and raw["years"] == 6
    with pytest.raises(BadInput, match="give a value"):
        changed(raw_plan(), {"customer.bad_debt": "x2"})
    with pytest.raises(BadInput, match="1 entries"):
        changed(raw_plan(), {"sites.4.mw": 1})


def test_a_missing_key_is_named(tmp_path: Path) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(TEXT.replace("discount_rate = 0.1\n", ""))
    with pytest.raises(BadInput, match="discount_rate is missing"):
        read_plan(file)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        (
            '[uncertain]\n"customer.util" = [1, 2, 3]',
            r"plan.toml: \[uncertain\]: customer.util is an unknown key",
        ),
        ('[uncertain]\n"years" = [0, 2, 3]', r"\[uncertain\]: years = 0 is wrong"),
        (
            '[[scenarios]]\nname = "late"\nset = { "sites.late" = "+6" }',
            "scenario late: sites.late: .6 changes",
        ),
        (
            '[[scenarios]]\nname = "late"\nset = { "sites.3.mw" = 6 }',
            "scenario late: .* 1 entries, the first",
        ),
    ],
)
def test_what_is_wrong_in_a_scenario_or_a_range_says_where(tmp_path: Path, more: str, said: str) -> None:
    file = tmp_path / "plan.toml"
    file.write_text(f"{TEXT}\n{more}\n")
    with pytest.raises(BadInput, match=said):
        read_plan(file)


def test_what_the_plan_does_not_see_the_end_of_is_said() -> None:
    def said(**changes: Any) -> list[str]:
        return left_out(plan(**changes), cash_flow(plan(**changes)))

    assert said() == []
    assert said(sites__0__promised_month=60)[0] == "a comes in month 60, after the plan's 48 months"
    (short,) = said(customer__years=5)
    assert "term ends in month 60 and the plan after 48" in short and "years = 5 or more" in short
    (half,) = said(capex__0__life_years=8)
    assert half.startswith("50% of what was bought is not written off")
    assert said(capex__0__life_years="4.2") == [], "a twentieth is worth no word"


def test_what_must_be_true_is_true() -> None:
    (price,) = what_must_be_true(raw_plan(), ["customer.usd_per_mw_year"])
    assert price.needed is not None
    there = measure(plan_of(changed(raw_plan(), {"customer.usd_per_mw_year": price.needed}), "t"))
    assert abs(there.npv) < 2_000


def test_a_plan_that_never_breaks_even_says_so() -> None:
    raw = changed(raw_plan(), {"customer.usd_per_mw_year": 1_000})
    found = measure(plan_of(raw, "t"))
    assert found.payback_month is None and found.irr is None and found.npv < 0
    (price,) = what_must_be_true(raw, ["customer.usd_per_mw_year"])
    assert price.needed is None


def test_the_same_seed_draws_the_same() -> None:
    raw = raw_plan(
        uncertain={"customer.usd_per_mw_year": [Decimal(9_000_000), Decimal(12_000_000), Decimal(14_000_000)]}
    )
    first, again, other = ([m.npv for m in draws(raw, 5, seed)] for seed in (1, 1, 2))
    assert first == again != other
    assert percentile(first, 100) == max(first) and percentile(first, 1) == min(first)


def test_the_widest_swing_comes_first() -> None:
    uncertain = {
        "power.grid_usd_per_mwh": [Decimal(49), Decimal(50), Decimal(51)],
        "customer.usd_per_mw_year": [Decimal(9_000_000), Decimal(12_000_000), Decimal(14_000_000)],
    }
    assert [s.key for s in swings(raw_plan(uncertain=uncertain))] == [
        "customer.usd_per_mw_year",
        "power.grid_usd_per_mwh",
    ]


def test_the_public_contract_reaches_the_order_of_its_low() -> None:
    """About 70 billion dollars, and every figure in the file says where it comes from."""
    path = EXAMPLES / "compute-300bn.toml"
    found = measure(plan_of(read_plan(path), "example"))
    assert -80e9 < found.cash_low < -60e9
    assert sum(line.count("#") for line in path.read_text("utf-8").splitlines()) > 60
