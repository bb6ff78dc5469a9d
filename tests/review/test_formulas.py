"""Formulas against their identities, on values that Hypothesis picks."""

from __future__ import annotations

from datetime import date, timedelta
from decimal import Decimal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.review.facts import Cell, CellPlace, Facts, Unit, missing
from stepwell.review.formulas import derive, explain

DAY = date(2025, 12, 12)
levels = st.decimals(min_value=1, max_value=100_000, places=2)


def given_facts(*values: Decimal, unit: Unit = Unit.POINTS) -> Facts:
    facts = Facts()
    for number, value in enumerate(values):
        facts.add(
            Cell(
                f"c{number}",
                unit,
                value,
                observed=DAY + timedelta(days=number),
                place=CellPlace("0", "csv", "0/x"),
            )
        )
    return facts


@given(levels, levels)
def test_a_change_undone_is_the_level_before(last: Decimal, base: Decimal) -> None:
    change = derive(given_facts(last, base), "w", "change_percent", "c0", "c1", unit=Unit.PERCENT).number
    assert abs(base * (1 + change / 100) - last) < Decimal("1e-20")


@given(st.lists(levels, min_size=2, max_size=6))
def test_changes_of_the_days_make_the_change_of_the_week(closes: list[Decimal]) -> None:
    facts = given_facts(*closes)
    whole = derive(facts, "w", "change_percent", f"c{len(closes) - 1}", "c0", unit=Unit.PERCENT).number
    product = Decimal(1)
    for number in range(1, len(closes)):
        day = derive(facts, f"d{number}", "change_percent", f"c{number}", f"c{number - 1}", unit=Unit.PERCENT)
        product *= 1 + day.number / 100
    assert abs((product - 1) * 100 - whole) < Decimal("1e-15")


@given(st.lists(levels, min_size=1, max_size=5))
def test_parts_and_residual_make_the_total(parts: list[Decimal]) -> None:
    total = sum(parts, Decimal(0)) + 3
    facts = given_facts(total, *parts)
    names = [f"c{number}" for number in range(len(parts) + 1)]
    assert derive(facts, "r", "residual", *names).number == 3


def test_what_rests_on_a_missing_cell_is_missing_and_says_why() -> None:
    facts = given_facts(Decimal(5))
    facts.add(missing("gone", Unit.POINTS, "the source did not answer"))
    cell = derive(facts, "w", "difference", "c0", "gone")
    assert cell.missing == "gone: the source did not answer"


def test_units_are_never_mixed() -> None:
    facts = given_facts(Decimal(5))
    facts.add(Cell("p", Unit.PERCENT, Decimal(1), place=CellPlace("0", "csv", "0/x")))
    with pytest.raises(ValueError, match="quantities of one unit only"):
        derive(facts, "w", "difference", "c0", "p")


def test_an_explanation_goes_down_to_the_bytes() -> None:
    facts = given_facts(Decimal("98.5"), Decimal(100))
    derive(facts, "w", "change_percent", "c0", "c1", unit=Unit.PERCENT)
    lines = explain(facts, "w")
    assert lines[0] == "w = -1.500 percent  [change_percent v1: (last / base - 1) x 100]"
    assert [line.strip().partition(" ")[0] for line in lines[1:]] == ["c0", "c1"]
