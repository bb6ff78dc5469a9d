"""Find the profile for a target: begin with the whole crew, and take away whatever does not pay.

The rule. A part of the profile (an agent, a sample, a longer answer, an unpriced token) goes when that costs
no more than before, and

- where the target is an accuracy: what is left still reaches it; or it was missed before too, and the part is
  not shown to pay;
- where the target is a cost: the part is not shown to pay; or it is, but the limit is still passed.

A part is shown to pay when the 95 % interval of its paired gain in accuracy lies above zero, against the
profile that has it; or when that of all that has gone so far does, taken together against the whole crew.
Agents go first, those with the least gain per dollar first of all. Then the model of all is chosen, and that
of each, by what the target asks for; then samples, lengths, order and the price of tokens. In the end every
candidate that was tried counts: the cheapest that reaches the accuracy, or the most accurate within the cost.
All of this sees the half to fit on; the held-out half is for one look at the outcome.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.profile import FALLBACK_FLASH, FLASH, PRO, Profile, find_profile
from stepwell.errors import BadInput
from stepwell.fit import changes
from stepwell.fit.ablation import Worth, ablate, worth
from stepwell.fit.changes import Change, describe
from stepwell.fit.evaluate import Evaluator
from stepwell.fit.outcomes import Evaluation, together
from stepwell.fit.statistics import Resamples, quantile
from stepwell.fit.tasks import Item

FITTED = "fitted"
KEPT_GAIN = 0.8
"""Of what the whole crew gains over a single call, where no target is given."""
LENGTH_QUANTILES = (0.5, 0.75, 0.9, 1.0)
LENGTH_STEP_TOKENS = 8
NO_EFFECT = "that changes nothing"
PRICE_FACTORS = (4.0, 2.0, 1.0, 0.5)


@dataclass(frozen=True, slots=True)
class SearchTarget:
    """What is asked for: one of the two, or neither for most of the whole crew's gain."""

    accuracy: float | None = None
    """From 0 to 1: the cheapest that reaches it."""
    cost_microusd: int | None = None
    """Per item: the most accurate that costs no more."""

    def resolved(self, single: Evaluation, pro: Evaluation) -> SearchTarget:
        """With its default: ``KEPT_GAIN`` of what pro gains over the single call."""
        if self.accuracy is not None or self.cost_microusd is not None:
            return self
        return SearchTarget(accuracy=single.share + KEPT_GAIN * max(0.0, pro.share - single.share))

    def says(self) -> str:
        """In words."""
        if self.cost_microusd is not None:
            return f"the most accurate at {self.cost_microusd / 1_000_000:.6f} USD per item at most"
        return f"the cheapest with an accuracy of {100 * (self.accuracy or 0.0):.1f} % at least"


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One decision of the search."""

    worth: Worth
    taken: bool
    why: str


@dataclass(slots=True)
class Search:
    """A fit under way, and what it found."""

    evaluator: Evaluator
    items: Sequence[Item]
    """The half to fit on."""
    asked: SearchTarget
    draws: Resamples = field(default_factory=Resamples)
    tried: list[Evaluation] = field(default_factory=list)
    """Every candidate, the single call first."""
    worths: list[Worth] = field(default_factory=list)
    """Of every part of the whole crew."""
    steps: list[SearchStep] = field(default_factory=list)
    in_money: bool = True
    chosen_label: str = ""
    """Which of the candidates it is that is called ``fitted`` in the end."""
    target: SearchTarget = field(default_factory=SearchTarget)
    current: Evaluation = field(init=False)
    pro: Evaluation = field(init=False)

    async def run(self) -> Evaluation:
        """The chosen candidate on the half to fit on; its profile is called ``fitted``."""
        await self._begin()
        await self._begin_elsewhere()
        self.worths = await self._ablate()
        await self._spare_agents()
        await self._choose_models()
        await self._fewer_samples()
        await self._shorter_answers()
        await self._stage([changes.one_at_a_time(self._crew, self._profile)])
        await self._price_tokens()
        chosen = self.select([one for one in self.tried if one.profile is not None])
        self.chosen_label = chosen.label
        return await self._try(self._named(chosen), FITTED)

    def _named(self, chosen: Evaluation) -> Profile:
        """As it is written down: for this crew, and on a model that is named where there was a choice."""
        profile = chosen.profile
        assert profile is not None
        drop = tuple(name for name in profile.drop if name in self._crew.roles)
        places = self.evaluator.places
        model = profile.model or (places[0].name if len(places) > 1 else "")
        return replace(profile, name=FITTED, crew=self._crew.name, drop=drop, model=model)

    # --- what is known -----------------------------------------------------------------------------

    @property
    def _crew(self) -> Crew:
        return self.evaluator.crew

    @property
    def _models(self) -> list[str]:
        return [place.name for place in self.evaluator.places]

    @property
    def _profile(self) -> Profile:
        assert self.current.profile is not None
        return self.current.profile

    async def _try(self, profile: Profile, label: str = "") -> Evaluation:
        label = label or describe(self._crew, profile)
        made = await self.evaluator.profile(profile, self.items, label)
        if all(one.label != label for one in self.tried):
            self.tried.append(made)
        return made

    async def _begin(self) -> None:
        """Where everything is measured from: the single call, the whole crew, and flash as it stands."""
        single = await self.evaluator.single(self.items)
        self.tried.append(single)
        if self.asked.cost_microusd is not None and not single.in_money:
            raise BadInput("--cost is in USD, and the server does not say what turns cost: use --accuracy")
        self.pro = self.current = await self._try(find_profile(self._crew, PRO), PRO)
        await self._try(find_profile(self._crew, FLASH), FLASH)
        self.in_money = together([single, self.pro])
        self.target = self.asked.resolved(single, self.pro)

    async def _begin_elsewhere(self) -> None:
        """Where the crew misses the accuracy on the first model, on another: what seems useless to a model
        that is too small would go, and never be tried on one that is not."""
        if self.target.accuracy is not None and not self.reaches(self.pro):
            await self._choose(changes.other_models(self._crew, self._profile, self._models))
            self.pro = self.current

    async def _ablate(self) -> list[Worth]:
        found = await ablate(self.evaluator, self.pro, self.items, self.draws, self.in_money)
        self.tried += [one.without for one in found]
        return found

    # --- the rule ----------------------------------------------------------------------------------

    async def _consider(self, change: Change) -> bool:
        """Whether the change is taken; then it is where the search goes on from."""
        trial = await self._try(change.profile)
        part = worth(change, self.current, trial, self.draws, self.in_money)
        taken, why = self._judge(trial, part)
        self.steps.append(SearchStep(part, taken, why))
        if taken:
            self.current = trial
        return taken

    def _judge(self, trial: Evaluation, part: Worth) -> tuple[bool, str]:
        if part.cost.value < 0:
            return False, "it saves more than it costs"
        if part.cost.value == 0 and part.gain.value == 0:
            return (False, NO_EFFECT) if part.change.adds else (True, "nothing changes without it")
        shown = part.gain.surely_positive or self._gone_too_far(trial)
        if self.target.accuracy is not None:
            if trial.share >= self.target.accuracy:
                return True, "the target is reached without it"
            if self.current.share >= self.target.accuracy:
                doubt = "" if shown else ", though its gain is not sure"
                return False, f"the target is missed without it{doubt}"
        elif shown and self.current.mean_cost(self.in_money) > (self.target.cost_microusd or 0):
            return True, "it pays, but the limit is passed with it"
        return (False, "it is shown to pay") if shown else (True, "it is not shown to pay")

    def _gone_too_far(self, trial: Evaluation) -> bool:
        """Many small losses, none of them sure, may be a sure one together."""
        return self.draws.difference(self.pro.right, trial.right).surely_positive and (
            self.current.share > trial.share
        )

    async def _stage(self, groups: Iterable[Iterable[Change]]) -> None:
        """Of each group of changes the first that can be taken.

        Rules come with the strictest first: where one changes nothing, no milder one does.
        """
        for group in groups:
            for change in group:
                if await self._consider(change) or self.steps[-1].why == NO_EFFECT:
                    break

    # --- stages ------------------------------------------------------------------------------------

    async def _spare_agents(self) -> None:
        """Those that bring least for their money first: where one goes, the others' worth may change.

        One that cannot simply go may be worth less than more samples for its money.
        """
        for part in [one.change.part for one in sorted(self.worths, key=_rank)]:
            now = (self._crew, self._profile, self.evaluator.tasks.single)
            options = [*changes.spared_roles(*now), *changes.traded_roles(*now)]
            await self._stage([[change for change in options if change.part == part]])

    async def _choose_models(self) -> None:
        """The whole crew on each model that is served, then each role of it on each."""
        models = self._models
        await self._choose(changes.other_models(self._crew, self._profile, models))
        roles = list(changes.used_roles(self._crew, self._profile))
        for role in roles if len(roles) > 1 else ():  # one role is the whole crew
            await self._choose(changes.other_models(self._crew, self._profile, models, role))

    async def _choose(self, options: Iterable[Change]) -> None:
        """Neither more nor less of the crew, only another: what the target asks for decides."""
        tried = [(change, await self._try(change.profile)) for change in options]
        best = self.select([self.current, *[trial for _, trial in tried]])
        for change, trial in tried:
            part = worth(change, self.current, trial, self.draws, self.in_money)
            taken = trial is best
            why = "of all models this is the nearest to the target" if taken else self._why_not(trial, best)
            self.steps.append(SearchStep(part, taken, why))
        self.current = best

    def _why_not(self, trial: Evaluation, best: Evaluation) -> str:
        if self.reaches(best) and not self.reaches(trial):
            return "the target is missed with it"
        dearer = trial.mean_cost(self.in_money) > best.mean_cost(self.in_money)
        return "another costs less" if dearer and self.reaches(best) else "another is nearer to the target"

    async def _fewer_samples(self) -> None:
        for role in changes.used_roles(self._crew, self._profile):
            await self._stage([changes.fewer_samples(self._crew, self._profile, role)])

    async def _shorter_answers(self) -> None:
        """As long as right answers are: what is longer is seldom right."""
        for role in changes.used_roles(self._crew, self._profile):
            lengths = self.current.lengths(role, of_right=True)
            longest = max(self.current.lengths(role, of_right=False), default=0)
            limits = [_whole_steps(quantile(lengths, share)) for share in LENGTH_QUANTILES if lengths]
            useful = [limit for limit in limits if limit < longest]
            await self._stage([changes.shorter_answers(self._crew, self._profile, role, useful)])

    async def _price_tokens(self) -> None:
        """At multiples of flash's price, the highest first; the search knows by now what samples bring."""
        like = find_profile(self._crew, FLASH).penalty or FALLBACK_FLASH.penalty
        assert like is not None
        self.current = await self._try(await self._measured(self.current))
        if self._profile.penalty is None:
            await self._stage([changes.penalised(self._profile, like, PRICE_FACTORS)])

    async def _measured(self, evaluation: Evaluation) -> Profile:
        """The profile with what the runtime expects of a sample: how often right, and how long it is."""
        profile = evaluation.profile
        assert profile is not None
        for name, role in changes.used_roles(self._crew, profile).items():
            lengths = evaluation.lengths(name, of_right=False)
            if role.samples > 1 and lengths:
                alone = changes.with_setting(profile, name, samples=1)
                once = await self._try(alone)
                usual_tokens = round(sum(lengths) / len(lengths))
                # One more of each kind (Laplace): a few items never show that a sample is always wrong.
                rate = round((sum(once.right) + 1) / (len(once.right) + 2), 3)
                profile = changes.with_setting(profile, name, pass_rate=rate, usual_tokens=usual_tokens)
        return profile

    # --- the end -----------------------------------------------------------------------------------

    def select(self, candidates: Sequence[Evaluation]) -> Evaluation:
        """What the target asks for; where none reaches it, the nearest to it. Ties go to the first."""
        reaching = [one for one in candidates if self.reaches(one)]
        wants_cheapest = bool(reaching) == (self.target.accuracy is not None)
        if wants_cheapest:
            return min(reaching or candidates, key=lambda one: (one.mean_cost(self.in_money), -one.share))
        return min(reaching or candidates, key=lambda one: (-one.share, one.mean_cost(self.in_money)))

    def reaches(self, evaluation: Evaluation) -> bool:
        """Whether an evaluation is what the target asks for."""
        if self.target.accuracy is not None:
            return evaluation.share >= self.target.accuracy
        return evaluation.mean_cost(self.in_money) <= (self.target.cost_microusd or 0)


def _rank(part: Worth) -> float:
    """Gain for cost; what costs nothing and brings nothing goes before all."""
    if part.cost.value <= 0:
        return math.inf if part.gain.value > 0 else -math.inf
    return part.gain.value / part.cost.value


def _whole_steps(tokens: int) -> int:
    """Rounded up, with room for the end of the answer."""
    return (tokens // LENGTH_STEP_TOKENS + 1) * LENGTH_STEP_TOKENS
