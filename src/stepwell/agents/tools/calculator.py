"""Exact arithmetic for models that cannot add: fractions inside, a whitelist of syntax, bounds on size."""

from __future__ import annotations

import ast
import math
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from decimal import Context, Decimal, InvalidOperation, Overflow
from fractions import Fraction
from typing import Any

from stepwell.agents.tools.base import Tool, ToolError

MAX_CHARS = 1_000
MAX_DEPTH = 50
MAX_DIGITS = 1_000
"""Of a numerator or a denominator: more is a mistake, and would take the processor."""
MAX_BITS = math.ceil(MAX_DIGITS * math.log2(10))
SHOWN_DIGITS = 15
_KEPT = Context(prec=34, Emax=MAX_DIGITS, Emin=-MAX_DIGITS, traps=[InvalidOperation, Overflow])
_WORK = Context(prec=50, Emax=MAX_DIGITS, Emin=-MAX_DIGITS, traps=[InvalidOperation, Overflow])
_TYPED = str.maketrans({"×": "*", "·": "*", "÷": "/", "−": "-", "–": "-", "≤": "<=", "≥": ">=", "≠": "!="})
_TOO_LARGE = f"the result has more than {MAX_DIGITS} digits"


@dataclass(frozen=True, slots=True)
class Number:
    """A value, and whether it is exact: ``sqrt(2)`` is not, and nothing that is made from it is."""

    value: Fraction
    exact: bool = True


Value = Number | bool | list[Any]


def calculate(expression: str) -> str:
    """The value of an arithmetic expression, as text. ``ToolError`` says what cannot be read or computed.

    Whole numbers and decimals are exact, so ``0.1 + 0.2`` is ``0.3`` and ``1/3`` is shown with its
    fraction; roots, logarithms and powers that are not whole are right to 30 digits and show 15.
    """
    text = expression.strip().rstrip("=").strip().translate(_TYPED)
    if not text or len(text) > MAX_CHARS:
        raise ToolError(f"give an expression of 1 to {MAX_CHARS} characters, like (3 + 4) * 2.5")
    try:
        body = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else "nested too deep or too many digits"
        raise ToolError(f"{_short(text)} is not an arithmetic expression: {reason}") from None
    if isinstance(body, ast.Tuple):
        raise ToolError("one expression at a time, and no commas in numbers: write 1234.5, not 1,234.5")
    try:
        return show(_Reader(text).value(body, 0))
    except (ZeroDivisionError, Overflow, InvalidOperation) as error:
        raise ToolError(_arithmetic_sentence(error)) from None


def _arithmetic_sentence(error: Exception) -> str:
    if isinstance(error, ZeroDivisionError):
        return "division by zero"
    return _TOO_LARGE if isinstance(error, Overflow) else "that is not defined for these numbers"


def _short(text: str) -> str:
    return repr(text if len(text) <= 60 else text[:60] + "...")


class _Reader:
    """Walks a syntax tree; whatever is not named here is refused."""

    def __init__(self, text: str) -> None:
        self._text = text

    def value(self, node: ast.expr, depth: int) -> Value:
        if depth > MAX_DEPTH:
            raise ToolError(f"the expression is nested deeper than {MAX_DEPTH}")
        match node:
            case ast.Constant():
                return self._constant(node)
            case ast.Name(id=name):
                return _constant_named(name)
            case ast.UnaryOp(op=ast.USub() | ast.UAdd() as sign, operand=operand):
                inner = _number(self.value(operand, depth + 1))
                return Number(-inner.value, inner.exact) if isinstance(sign, ast.USub) else inner
            case ast.BinOp(left=left, op=op, right=right):
                sides = _number(self.value(left, depth + 1)), _number(self.value(right, depth + 1))
                return _bounded(_binary(op)(*sides))
            case ast.Compare():
                return self._compare(node, depth + 1)
            case ast.List(elts=items) | ast.Tuple(elts=items):
                return [self.value(item, depth + 1) for item in items]
            case ast.Call(func=ast.Name(id=name), args=arguments, keywords=[]):
                return _apply(name, [self.value(argument, depth + 1) for argument in arguments])
        raise ToolError(f"only numbers, + - * / // % **, comparisons and {_names()} are understood")

    def _constant(self, node: ast.Constant) -> Number:
        if type(node.value) is int:
            return _bounded(Number(Fraction(node.value)))
        if type(node.value) is not float:
            raise ToolError(f"{_short(str(node.value))} is not a number")
        # As it is written: the float that the parser made of 0.1 is another number.
        written = ast.get_source_segment(self._text, node) or ""
        exact = Decimal(written.replace("_", ""))
        if exact and abs(exact.adjusted()) > MAX_DIGITS:
            raise ToolError(f"{_short(written)} has more than {MAX_DIGITS} digits")
        return Number(Fraction(exact))

    def _compare(self, node: ast.Compare, depth: int) -> bool:
        left = _number(self.value(node.left, depth))
        holds = True
        for op, side in zip(node.ops, node.comparators, strict=True):
            right = _number(self.value(side, depth))
            test = _COMPARE.get(type(op))
            if test is None:
                raise ToolError("compare with <, <=, ==, !=, >= or >")
            holds = holds and test(left.value, right.value)
            left = right
        return holds


def _number(value: Value) -> Number:
    if isinstance(value, Number):
        return value
    raise ToolError(
        "a number is needed where there is " + ("a list" if isinstance(value, list) else "a comparison")
    )


def _bounded(number: Number) -> Number:
    if max(number.value.numerator.bit_length(), number.value.denominator.bit_length()) > MAX_BITS:
        raise ToolError(_TOO_LARGE)
    return number


def _exactly(operation: Callable[[Any, Any], Any]) -> Callable[[Number, Number], Number]:
    return lambda a, b: Number(Fraction(operation(a.value, b.value)), a.exact and b.exact)


def _power(base: Number, exponent: Number) -> Number:
    if exponent.value.denominator == 1:
        times = abs(exponent.value.numerator)
        bits = max(base.value.numerator.bit_length(), base.value.denominator.bit_length())
        # 1 and 0 have one bit, and may be raised to anything.
        if base.value not in (0, 1, -1) and (bits - 1) * times > MAX_BITS:
            raise ToolError(_TOO_LARGE)
        if base.value == -1:
            return Number(Fraction(-1 if times % 2 else 1), base.exact)
        return Number(Fraction(base.value**exponent.value.numerator), base.exact)
    if base.value < 0:
        raise ToolError("a negative number has no real power that is not whole")
    return _rounded(_WORK.power(_decimal(base), _decimal(exponent)))


def _decimal(number: Number) -> Decimal:
    return _WORK.divide(Decimal(number.value.numerator), Decimal(number.value.denominator))


def _rounded(value: Decimal) -> Number:
    return Number(Fraction(_KEPT.plus(value)), exact=False)


def _sqrt(number: Number) -> Number:
    if number.value < 0:
        raise ToolError("a negative number has no real square root")
    top, bottom = math.isqrt(number.value.numerator), math.isqrt(number.value.denominator)
    if Fraction(top**2, bottom**2) == number.value:
        return Number(Fraction(top, bottom), number.exact)
    return _rounded(_WORK.sqrt(_decimal(number)))


def _log(number: Number, base: Number | None = None) -> Number:
    if number.value <= 0 or (base is not None and (base.value <= 0 or base.value == 1)):
        raise ToolError("a logarithm needs a positive number and a positive base other than 1")
    value = _WORK.ln(_decimal(number))
    return _rounded(value if base is None else _WORK.divide(value, _WORK.ln(_decimal(base))))


def _round(number: Number, digits: Number | None = None) -> Number:
    """Halves away from zero, as people round; 2.5 is 3."""
    places = int(digits.value) if digits is not None else 0
    if abs(places) > MAX_DIGITS:
        raise ToolError(f"round to at most {MAX_DIGITS} digits")
    scaled = abs(number.value) * Fraction(10) ** places
    whole = math.floor(scaled + Fraction(1, 2)) * (1 if number.value >= 0 else -1)
    return Number(Fraction(whole) / Fraction(10) ** places)


def _percent(part: Number, whole: Number | None = None) -> Number:
    of = whole or Number(Fraction(1))
    return Number(part.value * of.value / 100, part.exact and of.exact)


def _sum(*numbers: Number) -> Number:
    total = Number(Fraction(0))
    for number in numbers:
        total = _bounded(Number(total.value + number.value, total.exact and number.exact))
    return total


def _extreme(choose: Callable[..., Number]) -> Callable[..., Number]:
    def pick(*numbers: Number) -> Number:
        if not numbers:
            raise ToolError("min and max need at least one number")
        return choose(numbers, key=lambda number: number.value)

    return pick


_COMPARE: Mapping[type[ast.cmpop], Callable[[Fraction, Fraction], bool]] = {
    ast.Lt: operator.lt, ast.LtE: operator.le, ast.Eq: operator.eq,
    ast.NotEq: operator.ne, ast.GtE: operator.ge, ast.Gt: operator.gt,
}  # fmt: skip
_BINARY: Mapping[type[ast.operator], Callable[[Number, Number], Number]] = {
    ast.Add: _exactly(operator.add), ast.Sub: _exactly(operator.sub), ast.Mult: _exactly(operator.mul),
    ast.Div: _exactly(operator.truediv), ast.FloorDiv: _exactly(operator.floordiv),
    ast.Mod: _exactly(operator.mod), ast.Pow: _power,
}  # fmt: skip
_FUNCTIONS: Mapping[str, tuple[Callable[..., Number], int, int]] = {
    "abs": (lambda a: Number(abs(a.value), a.exact), 1, 1),
    "ceil": (lambda a: Number(Fraction(math.ceil(a.value)), a.exact), 1, 1),
    "exp": (lambda a: _rounded(_WORK.exp(_decimal(a))), 1, 1),
    "floor": (lambda a: Number(Fraction(math.floor(a.value)), a.exact), 1, 1),
    "log": (_log, 1, 2),
    "log10": (lambda a: _log(a, Number(Fraction(10))), 1, 1),
    "max": (_extreme(max), 1, 100),
    "min": (_extreme(min), 1, 100),
    "percent": (_percent, 1, 2),
    "round": (_round, 1, 2),
    "sqrt": (_sqrt, 1, 1),
    "sum": (_sum, 0, 100),
}
"""By name: what to call, the fewest and the most numbers it takes."""
_OVER_LISTS = {"max", "min", "sum"}
_CONSTANTS = {
    "pi": "3.14159265358979323846264338327950288",
    "e": "2.71828182845904523536028747135266250",
}


def _names() -> str:
    return ", ".join([*_FUNCTIONS, *_CONSTANTS])


def _binary(op: ast.operator) -> Callable[[Number, Number], Number]:
    found = _BINARY.get(type(op))
    if found is None:
        hint = "write ** for powers" if isinstance(op, ast.BitXor) else "use + - * / // % **"
        raise ToolError(f"that operator is not arithmetic: {hint}")
    return found


def _constant_named(name: str) -> Number:
    if name not in _CONSTANTS:
        raise ToolError(f"{name} is unknown: only numbers and {_names()} are understood")
    return Number(Fraction(_CONSTANTS[name]), exact=False)


def _apply(name: str, values: Sequence[Value]) -> Number:
    if name not in _FUNCTIONS:
        raise ToolError(f"there is no function {name}: use {_names()}")
    function, fewest, most = _FUNCTIONS[name]
    if name in _OVER_LISTS and len(values) == 1 and isinstance(values[0], list):
        values = values[0]
    if not fewest <= len(values) <= most:
        wanted = str(fewest) if fewest == most else f"{fewest} to {most}"
        raise ToolError(f"{name} takes {wanted} numbers, not {len(values)}")
    return _bounded(function(*[_number(value) for value in values]))


def show(value: Value) -> str:
    """Whole numbers and finite decimals in full; others to 15 figures, with the fraction when it is exact."""
    if isinstance(value, bool):
        return "true" if value else "false"
    number = _number(value)
    if number.value.denominator == 1 and (number.exact or abs(number.value) < 10**SHOWN_DIGITS):
        return str(number.value.numerator)
    if number.exact and (finite := _finite(number.value)) is not None:
        return finite
    digits = Context(prec=SHOWN_DIGITS).divide(
        Decimal(number.value.numerator), Decimal(number.value.denominator)
    )
    shown = f"{digits.normalize():f}" if abs(digits.adjusted()) < 21 else f"{digits.normalize()}"
    short = number.exact and len(str(number.value)) <= 40
    return f"{shown} (exactly {number.value})" if short else shown


def _finite(value: Fraction) -> str | None:
    """The decimal form when it ends within 30 places."""
    for places in range(31):
        if (value * 10**places).denominator == 1:
            digits = str(abs(int(value * 10**places))).rjust(places + 1, "0")
            sign = "-" if value < 0 else ""
            return f"{sign}{digits[:-places]}.{digits[-places:]}" if places else f"{sign}{digits}"
    return None


async def _call(arguments: Mapping[str, Any]) -> str:
    expression = arguments.get("expression")
    if not isinstance(expression, str) or len(arguments) != 1:
        raise ToolError('give one argument, expression, as text, like {"expression": "12.5 * 8"}')
    return calculate(expression)


def calculator() -> Tool:
    """The tool ``calculator``: one argument, ``expression``."""
    return Tool(
        name="calculator",
        description=f"Exact arithmetic. Operators + - * / // % ** and comparisons; {_names()}. "
        "percent(15, 80) is 15 percent of 80.",
        parameters={
            "type": "object",
            "properties": {"expression": {"type": "string", "description": "for example (3 + 4) * 2.5"}},
            "required": ["expression"],
            "additionalProperties": False,
        },
        call=_call,
        expected_ms=1,
        timeout_s=5.0,
        idempotent=True,
    )
