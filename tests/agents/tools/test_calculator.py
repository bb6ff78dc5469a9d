"""The calculator is right to the last digit, and says why when it is not asked for arithmetic."""

from __future__ import annotations

import asyncio
import math
from decimal import Decimal
from fractions import Fraction

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents.tools.base import ToolError, run_tool
from stepwell.agents.tools.calculator import MAX_CHARS, MAX_DIGITS, calculate, calculator

DECIMALS = st.decimals(-(10**9), 10**9, places=4)


def exactly(text: str) -> Fraction:
    """What an answer says, by its fraction where it gives one."""
    _, marked, fraction = text.partition(" (exactly ")
    return Fraction(fraction.rstrip(")") if marked else text)


@given(DECIMALS, DECIMALS, st.sampled_from("+-*"))
def test_decimals_are_exact(a: Decimal, b: Decimal, sign: str) -> None:
    expected = {
        "+": Fraction(a) + Fraction(b),
        "-": Fraction(a) - Fraction(b),
        "*": Fraction(a) * Fraction(b),
    }
    assert Fraction(calculate(f"({a}) {sign} ({b})")) == expected[sign]


@given(st.integers(-(10**6), 10**6), st.integers(1, 10**6))
def test_quotients_keep_their_fraction(a: int, b: int) -> None:
    assert exactly(calculate(f"{a} / {b}")) == Fraction(a, b)
    assert calculate(f"{a} // {b}") == str(a // b)
    assert calculate(f"{a} % {b}") == str(a % b)


@given(st.integers(0, 10**30))
def test_roots_of_squares_are_whole(a: int) -> None:
    assert calculate(f"sqrt({a}**2)") == str(a)


@given(st.text(alphabet="0123456789.+-*/%()<>=, eabsqrtmxpi^[]'_", max_size=40))
def test_any_text_gives_an_answer_or_a_sentence(text: str) -> None:
    try:
        answer = calculate(text)
    except ToolError as error:
        answer = str(error)
    assert answer
    assert "\n" not in answer


@pytest.mark.parametrize(
    ("expression", "answer"),
    [
        ("0.1 + 0.2", "0.3"),
        ("1/3", "0.333333333333333 (exactly 1/3)"),
        ("2**0.5", "1.4142135623731"),
        ("8**(1/3)", "2"),
        ("2**-2", "0.25"),
        ("(-1)**1000000001", "-1"),
        ("round(2.5)", "3"),
        ("round(-2.345, 2)", "-2.35"),
        ("round(1234, -2)", "1200"),
        ("percent(15, 80)", "12"),
        ("sum([1, 2, 3.5])", "6.5"),
        ("max(1, 2.5) - min(1, 2.5)", "1.5"),
        ("log(100, 10)", "2"),
        ("log(exp(3))", "3"),
        ("floor(-0.5) + ceil(0.5)", "0"),
        ("abs(-7)", "7"),
        ("1 < 2 <= 2", "true"),
        ("0.1 + 0.2 == 0.3", "true"),
        ("12 × 3 ÷ 4 =", "9"),
        ("1_000 * 2", "2000"),
        ("pi", "3.14159265358979"),
        ("e", "2.71828182845905"),
        ("1e3", "1000"),
    ],
)
def test_examples(expression: str, answer: str) -> None:
    assert calculate(expression) == answer


@pytest.mark.parametrize(
    ("expression", "says"),
    [
        ("", "expression of 1 to"),
        ("1" * (MAX_CHARS + 1), "expression of 1 to"),
        ("1,234 * 2", "no commas in numbers"),
        ("3 ^ 2", r"write \*\* for powers"),
        ("1/0", "division by zero"),
        ("0**-1", "division by zero"),
        ("10**5000", f"more than {MAX_DIGITS} digits"),
        ("9**9**9", f"more than {MAX_DIGITS} digits"),
        ("1e99999", f"more than {MAX_DIGITS} digits"),
        ("exp(99999)", f"more than {MAX_DIGITS} digits"),
        ("9" * 990 + "*99999999999", "more than|expression of"),
        ("-" * 900 + "1", "nested"),
        ("(" * 300 + "1" + ")" * 300, "not an arithmetic expression"),
        ("2 +", "not an arithmetic expression"),
        ("sqrt(-1)", "no real square root"),
        ("(-8)**0.5", "no real power"),
        ("log(0)", "positive number"),
        ("log(2, 1)", "other than 1"),
        ("sqrt(1, 2)", "sqrt takes 1 numbers, not 2"),
        ("min()", "takes 1 to 100"),
        ("round(1, 1e900)", "at most"),
        ("x + 1", "x is unknown"),
        ("sin(1)", "no function sin"),
        ("True + 1", "not a number"),
        ("1j", "not a number"),
        ("'a' * 3", "not a number"),
        ("[1, 2]", "a list"),
        ("(1 < 2) + 1", "a comparison"),
        ("1 in [1]", "a list|compare with"),
    ],
)
def test_refusals_say_why(expression: str, says: str) -> None:
    with pytest.raises(ToolError, match=says):
        calculate(expression)


@pytest.mark.parametrize(
    "expression",
    [
        "__import__('os').system('true')",
        "(1).__class__",
        "[x for x in [1]]",
        "lambda: 1",
        "f'{1}'",
        "(a := 1)",
    ],
)
def test_nothing_but_arithmetic_is_evaluated(expression: str) -> None:
    with pytest.raises(ToolError):
        calculate(expression)


def test_what_is_not_exact_is_right_to_fifteen_figures() -> None:
    assert float(calculate("exp(1.5) * sqrt(7)")) == pytest.approx(math.exp(1.5) * math.sqrt(7), rel=1e-13)


def test_as_a_tool() -> None:
    tool = calculator()
    assert asyncio.run(run_tool(tool, '{"expression": "6 * 7"}')).text == "42"
    wrong = asyncio.run(run_tool(tool, {"text": "6 * 7"}))
    assert not wrong.ok
    assert "expression" in wrong.text
