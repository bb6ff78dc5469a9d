"""Exact money: numbers as people write them, and amounts split so that the parts sum to the whole.

Nothing here rounds twice. What is smaller than a micro-dollar stays a fraction until one request, or one
line of a statement, is rounded as a whole.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from decimal import Decimal
from fractions import Fraction
from typing import TypeVar

MICROUSD = 1_000_000
"""Micro-dollars in a dollar; also pico-dollars in a micro-dollar."""

_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?(?:[eE][+-]?\d{1,3})?", re.ASCII)
_MAX_CHARS = 60

Name = TypeVar("Name")


def exact(value: object) -> Fraction:
    """The very number that was written: an integer, a ``Decimal`` or text like ``"1.25"``.

    ``ValueError`` with the end of a sentence for anything else: text that is no number, NaN, infinity,
    ``true``, and floats, which have lost what was written.
    """
    if isinstance(value, int) and not isinstance(value, bool):
        return Fraction(value)
    text = str(value)
    if isinstance(value, Decimal) and not value.is_finite():
        raise ValueError(f"{text} is not a finite number")
    if not isinstance(value, str | Decimal) or len(text) > _MAX_CHARS or not _NUMBER.fullmatch(text):
        shown = repr(text[:40]) if isinstance(value, str) else text[:40]
        raise ValueError(f"{shown} is not a number: write it like 1.25")
    return Fraction(Decimal(text))


def round_half_up(amount: Fraction) -> int:
    """The nearest whole number; of two equally near the larger one."""
    return math.floor(amount + Fraction(1, 2))


def apportion(parts: Mapping[Name, Fraction]) -> dict[Name, int]:
    """Whole numbers that sum to the rounded sum of the parts (half up), each less than 1 away from its part.

    The sum is rounded once; the units that rounding the parts down leaves over go to the largest
    remainders, the first of equal ones first.
    """
    unit = math.lcm(*(part.denominator for part in parts.values()))
    return apportion_units(
        {n: part.numerator * (unit // part.denominator) for n, part in parts.items()}, unit
    )


def apportion_units(parts: Mapping[Name, int], unit: int) -> dict[Name, int]:
    """As ``apportion``, of amounts that are counted in a ``unit``-th of what is asked for."""
    whole = {name: part // unit for name, part in parts.items()}
    left = (2 * sum(parts.values()) + unit) // (2 * unit) - sum(whole.values())
    if left:
        for name in sorted(parts, key=lambda name: -(parts[name] % unit))[:left]:
            whole[name] += 1
    return whole


def usd_text(microusd: int) -> str:
    """For a sentence: ``$0.0125``."""
    return f"${microusd / 1e6:.6f}".rstrip("0").rstrip(".")
