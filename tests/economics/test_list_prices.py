"""Prices, products and generations: against hand-computed cases and what must hold for any figure."""

from __future__ import annotations

from decimal import Decimal

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.catalogue.load import entry
from stepwell.commands.plan.choice import Choice
from stepwell.economics.generations import Training, splits, training_chips
from stepwell.economics.list_prices import ListPrice, margin, named_prices, turn_cost_usd
from stepwell.economics.products import Flash, Product, earned, steps_to_flash
from stepwell.economics.splits import cheapest
from stepwell.economics.steps import Memory, steady
from stepwell.errors import BadInput

D = Decimal
CHAT = Choice(workload="chat", model="llama-3.1-8b", chips=1)


def test_a_price_is_three_figures_or_a_name() -> None:
    assert ListPrice.parse("1.25/0.125/10", "--x") == ListPrice.parse("gpt-5", "--x")
    assert ListPrice.parse("GPT-5", "--x").times(D(2)) == ListPrice(D("2.5"), D("0.25"), D(20))
    assert len(named_prices("all", "--x")) > 10
    for text, says in (
        ("1/2", "write input/cached/output"),
        ("gpt5", "did you mean gpt-5"),
        ("-1/0/0", "zero"),
    ):
        with pytest.raises(BadInput, match=says):
            ListPrice.parse(text, "--x")


def test_a_turn_at_list_price_by_hand() -> None:
    """1,155 tokens in, of which three tenths were there before, 211 out, at 1/0.1/10 dollars a million."""
    expected = D(1155) * D("0.7") * 1 + D(1155) * D("0.3") * D("0.1") + D(211) * 10
    found = ListPrice(D(1), D("0.1"), D(10)).turn_usd(CHAT.case("h200"))
    assert float(found) == pytest.approx(float(expected) / 1e6)


def test_twice_the_turns_cost_twice_and_twice_the_length_costs_less_than_that() -> None:
    case = CHAT.case("h200")
    found = cheapest(case, "hbm")[1]
    once = turn_cost_usd(case, "hbm", found, D(1), 1)
    turns = turn_cost_usd(case, "hbm", found, D(1), 2, "turns")
    answers = turn_cost_usd(case, "hbm", found, D(1), 2, "answers")
    assert turns == 2 * once
    assert once < answers < turns


def test_margin_by_hand() -> None:
    assert margin(D(4), D(1)) == 0.75 and margin(D(0), D(1)) is None


def test_a_smaller_batch_is_taken_where_it_is_cheaper() -> None:
    """A loose target would fill HBM with running contexts and leave none to those that rest."""
    loose = Choice(tpot_ms=240).case("h200")
    found = cheapest(loose, "hbm")[1]
    assert found.usd_per_turn < steady(loose, Memory()).usd_per_turn
    assert found.tpot_ms <= 240
    tight = cheapest(Choice(tpot_ms=60).case("h200"), "hbm")[1]
    assert float(found.usd_per_turn) <= float(tight.usd_per_turn) * 1.05


@settings(max_examples=4, deadline=None)
@given(turns=st.integers(1, 100), share=st.integers(1, 100), tokens=st.integers(10, 100))
def test_each_step_to_flash_changes_what_it_says(turns: int, share: int, tokens: int) -> None:
    pro_case = CHAT.case("h200")
    price = ListPrice(D(1), D("0.1"), D(10))
    pro = Product("pro", pro_case, price, D(turns), D("0.5"))
    flash = Flash(pro_case, price, D(share) / 100, D(tokens) / 100, D("0.4"))
    whole, small, pruned, short = (earned(p, pro, "hbm", D("0.7")) for p in steps_to_flash(pro, flash))
    assert small.cost == whole.cost and small.by_answer == whole.by_answer
    assert float(pruned.cost) == pytest.approx(float(small.cost) * share / 100)
    assert pruned.by_answer == small.by_answer and pruned.by_token <= small.by_token
    assert short.cost <= pruned.cost and short.by_token <= pruned.by_token
    assert short.cost_of_right is not None and float(short.cost_of_right) == pytest.approx(
        float(short.cost) / 0.4
    )
    assert float(whole.usd_chip_hour) == pytest.approx(
        float(whole.by_answer - whole.cost) / float(whole.chip_hours)
    )


def test_training_by_hand() -> None:
    """6 x 70.6e9 x 1e12 operations in ten days at 40 % of 989e12 a second."""
    model = entry("models", "llama-3.1-70b")
    work = 6 * model.number("active_params_b") * 1e9 * 1e12
    chips = training_chips(Training(model, 1e12, 10, 0.4), entry("parts", "h200"))
    assert chips - 1 < work / (989e12 * 0.4 * 864_000) <= chips


def test_every_pair_of_generations_is_there_and_its_cost_is_the_sum() -> None:
    cases = {name: CHAT.case(name) for name in ("h100", "b200")}
    serving = {name: cheapest(case, "hbm")[1] for name, case in cases.items()}
    parts = {name: case.serving.part for name, case in cases.items()}
    prices = {name: case.usd_chip_hour for name, case in cases.items()}
    training = Training(entry("models", "llama-3.1-8b"), 1e12, 30, 0.4)
    found = splits(training, parts, serving, 500.0, prices)
    assert {(one.trains_on, one.serves_on) for one in found} == {(a, b) for a in parts for b in parts}
    assert [one.usd_hour for one in found] == sorted(one.usd_hour for one in found)
    for one in found:
        assert one.training_chips == training_chips(training, parts[one.trains_on])
        assert one.serving_chips >= 500 / serving[one.serves_on].turns_per_s
        rent = one.training_chips * prices[one.trains_on] + one.serving_chips * prices[one.serves_on]
        assert one.usd_hour == rent, "HBM only: nothing but chips is paid for"
        assert one.mw == pytest.approx(
            one.training_chips * parts[one.trains_on].number("kw_all_in") / 1000
            + one.serving_chips * parts[one.serves_on].number("kw_all_in") / 1000
        )
