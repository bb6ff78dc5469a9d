"""A fit finds what is known beforehand: who is useful, how many samples, how long, which model."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import find_crew
from stepwell.agents.crews.profile import Profile, apply, find_profile, load_profile
from stepwell.fit import changes
from stepwell.fit.changes import describe
from stepwell.fit.memo import Memo
from stepwell.fit.outcomes import Evaluation, ItemOutcome
from stepwell.fit.report import dropped
from stepwell.fit.search import FITTED, Search, SearchTarget
from stepwell.fit.statistics import Resamples
from stepwell.fit.tasks import TaskSet
from tests.agents.scripted import Asked
from tests.fit.quiz import CREW, RIGHT, Counted, always, crew, evaluator, said_by

DRAWS = Resamples(count=400)
PRO = Profile("pro")


@dataclass
class Fitted:
    search: Search
    chosen: Evaluation

    @property
    def profile(self) -> Profile:
        assert self.chosen.profile is not None
        return self.chosen.profile

    @property
    def dropped(self) -> list[str]:
        return dropped(self.search.evaluator.crew, self.profile)

    def why(self, part: str) -> list[str]:
        return [step.why for step in self.search.steps if step.worth.change.part == part]


def fit(
    tmp_path: Path,
    *servers: Counted,
    target: SearchTarget | None = None,
    made: Crew | None = None,
    tasks: TaskSet | None = None,
    memo: Memo | None = None,
) -> Fitted:
    async def run() -> Fitted:
        async with evaluator(tmp_path, *servers, made=made, tasks=tasks, memo=memo) as here:
            search = Search(here, here.tasks.halves()[0], target or SearchTarget(), DRAWS)
            return Fitted(search, await search.run())

    return asyncio.run(run())


def test_useless_agents_go_and_the_useful_one_stays(tmp_path: Path) -> None:
    found = fit(tmp_path, Counted(said_by(always)), memo=Memo())
    assert sorted(found.dropped) == ["the critic", "the planner"]
    assert sorted(found.profile.drop) == ["critic", "planner"]
    assert found.why("the scout") == ["the target is missed without it"]
    assert found.chosen.share == 1
    assert found.chosen.mean_cost(True) < found.search.pro.mean_cost(True)
    worths = {one.change.part: one for one in found.search.worths}
    assert worths["the scout"].gain.surely_positive
    assert worths["the scout"].chance < 0.05
    rate = worths["the scout"].per_million()
    gain, cost = worths["the scout"].gain.value, worths["the scout"].cost.value
    assert rate is not None
    assert rate.value == pytest.approx(gain / cost * 1_000_000)
    assert not worths["the critic"].gain.surely_positive
    assert worths["the critic"].cost.surely_positive


def test_a_writer_that_the_crew_does_not_name_can_be_spared(tmp_path: Path) -> None:
    """It ships, and every crew with a planner has it that does not drop it."""
    unnamed = crew(text=CREW.replace('drop = ["writer"]\n', ""))
    others = said_by(always)

    def model(asked: Asked) -> str:
        if asked.role != "writer":
            return others(asked)
        numbers = re.findall(r"It is \d+", asked.last)
        return f"{numbers[-1]}." if numbers else "I do not know."

    found = fit(tmp_path, Counted(model), made=unnamed, memo=Memo())
    worths = {one.change.part: one for one in found.search.worths}
    assert worths["the writer"].gain.value == 0
    assert worths["the writer"].cost.surely_positive
    assert "the writer" in found.dropped
    assert "without" in describe(unnamed, found.profile)
    assert "writer" in describe(unnamed, found.profile)


def test_a_fit_is_repeated_from_memory(tmp_path: Path) -> None:
    memo = Memo()
    first = fit(tmp_path, Counted(said_by(always)), memo=memo)
    again = Counted(said_by(always))
    second = fit(tmp_path, again, memo=memo)
    assert not again.asked
    assert second.profile == first.profile
    assert [one.outcomes for one in second.search.tried] == [one.outcomes for one in first.search.tried]


def three_agree(at: int, sample: int, told: bool) -> str:
    """The first of five is right on every other question, the next three always, the last never."""
    is_right = sample in (2, 3, 4) or (at % 2 == 0 and sample == 1)
    return f"It is {RIGHT if is_right else 77 + sample}."


def test_three_samples_of_five_are_enough(tmp_path: Path) -> None:
    found = fit(tmp_path, Counted(said_by(three_agree)), made=crew(samples=5), memo=Memo())
    assert found.profile.roles["solver"]["samples"] == 3
    assert sorted(found.dropped) == ["the critic", "the planner", "the scout"]
    assert found.chosen.share == 1


def test_what_has_fewer_samples_asks_nothing_new(tmp_path: Path) -> None:
    async def run() -> list[int]:
        async with evaluator(tmp_path, server, made=crew(samples=5), memo=Memo()) as here:
            asked = []
            for samples in (5, 3, 1):
                await here.profile(changes.with_setting(PRO, "solver", samples=samples), here.tasks.items)
                asked.append(len(server.asked))
            return asked

    server = Counted(said_by(three_agree))
    assert asyncio.run(run()) == [8 * 40] * 3


def late(at: int, sample: int, told: bool) -> str:
    """Without the secret, the first two of a few samples are wrong on every fourth question."""
    is_right = told or at % 4 or sample > 2
    return f"It is {RIGHT if is_right else 77 + sample}."


def test_an_agent_goes_for_more_samples_where_that_costs_less(tmp_path: Path) -> None:
    found = fit(tmp_path, Counted(said_by(late)), made=crew(samples=2), memo=Memo(), target=SearchTarget(0.9))
    assert "scout" in found.profile.drop
    assert (found.profile.roles["solver"]["samples"], found.profile.wave) == (5, 1)
    assert found.chosen.share == 1
    assert "the scout" in found.dropped
    (kept, *_, traded) = [one for one in found.search.steps if one.worth.change.part == "the scout"]
    assert (kept.taken, traded.taken) == (False, True)
    assert "for up to 5 samples of the solver" in traded.worth.change.done
    assert found.chosen.mean_cost(True) < found.search.pro.mean_cost(True)


def wordy(at: int, sample: int, told: bool) -> str:
    """Right answers are short; on every fourth question it talks without end and is wrong."""
    return f"It is {RIGHT}." if at % 4 else "Well " * 120


def test_answers_are_cut_where_longer_ones_are_wrong_anyway(tmp_path: Path) -> None:
    found = fit(tmp_path, Counted(said_by(wordy)), memo=Memo(), target=SearchTarget(accuracy=0.7))
    assert found.profile.roles["solver"]["max_tokens"] == 8
    assert found.chosen.share == found.search.pro.share == 0.75
    assert max(found.chosen.lengths("solver", of_right=False)) == 8


def early(at: int, sample: int, told: bool) -> str:
    """The first of three is wrong on every other question."""
    return f"It is {RIGHT}." if at % 2 or sample > 1 else "It is 5."


def test_samples_come_one_after_another_where_that_saves_some(tmp_path: Path) -> None:
    found = fit(tmp_path, Counted(said_by(early)), made=crew(samples=3), memo=Memo())
    assert found.profile.wave == 1
    assert changes.used_roles(crew(samples=3), found.profile)["solver"].samples == 3
    assert found.chosen.mean(lambda one: one.turns) == 2.5


def test_a_cost_is_kept_and_the_most_accurate_within_it_is_taken(tmp_path: Path) -> None:
    server = Counted(said_by(always))
    whole = fit(tmp_path, server, memo=Memo())
    cost = round(whole.search.pro.mean_cost(True) / 3)
    found = fit(tmp_path, Counted(said_by(always)), memo=Memo(), target=SearchTarget(cost_microusd=cost))
    assert found.chosen.mean_cost(True) <= cost
    within = [one for one in found.search.tried if one.profile and one.mean_cost(True) <= cost]
    assert found.chosen.share == max(one.share for one in within)
    assert found.search.reaches(found.chosen)


def test_for_a_cost_whatever_is_not_shown_to_pay_goes_though_there_is_money(tmp_path: Path) -> None:
    found = fit(tmp_path, Counted(said_by(always)), memo=Memo(), target=SearchTarget(cost_microusd=1_000_000))
    assert sorted(found.dropped) == ["the critic", "the planner"]
    assert found.why("the scout") == ["it is shown to pay"]


def test_a_target_that_nothing_reaches_gives_the_nearest_and_says_so(tmp_path: Path) -> None:
    found = fit(tmp_path, Counted(said_by(wordy)), memo=Memo(), target=SearchTarget(accuracy=0.9))
    assert found.chosen.share == 0.75
    assert not found.search.reaches(found.chosen)
    cheap = fit(tmp_path, Counted(said_by(always)), memo=Memo(), target=SearchTarget(cost_microusd=1))
    assert not cheap.search.reaches(cheap.chosen)
    assert cheap.chosen.mean_cost(True) == min(
        one.mean_cost(True) for one in cheap.search.tried if one.profile
    )


def test_the_cheaper_model_is_taken_where_it_reaches_the_target(tmp_path: Path) -> None:
    small, large = Counted(said_by(always), name="small"), Counted(said_by(always), name="large")
    small.factor = 0.1
    assert fit(tmp_path, large, small, memo=Memo()).profile.model == "small"

    def poor(at: int, sample: int, told: bool) -> str:
        return "Who knows?"

    useless = Counted(said_by(poor), name="small")
    useless.factor = 0.1
    assert fit(tmp_path, large, useless, memo=Memo()).profile.model == "large"


def test_each_role_gets_the_cheapest_model_that_will_do(tmp_path: Path) -> None:
    """The small one says the number it is told as well as the large one does, and knows no secret."""

    def unknowing(asked: Asked) -> str:
        return "I know of none." if asked.role == "scout" else model(asked)

    model = said_by(always)
    large, small = Counted(model, name="large"), Counted(unknowing, name="small")
    small.factor = 0.1
    found = fit(tmp_path, large, small, memo=Memo())
    on = {name: role.model for name, role in changes.used_roles(crew(), found.profile).items()}
    assert on == {"scout": "large", "solver": "small"}
    assert found.chosen.share == 1
    assert found.why("the model of all") == ["the target is missed with it"]
    assert found.why("the model of the scout") == ["the target is missed with it"]
    assert found.why("the model of the solver") == ["of all models this is the nearest to the target"]
    assert {asked.role for asked in small.asked[-20:]} == {"solver"}
    assert "solver: on small" in describe(crew(), found.profile)


def test_a_role_goes_to_the_dearer_model_where_the_target_is_missed_otherwise(tmp_path: Path) -> None:
    def unknowing(asked: Asked) -> str:
        return "I know of none." if asked.role == "scout" else model(asked)

    model = said_by(always)
    large, small = Counted(model, name="large"), Counted(unknowing, name="small")
    small.factor = 0.1
    found = fit(tmp_path, small, large, memo=Memo(), target=SearchTarget(accuracy=1.0))
    on = {name: role.model for name, role in changes.used_roles(crew(), found.profile).items()}
    assert on == {"scout": "large", "solver": "small"}
    assert found.chosen.share == 1


def test_every_other_model_is_tried_for_all_and_for_one() -> None:
    profile = changes.with_setting(Profile("p", model="b"), "solver", model="c", samples=2)
    whole = list(changes.other_models(crew(), profile, ["a", "b", "c"]))
    assert [change.done for change in whole] == [f"{one} instead of b, c" for one in "abc"]
    assert [dict(change.profile.roles) for change in whole] == [{"solver": {"samples": 2}}] * 3
    one = list(changes.other_models(crew(), profile, ["a", "b", "c"], "solver"))
    assert [change.profile.roles["solver"]["model"] for change in one] == ["a", "b"]
    assert [change.profile.model for change in one] == ["b", "b"]
    assert not list(changes.other_models(crew(), Profile("p"), ["a"]))


def first_or_never(at: int, sample: int, told: bool) -> str:
    """No two answers are alike, so the first is taken; only a price ends the asking."""
    return f"It is {RIGHT if at % 2 and sample == 1 else sample}."


def test_a_price_on_tokens_is_taken_where_further_answers_bring_nothing(tmp_path: Path) -> None:
    """As many samples as there are stay in the profile here: the stage alone is looked at."""

    async def run() -> Fitted:
        async with evaluator(tmp_path, Counted(said_by(first_or_never)), made=made, memo=Memo()) as here:
            search = Search(here, here.tasks.halves()[0], SearchTarget(accuracy=0.5), DRAWS)
            await search._begin()
            search.current = await search._try(replace(search.pro.profile or PRO, wave=1))
            await search._price_tokens()
            return Fitted(search, search.current)

    made = crew(samples=8, text=CREW.replace("million = 2.0", "million = 20.0"))
    found = asyncio.run(run())
    assert found.profile.penalty is not None
    assert found.profile.penalty.token_price_microusd == 80_000_000  # the highest that is tried
    assert found.profile.roles["solver"]["pass_rate"] == 0.5
    assert found.chosen.share == found.search.pro.share == 0.5
    assert found.chosen.role_turns("solver") < found.search.pro.role_turns("solver")


def test_the_fitted_profile_is_written_for_its_crew_and_can_be_applied(tmp_path: Path) -> None:
    found = fit(tmp_path, Counted(said_by(always)), memo=Memo())
    assert (found.profile.name, found.profile.crew) == (FITTED, "quiz")
    assert found.chosen.label == FITTED
    assert apply(crew(), found.profile).dropped


# --- the rule, on made-up figures ----------------------------------------------------------------------


def made_up(right: Sequence[bool], cost: int, label: str = "x") -> Evaluation:
    outcomes = (
        ItemOutcome(str(n), right=one, status="completed", cost_microusd=cost, turns=1)
        for n, one in enumerate(right)
    )
    return Evaluation(label, Profile(label), tuple(outcomes))


def searching(target: SearchTarget, current: Evaluation, pro: Evaluation | None = None) -> Search:
    search = Search(None, (), target, DRAWS)  # type: ignore[arg-type]
    search.target, search.current, search.pro = target, current, pro or current
    return search


def judged(search: Search, trial: Evaluation, **change: Any) -> tuple[bool, str]:
    from stepwell.fit.ablation import worth

    made = changes.Change("a part", "dropped", Profile("x"), **change)
    return search._judge(trial, worth(made, search.current, trial, DRAWS, True))


WHOLE = made_up([True] * 30 + [False] * 10, 100)
MUCH_WORSE = made_up([True] * 10 + [False] * 30, 50)
LITTLE_WORSE = made_up([True] * 29 + [False] * 11, 50)
SAME_DEARER = made_up([True] * 30 + [False] * 10, 120)
SAME = made_up([True] * 30 + [False] * 10, 100)


@pytest.mark.parametrize(
    ("target", "trial", "expected"),
    [
        (SearchTarget(accuracy=0.7), LITTLE_WORSE, (True, "the target is reached without it")),
        (SearchTarget(accuracy=0.2), MUCH_WORSE, (True, "the target is reached without it")),
        (SearchTarget(accuracy=0.7), MUCH_WORSE, (False, "the target is missed without it")),
        (
            SearchTarget(accuracy=0.75),
            LITTLE_WORSE,
            (False, "the target is missed without it, though its gain is not sure"),
        ),
        (SearchTarget(accuracy=0.9), LITTLE_WORSE, (True, "it is not shown to pay")),
        (SearchTarget(accuracy=0.9), MUCH_WORSE, (False, "it is shown to pay")),
        (SearchTarget(accuracy=0.7), SAME_DEARER, (False, "it saves more than it costs")),
        (SearchTarget(accuracy=0.7), SAME, (True, "nothing changes without it")),
        (SearchTarget(cost_microusd=200), LITTLE_WORSE, (True, "it is not shown to pay")),
        (SearchTarget(cost_microusd=200), MUCH_WORSE, (False, "it is shown to pay")),
        (SearchTarget(cost_microusd=80), MUCH_WORSE, (True, "it pays, but the limit is passed with it")),
    ],
)
def test_the_rule(target: SearchTarget, trial: Evaluation, expected: tuple[bool, str]) -> None:
    assert judged(searching(target, WHOLE), trial) == expected


def test_a_rule_that_changes_nothing_is_not_added() -> None:
    assert judged(searching(SearchTarget(accuracy=0.7), WHOLE), SAME, adds=True) == (
        False,
        "that changes nothing",
    )


def test_small_losses_add_up_to_a_sure_one() -> None:
    """Each step loses too little to be sure of; against the whole crew the last one is."""
    pro = made_up([True] * 40, 200)
    now = made_up([True] * 36 + [False] * 4, 100)
    trial = made_up([True] * 34 + [False] * 6, 50)
    assert judged(searching(SearchTarget(accuracy=0.95), now), trial)[0]
    assert judged(searching(SearchTarget(accuracy=0.95), now, pro), trial) == (False, "it is shown to pay")


def test_the_default_target_is_four_fifths_of_the_gain() -> None:
    single, pro = made_up([True] * 20 + [False] * 20, 10), made_up([True] * 40, 100)
    assert SearchTarget().resolved(single, pro).accuracy == pytest.approx(0.9)
    assert SearchTarget().resolved(pro, single).accuracy == 1
    assert SearchTarget(cost_microusd=5).resolved(single, pro) == SearchTarget(cost_microusd=5)


# --- changes -------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "needed"), [("code", "coder"), ("documents", "reader"), ("calculation", "solver")]
)
def test_every_part_of_a_shipped_crew_can_be_taken_away(name: str, needed: str) -> None:
    made = find_crew(name)
    pro = find_profile(made, "pro")
    spared = [change.profile.drop[-1] for change in changes.spared_roles(made, pro, needed)]
    assert needed not in spared
    assert sorted([*spared, needed]) == sorted(role for role in made.roles if role not in made.dropped)
    assert len({describe(made, change.profile) for change in changes.spared_roles(made, pro, needed)}) == len(
        spared
    )


def test_samples_are_tried_from_the_fewest(tmp_path: Path) -> None:
    tried = list(changes.fewer_samples(crew(samples=5), Profile("pro"), "solver"))
    assert [change.profile.roles["solver"]["samples"] for change in tried] == [1, 2, 3]
    assert tried[0].done == "1 instead of 5"


def test_what_is_changed_survives_being_written(tmp_path: Path) -> None:
    from stepwell.agents.crews.profile import dump

    made = crew(samples=5)
    profile = changes.without_role(Profile("fitted", crew="quiz"), "critic")
    profile = changes.with_setting(profile, "solver", samples=3, max_tokens=24, pass_rate=0.43, check="")
    like = find_profile(made, "flash").penalty
    assert like is not None
    profile = next(iter(changes.penalised(profile, like, (2.0,)))).profile
    (tmp_path / "p.toml").write_text(dump(profile))
    assert load_profile(tmp_path / "p.toml") == profile
    assert "without critic; solver: samples 3, tokens 24, unchecked, pass rate 0.43" in describe(
        made, profile
    )


def test_what_was_never_right_is_expected_to_be_right_some_time(tmp_path: Path) -> None:
    async def run() -> Profile:
        async with evaluator(tmp_path, Counted(said_by(late)), made=crew(samples=3), memo=Memo()) as here:
            search = Search(here, here.tasks.halves()[0], SearchTarget(), DRAWS)
            await search._begin()
            return await search._measured(search.pro)

    def late(at: int, sample: int, told: bool) -> str:
        return f"It is {RIGHT if sample > 1 else 5}."

    profile = asyncio.run(run())
    assert profile.roles["solver"] == {"pass_rate": round(1 / 22, 3), "usual_tokens": 3}
