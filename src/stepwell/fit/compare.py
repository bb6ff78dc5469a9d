"""Single call, ``flash``, ``pro`` and others side by side: accuracy, tokens, cost, and how sure that is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.agents.crews.profile import FLASH, PRO
from stepwell.fit.outcomes import SINGLE, Evaluation, together
from stepwell.fit.statistics import Estimate, Resamples

WITHOUT_PENALTY = "without penalty"
PRO_GAIN_POINTS = 15.0
KEPT_GAIN_PERCENT = 80.0
FLASH_COST_PERCENT = 40.0


@dataclass(frozen=True, slots=True)
class Finding:
    """One figure that compares profiles; with a target it is reached or not."""

    says: str
    unit: str
    estimate: Estimate | None
    """None: the figure has no meaning here (nothing is gained, or nothing is spent)."""
    target: float | None = None
    at_most: bool = False

    @property
    def reached(self) -> bool | None:
        """By the figure itself, not by its bounds. None: there is no target."""
        if self.target is None:
            return None
        if self.estimate is None:
            return False
        value = self.estimate.value
        return value <= self.target if self.at_most else value >= self.target

    def line(self) -> str:
        """For people: ``pro over single: +18.2 points (12.1 to 24.0); target at least 15: reached``."""
        figure = show(self.estimate, self.unit)
        if self.target is None:
            return f"{self.says}: {figure}"
        bound = "at most" if self.at_most else "at least"
        word = "reached" if self.reached else "NOT reached"
        return f"{self.says}: {figure}; target {bound} {self.target:g}{self.unit}: {word}"

    def as_json(self) -> dict[str, Any]:
        known = self.estimate
        return {
            "figure": self.says,
            "unit": self.unit.strip(),
            "value": known and known.value,
            "low": known and known.low,
            "high": known and known.high,
            "target": self.target,
            "at_most": self.at_most,
            "reached": self.reached,
        }


def show(estimate: Estimate | None, unit: str) -> str:
    """A figure and its interval in words."""
    if estimate is None:
        return "no meaning here"
    sign = "+" if unit == " points" and estimate.value > 0 else ""
    figure = f"{sign}{estimate.value:.1f}{unit}"
    if estimate.low is None or estimate.high is None:
        return f"{figure} (not bounded by so few items)"
    return f"{figure} ({estimate.low:.1f} to {estimate.high:.1f})"


def percent(estimate: Estimate | None) -> Estimate | None:
    """A share of one as a share of a hundred."""
    if estimate is None:
        return None
    low, high = estimate.low, estimate.high
    return Estimate(
        100 * estimate.value, None if low is None else 100 * low, None if high is None else 100 * high
    )


def findings(evaluations: Sequence[Evaluation], draws: Resamples) -> list[Finding]:
    """Whatever these allow to be said: targets for pro and flash, differences to pro for all others."""
    named = {one.label: one for one in evaluations}
    single, pro, flash = (named.get(name) for name in (SINGLE, PRO, FLASH))
    plain = [one for one in evaluations if WITHOUT_PENALTY not in one.label]
    made: list[Finding] = []
    if single and pro:
        gain = percent(draws.difference(pro.right, single.right))
        made.append(Finding("pro over the single call", " points", gain, PRO_GAIN_POINTS))
    if pro:
        for one in plain:
            if one not in (single, pro):
                made += against_pro(one, pro, single, draws, aims=one is flash)
    for one in evaluations:
        if (off := named.get(f"{one.label} {WITHOUT_PENALTY}")) is not None:
            made += penalty_effect(one, off, draws)
    return made


def against_pro(
    one: Evaluation, pro: Evaluation, single: Evaluation | None, draws: Resamples, *, aims: bool
) -> list[Finding]:
    """What a smaller profile keeps of pro's gain, and at which part of its cost."""
    in_money = together([one, pro])
    cost = percent(draws.ratio(one.costs(in_money), pro.costs(in_money)))
    what = "cost" if in_money else "tokens"
    difference = percent(draws.difference(one.right, pro.right))
    made = [Finding(f"{one.label} over pro", " points", difference)]
    if single is not None:
        made.append(
            Finding(
                f"{one.label} keeps of pro's gain",
                " %",
                percent(draws.ratio(_gains(one, single), _gains(pro, single))),
                KEPT_GAIN_PERCENT if aims else None,
            )
        )
    target = FLASH_COST_PERCENT if aims else None
    return [*made, Finding(f"{one.label}: its {what} against pro's", " %", cost, target, at_most=True)]


def _gains(one: Evaluation, single: Evaluation) -> list[int]:
    return [int(a) - int(b) for a, b in zip(one.right, single.right, strict=True)]


def penalty_effect(on: Evaluation, off: Evaluation, draws: Resamples) -> list[Finding]:
    """The same profile with its token penalty and without, all else equal."""
    lost = percent(draws.difference(off.right, on.right))
    saved = draws.ratio(
        [
            b.intermediate_tokens - a.intermediate_tokens
            for a, b in zip(on.outcomes, off.outcomes, strict=True)
        ],
        [one.intermediate_tokens for one in off.outcomes],
    )
    in_money = together([on, off])
    spared = [a - b for a, b in zip(off.costs(in_money), on.costs(in_money), strict=True)]
    cheaper = percent(draws.ratio(spared, off.costs(in_money)))
    return [
        Finding(f"{on.label}: intermediate tokens that its penalty saves", " %", percent(saved)),
        Finding(f"{on.label}: {'cost' if in_money else 'tokens'} that its penalty saves", " %", cheaper),
        Finding(f"{on.label}: accuracy that its penalty loses", " points", lost),
    ]
