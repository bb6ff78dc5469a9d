"""What customers pay for tokens, and what is left when an answer takes more of them than it is sold for."""

from __future__ import annotations

from dataclasses import dataclass, replace
from decimal import Decimal, InvalidOperation
from typing import Literal

from stepwell.catalogue.load import entries, entry
from stepwell.economics.splits import cheapest
from stepwell.economics.steps import Case, Steady
from stepwell.errors import BadInput

SERVICE_TIERS = {"priority": (0.5, Decimal(2)), "default": (1.0, Decimal(1)), "flex": (4.0, Decimal("0.5"))}
"""Share of the target time per token, and the multiple of the list price (OpenAI's)."""
MILLION = Decimal(1_000_000)
Amplified = Literal["turns", "answers"]
"""Twice the intermediate tokens: twice the turns, or answers of twice the length in the same turns."""


@dataclass(frozen=True, slots=True)
class ListPrice:
    """USD per million tokens."""

    input: Decimal
    cached: Decimal
    output: Decimal

    @classmethod
    def parse(cls, text: str, flag: str) -> ListPrice:
        """``1.25/0.125/10``, or a name of 'stepwell catalogue prices'."""
        if "/" not in text:
            return cls._named(text, flag)
        parts = [at_least_zero(part, flag) for part in text.split("/")]
        if len(parts) != 3:
            raise BadInput(f"{flag} {text}: write input/cached/output, such as 1.25/0.125/10")
        return cls(*parts)

    @classmethod
    def _named(cls, text: str, flag: str) -> ListPrice:
        try:
            found = entry("prices", text)
        except BadInput as error:
            raise BadInput(
                f"{flag} {text}: {error}, or write input/cached/output, as 1.25/0.125/10"
            ) from error
        return cls(found.get("input"), found.get("cached_input"), found.get("output"))

    def times(self, factor: Decimal) -> ListPrice:
        return ListPrice(self.input * factor, self.cached * factor, self.output * factor)

    def turn_usd(self, case: Case) -> Decimal:
        """One turn. What could be cached is billed as cached, whether it was held or not."""
        s = case.serving
        cached = Decimal(s.input_tokens * case.workload.number("reusable_share"))
        fresh = Decimal(s.input_tokens) - cached
        paid = fresh * self.input + cached * self.cached + Decimal(s.output_tokens) * self.output
        return paid / MILLION


def named_prices(texts: str, flag: str) -> dict[str, ListPrice]:
    """Several, with commas; ``all``: every one of the catalogue."""
    names = list(entries("prices")) if texts == "all" else [name.strip() for name in texts.split(",")]
    return {name: ListPrice.parse(name, flag) for name in dict.fromkeys(names)}


def at_least_zero(text: str, flag: str) -> Decimal:
    try:
        value = Decimal(text)
    except InvalidOperation as error:
        raise BadInput(f"{flag} {text}: that is not a number") from error
    if not value.is_finite() or value < 0:
        raise BadInput(f"{flag} {text}: give a number at or above zero")
    return value


def busy_share(text: str) -> Decimal:
    """Share of time that replicas are full; the rest is paid for and idle."""
    busy = at_least_zero(text, "--utilisation")
    if not 0 < busy <= 1:
        raise BadInput(f"--utilisation {text}: give a share above 0 and up to 1")
    return busy


def turn_cost_usd(
    case: Case, kind: str, found: Steady, busy: Decimal, times: int, how: Amplified = "turns"
) -> Decimal:
    """What one paid turn costs when it takes ``times`` the intermediate tokens."""
    if how == "turns" or times == 1:
        return times * found.usd_per_turn / busy
    longer = replace(case.serving, output_tokens=case.serving.output_tokens * times)
    return cheapest(replace(case, serving=longer), kind)[1].usd_per_turn / busy


def margin(revenue: Decimal, cost: Decimal) -> float | None:
    """Of revenue; None: there is none."""
    return float(1 - cost / revenue) if revenue else None
