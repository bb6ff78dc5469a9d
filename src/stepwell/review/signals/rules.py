"""Rules: a pure function of the closes up to a session, named by a hash of all that it is.

A rule says what to hold, from nothing (0) to everything (1), once a session has closed. It acts one session
later. Both rules that ship are textbook ones and have often lost to holding the index.
"""

from __future__ import annotations

import hashlib
import inspect
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

Closes = Sequence[tuple[date, Decimal]]
"""Sessions in order, the newest last."""


@dataclass(frozen=True, slots=True)
class Rule:
    """``decide`` gets the closes up to a session and the parameters; ``None``: too few sessions to say."""

    name: str
    says: str
    parameters: Mapping[str, str]
    decide: Callable[[Closes, Mapping[str, str]], Decimal | None]
    cost_basis_points: Decimal = Decimal(5)
    """Of what is bought or sold."""

    def fixed(self, instrument: str) -> dict[str, object]:
        """Everything that decides what the rule will say: its text, its parameters, its costs, its data."""
        return {
            "name": self.name,
            "says": self.says,
            "parameters": dict(self.parameters),
            "source": inspect.getsource(self.decide),
            "cost_basis_points": str(self.cost_basis_points),
            "instrument": instrument,
        }

    def hash(self, instrument: str) -> str:
        return hashlib.sha256(canonical(self.fixed(instrument))).hexdigest()


def canonical(value: Mapping[str, object]) -> bytes:
    """The one way in which a value is written before it is hashed."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=True).encode()


def digest_of(closes: Closes) -> str:
    """A hash of the closes themselves: the same history in another file has the same one."""
    text = "".join(f"{day},{close.normalize():f}\n" for day, close in closes)
    return hashlib.sha256(text.encode()).hexdigest()


def _trend(closes: Closes, parameters: Mapping[str, str]) -> Decimal | None:
    """Hold while the close is above the mean of the last sessions."""
    sessions = int(parameters["sessions"])
    if len(closes) < sessions:
        return None
    window = [close for _, close in closes[-sessions:]]
    return Decimal(int(closes[-1][1] * sessions > sum(window, Decimal(0))))


def _reversal(closes: Closes, parameters: Mapping[str, str]) -> Decimal | None:
    """Hold after a week that lost at least so many percent; nothing otherwise."""
    sessions, fall = int(parameters["sessions"]), Decimal(parameters["fall_percent"])
    if len(closes) <= sessions:
        return None
    change = (closes[-1][1] / closes[-1 - sessions][1] - 1) * 100
    return Decimal(int(change <= -fall))


RULES = {
    rule.name: rule
    for rule in (
        Rule("trend", "hold while the close is above its mean of 50 sessions", {"sessions": "50"}, _trend),
        Rule(
            "reversal",
            "hold after five sessions that lost at least 2 percent",
            {"sessions": "5", "fall_percent": "2"},
            _reversal,
        ),
    )
}


def looks_ahead(rule: Rule, closes: Closes) -> list[date]:
    """Sessions on which later closes change what the rule says. A rule that has one reads the future.

    ``decide`` gets a slice, so it can only look ahead through state of its own: each session is decided
    twice, in order and after all later ones.
    """
    first = [rule.decide(closes[: number + 1], rule.parameters) for number in range(len(closes))]
    again = [rule.decide(closes[: number + 1], rule.parameters) for number in reversed(range(len(closes)))]
    return [day for (day, _), one, two in zip(closes, first, reversed(again), strict=True) if one != two]
