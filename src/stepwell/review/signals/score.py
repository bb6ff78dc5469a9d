"""What signals would have earned on paper, after costs, beside holding the instrument all the time.

Figures are empyrical's. A signal of one session is acted on at the close of the next one and earns from
there: nothing is earned on the day on which it is computed, nor on the day on which it acts.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import date
from decimal import Decimal

from stepwell.review.signals.log import Line
from stepwell.review.signals.rules import Closes, Rule

LAG = 2
"""Sessions from the close that a signal is computed at to the first return that it earns."""
LEAST = 2
"""Returns of which anything can be said."""


@dataclass(frozen=True, slots=True)
class Score:
    """Percent, but for ``sharpe``. ``None``: too few returns to say."""

    returns: int
    total: float | None
    annual_volatility: float | None
    sharpe: float | None
    max_drawdown: float | None
    turnover: float

    def as_row(self) -> dict[str, float | int | None]:
        return {name: getattr(self, name) for name in self.__slots__}


def forward_positions(lines: Sequence[Line], rule: str) -> dict[date, Decimal]:
    """What a rule said by session, where it was written before the next close."""
    return {
        date.fromisoformat(line["session"]): Decimal(line["position"])
        for line in lines
        if line["kind"] == "signal" and line["rule"] == rule and line["forward"]
    }


def hindsight_positions(rule: Rule, closes: Closes) -> dict[date, Decimal]:
    """What the rule would have said on every session: it was chosen by a person who knew how it ended."""
    said = {day: rule.decide(closes[: number + 1], rule.parameters) for number, (day, _) in enumerate(closes)}
    return {day: position for day, position in said.items() if position is not None}


def earned(
    said: Mapping[date, Decimal], closes: Closes, cost_basis_points: Decimal, lag: int = LAG
) -> tuple[list[tuple[date, Decimal]], Decimal]:
    """The return of each session from the first on which a signal counts, and how much was traded."""
    rows: list[tuple[date, Decimal]] = []
    held = traded = Decimal(0)
    for number in range(lag, len(closes)):
        wanted = said.get(closes[number - lag][0])
        if wanted is None:
            if not rows:
                continue
            wanted = held  # a session without a signal changes nothing
        change = closes[number][1] / closes[number - 1][1] - 1
        moved = abs(wanted - held)
        traded += moved
        rows.append((closes[number][0], wanted * change - moved * cost_basis_points / 10_000))
        held = wanted
    return rows, traded


def held_all_along(closes: Closes, days: Sequence[date]) -> list[tuple[date, Decimal]]:
    """The instrument's own returns on these days."""
    wanted = set(days)
    return [
        (day, close / closes[number][1] - 1)
        for number, (day, close) in enumerate(closes[1:])
        if day in wanted
    ]


def score(rows: Sequence[tuple[date, Decimal]], traded: Decimal = Decimal(0)) -> Score:
    """Raises ``ModuleNotFoundError`` without the extra ``review``."""
    import empyrical
    import pandas

    if len(rows) < LEAST:
        return Score(len(rows), None, None, None, None, float(traded))
    index = pandas.DatetimeIndex([day for day, _ in rows])
    returns = pandas.Series([float(value) for _, value in rows], index=index)
    volatility = float(empyrical.annual_volatility(returns))
    return Score(
        len(rows),
        100 * float(empyrical.cum_returns_final(returns)),
        100 * volatility,
        float(empyrical.sharpe_ratio(returns)) if volatility else None,
        100 * float(empyrical.max_drawdown(returns)),
        float(traded),
    )
