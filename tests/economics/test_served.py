"""Revenue of a contract by the turns that it serves: what moves there moves the cash flow."""

from __future__ import annotations

from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from stepwell.commands.plan.choice import Choice
from stepwell.economics.cash import cash_flow
from stepwell.economics.contract_file import changed, plan_of, read_plan
from stepwell.economics.list_prices import ListPrice
from stepwell.economics.measures import Measures, measure
from stepwell.economics.served import served_year
from stepwell.economics.splits import cheapest
from stepwell.economics.uncertainty import what_must_be_true
from stepwell.errors import BadInput
from tests.economics.plans import raw_plan

EXAMPLE = Path(__file__).resolve().parents[2] / "examples" / "plans" / "tokens-100mw.toml"
SERVED = {"part": "h200", "model": "llama-3.1-70b", "list_price": "gpt-5"}


def raw(**served: Any) -> dict[str, Any]:
    found = raw_plan()
    customer = {k: v for k, v in found["customer"].items() if k != "usd_per_mw_year"}
    customer |= {"take_or_pay_share": 0, "served": {**SERVED, **served}}
    return {**found, "customer": customer}


def measured(**served: Any) -> Measures:
    return measure(plan_of(raw(**served), "t"))


def test_a_megawatt_earns_what_plan_price_says() -> None:
    """By hand: turns a second of one replica, times its price, times the replicas of a megawatt."""
    plan = plan_of(raw(), "t")
    assert plan.customer.served is not None
    year = served_year(plan.customer.served)
    case = Choice().case("h200")
    found = cheapest(case, "selective")[1]
    turn = ListPrice.parse("gpt-5", "").turn_usd(case)
    replicas = 1000 / 1.73 / 4
    by_hand = found.turns_per_s * 3600 * 8760 * float(turn) * replicas
    assert float(year.usd_per_mw_year) == pytest.approx(by_hand)
    cash = cash_flow(plan)
    assert float(cash.revenue[0]) == pytest.approx(by_hand * 10 / 12)
    rooms = float(found.usd_hour["dram"] + found.usd_hour["ssd"]) * 8760 * replicas
    assert float(cash.operations[0]) == pytest.approx(rooms * 10 / 12)


def test_amplification_and_kv_tiers_move_the_present_value() -> None:
    base, twice, hbm, both = (
        measured(**changes)
        for changes in ({}, {"amplification": 2}, {"memory": "hbm"}, {"memory": "hbm", "amplification": 2})
    )
    assert float(twice.revenue) == pytest.approx(float(base.revenue) / 2)
    assert base.npv > twice.npv > both.npv and base.npv > hbm.npv > both.npv
    cheaper_disks = measured(figures={"ssd": {"usd_gb": Decimal("0.01")}})
    assert cheaper_disks.npv > base.npv


def test_half_of_the_use_earns_half() -> None:
    halved = changed(raw(), {"customer.utilisation": Decimal("0.5")})
    half, whole = (float(cash_flow(plan_of(one, "t")).revenue[0]) for one in (halved, raw()))
    assert half * 2 == pytest.approx(whole)


def test_how_many_tokens_a_plan_bears_is_solved_for() -> None:
    dear = changed(raw(amplification=1), {"sites.lease_usd_per_kw_month": 1000})
    (needed,) = what_must_be_true(dear, ["customer.served.amplification"])
    assert needed.needed is not None and needed.needed > 1
    there = measure(plan_of(changed(dear, {"customer.served.amplification": needed.needed}), "t"))
    assert abs(there.npv) < abs(measure(plan_of(dear, "t")).npv) / 1000


@pytest.mark.parametrize(
    ("changes", "says"),
    [
        ({"part": "h2000"}, "customer.served: .*did you mean h200"),
        ({"model": "gpt-9"}, "customer.served: .*no model"),
        ({"list_price": "1/2"}, "customer.served: list_price"),
        ({"workload": "x"}, "no workload"),
        ({"chips": 0}, "served.chips = 0"),
        ({"amplification": 0}, "amplification = 0"),
        ({"memory": "tape"}, "memory = tape"),
        ({"figures": {"nonsense": 1}}, "no such input"),
        ({"chips": 1, "model": "llama-3.1-405b"}, "customer.served: .*HBM binds"),
        ({"part": "tpu-v7"}, "customer.served: .*usd_hour"),
    ],
)
def test_what_cannot_be_served_is_one_sentence(changes: dict[str, Any], says: str) -> None:
    with pytest.raises(BadInput, match=says):
        measured(**changes)


def test_only_one_thing_is_sold() -> None:
    tokens = {"usd_per_m_tokens": 1, "tokens_per_s_per_gpu": 1000, "kw_per_gpu": 2}
    with pytest.raises(BadInput, match="only one can be sold"):
        plan_of(changed(raw(), {"customer.tokens": tokens}), "t")


def test_the_example_says_what_tiers_are_worth_against_amplification() -> None:
    plan = read_plan(EXAMPLE)
    borne = [
        what_must_be_true(changed(plan, {"customer.served.memory": kind}), ["customer.served.amplification"])
        for kind in ("hbm", "selective")
    ]
    without, with_tiers = (one[0].needed for one in borne)
    assert without is not None and with_tiers is not None
    assert 1 < without < with_tiers
