"""What each agent is worth: the crew as it is, and without each part of it, on the same items."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.profile import Profile
from stepwell.fit.changes import Change, describe, no_check, one_sample, spared_roles
from stepwell.fit.evaluate import Evaluator
from stepwell.fit.outcomes import Evaluation
from stepwell.fit.statistics import Estimate, Resamples, mcnemar
from stepwell.fit.tasks import Item


@dataclass(frozen=True, slots=True)
class Worth:
    """What a part of a profile brings and costs: the figures with it less those without it."""

    change: Change
    without: Evaluation
    gain: Estimate
    """Of accuracy, from -1 to 1."""
    cost: Estimate
    """Per item: micro-dollars, or tokens where the server says no money."""
    rate: Estimate | None
    """Right answers more for each unit of cost more. None where the part costs nothing or saves."""
    chance: float
    """Of such a difference where there is none (McNemar)."""

    def per_million(self) -> Estimate | None:
        """Right answers more for each dollar more, or for a million tokens."""
        return self.rate and scaled(self.rate, 1_000_000)


def scaled(estimate: Estimate, factor: float) -> Estimate:
    low, high = estimate.low, estimate.high
    return Estimate(
        estimate.value * factor,
        None if low is None else low * factor,
        None if high is None else high * factor,
    )


def worth(change: Change, whole: Evaluation, without: Evaluation, draws: Resamples, in_money: bool) -> Worth:
    """Of the part that ``change`` spares. The interval of its rate is as careful as that of its gain."""
    more = [a - b for a, b in zip(whole.costs(in_money), without.costs(in_money), strict=True)]
    usual = round(sum(more) / len(more))
    gains = [int(a) - int(b) for a, b in zip(whole.right, without.right, strict=True)]
    return Worth(
        change,
        without,
        gain=draws.difference(whole.right, without.right),
        cost=draws.mean_difference(more, [0] * len(more)),
        rate=draws.ratio(gains, more, doubts=[(1, usual), (-1, usual)]),
        chance=mcnemar(whole.right, without.right),
    )


def parts(crew: Crew, profile: Profile, needed: str) -> list[Change]:
    """What an ablation takes away, one at a time: roles, further samples, checks."""
    roles = list(spared_roles(crew, profile, needed))
    return [*roles, *one_sample(crew, profile), *no_check(crew, profile)]


async def ablate(
    evaluator: Evaluator, whole: Evaluation, items: Sequence[Item], draws: Resamples, in_money: bool
) -> list[Worth]:
    """The worth of every part of a profile. ``whole`` is its evaluation on the same items."""
    assert whole.profile is not None
    crew = evaluator.crew
    found = []
    for change in parts(crew, whole.profile, evaluator.tasks.single):
        without = await evaluator.profile(change.profile, items, describe(crew, change.profile))
        found.append(worth(change, whole, without, draws, in_money))
    return found
