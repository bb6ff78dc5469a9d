"""What a plan hangs on: scenarios, one input at a time, many drawn at once, and what must be true."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from stepwell.economics.cash import cash_flow
from stepwell.economics.contract_file import changed, number_at, plan_of
from stepwell.economics.finance import npv
from stepwell.economics.measures import Measures, measure

SOLVED = (
    "customer.usd_per_mw_year", "customer.tokens.usd_per_m_tokens", "customer.served.price_factor",
    "customer.utilisation", "customer.price_growth", "customer.tokens.amplification",
    "customer.served.amplification",
)  # fmt: skip
_HALVINGS = 60


def measured(raw: dict[str, Any], changes: dict[str, Any], where: str) -> Measures:
    return measure(plan_of(changed(raw, changes), where))


@dataclass(frozen=True, slots=True)
class Swing:
    """One input at its low and high value, the others as they are."""

    key: str
    low: Decimal
    high: Decimal
    at_low: Measures
    at_high: Measures

    def width(self, of: Callable[[Measures], Decimal]) -> Decimal:
        return abs(of(self.at_high) - of(self.at_low))


def swings(raw: dict[str, Any]) -> list[Swing]:
    """Every uncertain input, the one that moves the present value most first."""
    found = [
        Swing(key, low, high, measured(raw, {key: low}, key), measured(raw, {key: high}, key))
        for key, (low, _, high) in plan_of(raw, "plan").uncertain.items()
    ]
    return sorted(found, key=lambda swing: -swing.width(lambda m: m.npv))


def draws(raw: dict[str, Any], count: int, seed: int) -> Iterator[Measures]:
    """All uncertain inputs drawn at once from triangles. The same seed draws the same."""
    source = random.Random(seed)
    ranges = plan_of(raw, "plan").uncertain
    for _ in range(count):
        drawn: dict[str, Any] = {}
        for key, (low, likely, high) in ranges.items():
            value = source.triangular(float(low), float(high), float(likely))
            whole = all(bound == bound.to_integral_value() for bound in (low, likely, high))
            months = key.endswith(("month", "months"))
            drawn[key] = round(value) if whole and months else Decimal(str(round(value, 6)))
        yield measured(raw, drawn, "a draw")


def percentile(values: list[Decimal], percent: int) -> Decimal:
    """By nearest rank."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, max(0, -(-len(ordered) * percent // 100) - 1))]


@dataclass(frozen=True, slots=True)
class Needed:
    """The value of one input at which the present value is zero; None: no value in range does it."""

    key: str
    now: Decimal
    needed: Decimal | None
    low: Decimal
    high: Decimal


def what_must_be_true(raw: dict[str, Any], keys: list[str]) -> list[Needed]:
    """Solve for each input alone; those that the file does not set are left out unless asked for."""
    asked = keys or [key for key in SOLVED if _is_set(raw, key)]
    return [_solve(raw, key) for key in asked]


def _is_set(raw: dict[str, Any], key: str) -> bool:
    node: Any = raw
    for part in key.split("."):
        node = node.get(part) if isinstance(node, dict) else None
    return node is not None


def _solve(raw: dict[str, Any], key: str) -> Needed:
    now = number_at(raw, key)
    if key.endswith("growth"):
        low, high = Decimal("-0.9"), Decimal("0.9")
    elif key.endswith(("utilisation", "share", "probability", "load")):
        low, high = Decimal(0), Decimal(1)
    elif key.endswith("amplification"):
        low, high = Decimal(1), now * 20
    else:
        low, high = now / 20, now * 20

    def value(at: Decimal) -> Decimal:
        changes = {key: at}
        if key == "customer.utilisation":
            # What must be used is asked for without the floor under it.
            changes["customer.take_or_pay_share"] = Decimal(0)
        plan = plan_of(changed(raw, changes), key)
        return npv(plan.discount_rate, cash_flow(plan).free())

    bounds = low, high
    below = value(low)
    if (below < 0) == (value(high) < 0):
        return Needed(key, now, None, *bounds)
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        if (value(middle) < 0) == (below < 0):
            low = middle
        else:
            high = middle
        if high - low <= max(abs(high), Decimal(1)) * Decimal("1e-6"):
            break
    return Needed(key, now, (low + high) / 2, *bounds)
