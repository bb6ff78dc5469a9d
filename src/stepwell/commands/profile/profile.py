"""``stepwell profile``: find the profile that keeps what pays, and look at profiles and task sets."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import replace
from decimal import Decimal, InvalidOperation
from functools import partial
from pathlib import Path
from typing import Annotated, Any

from rich.console import Console

from stepwell.agents.crews.definition import Crew
from stepwell.agents.crews.files import budget_microusd, find_crew
from stepwell.agents.crews.profile import FLASH, PRO, Profile, apply, dump, find_profile
from stepwell.basics.this_machine import machine
from stepwell.commands.profile.places import PlacesWanted, ProfileServers
from stepwell.commands.profile.trial import (
    AtOnceOption,
    CrewArgument,
    Half,
    ItemsOption,
    KeyOption,
    MemoOption,
    ModelOption,
    NoMemoOption,
    ProfileTrial,
    SeedOption,
    TasksOption,
    spread,
)
from stepwell.commands.profile.view import evaluations_table, print_failures, print_findings
from stepwell.console.options import JsonOption, option
from stepwell.console.output import report_console, write_json
from stepwell.console.report import versions
from stepwell.errors import BadInput
from stepwell.fit.evaluate import SESSIONS, Evaluator
from stepwell.fit.jsonl import dump as lines_of
from stepwell.fit.load import load_tasks
from stepwell.fit.outcomes import SINGLE
from stepwell.fit.report import Fit, as_json, verdict, write
from stepwell.fit.search import Search, SearchTarget
from stepwell.launch.crew_servers import Given, ServerOption


def fit(
    crew: CrewArgument,
    /,
    *,
    tasks: TasksOption,
    accuracy: Annotated[float | None, option("From 0 to 1: the cheapest profile that reaches it.")] = None,
    cost: Annotated[str | None, option("USD per item: the most accurate that costs no more.")] = None,
    model: ModelOption = (),
    server: ServerOption = (),
    key: KeyOption = None,
    items: ItemsOption = None,
    out: Annotated[Path, option("Where profile, report and chart go. [fitted-CREW-TASKS]")] = Path(),
    seed: SeedOption = 0,
    at_once: AtOnceOption = SESSIONS,
    memo: MemoOption = None,
    no_memo: NoMemoOption = False,
    json_file: JsonOption = None,
) -> int:
    """Find which agents, models, samples and penalties of a crew to keep.

    The single call, flash and pro answer one half of a task set; pro answers it again without each of its
    parts; then whatever does not pay is taken away, step by step, for the target: an accuracy at the lowest
    cost, the best accuracy at a cost, or, with neither, four fifths of pro's gain over the single call at the
    lowest cost. One look at the other half says what the outcome is worth. Example:

        stepwell profile fit code --tasks functions --accuracy 0.7 --out fitted
        stepwell run code tests.py --profile fitted/fitted.toml --ask "Write a function median(xs)."

    Turns are remembered: a fit that was stopped goes on, and the next one begins where this one ended.
    """
    target = SearchTarget(_accuracy(accuracy), _microusd(cost))
    if target.accuracy is not None and target.cost_microusd is not None:
        raise BadInput(
            "--accuracy and --cost are both given: one is the target, and the other what comes of it"
        )
    made, task_set = find_crew(crew), load_tasks(tasks)
    directory = out if out != Path() else Path(f"fitted-{made.name}-{task_set.name}")
    wanted = PlacesWanted(Given.of(server, key), tuple(model), seed, memo, no_memo)
    trial = ProfileTrial(made, task_set, wanted, items, at_once)
    trial.require()
    console = report_console(json_file)
    profiles = [find_profile(made, name) for name in (PRO, FLASH)]
    found = trial.run(profiles, partial(_fit, target=target, trial=trial))
    _show_fit(console, found, write(found, directory))
    write_json(json_file, {"machine": machine(), "versions": versions()} | as_json(found))
    console.print(_last_line(found), style="bold", markup=False, highlight=False, soft_wrap=True)
    return 0 if found.search.reaches(found.fitted) else 1


async def _fit(
    places: ProfileServers, evaluator: Evaluator, target: SearchTarget, trial: ProfileTrial
) -> Fit:
    fit_half, held_out = trial.halves()
    search = Search(evaluator, fit_half, target)
    fitted = await search.run()
    assert fitted.profile is not None
    looked = [await evaluator.single(held_out, _single_model(trial, fitted.profile))]
    looked[0] = replace(looked[0], label=SINGLE)
    profiles = (find_profile(trial.crew, FLASH), find_profile(trial.crew, PRO), fitted.profile)
    looked += [await evaluator.profile(profile, held_out) for profile in profiles]
    return Fit(search, fitted, looked, places.counts, not trial.wanted.no_memo, places.served)


def _single_model(trial: ProfileTrial, profile: Profile) -> str:
    """What the role that answers alone is on in a profile: so the two differ by the crew and not by that."""
    return apply(trial.crew, profile).roles[trial.tasks.single].model


def _show_fit(console: Console, found: Fit, files: Sequence[Path]) -> None:
    count = len(found.held_out[0].outcomes)
    title = f"{found.title}: held-out half, {count} items; tokens and turns per item"
    console.print(evaluations_table(title, found.held_out, found.in_money))
    print_findings(console, found.findings())
    print_failures(console, found.held_out)
    say = partial(console.print, markup=False, highlight=False, soft_wrap=True)
    for step in found.search.steps:
        tried = step.worth.change.done
        say(f"{step.worth.change.part}: {tried if step.taken else f'not {tried}'}, because {step.why}")
    say(f"Turns: {found.counts.asked:,} asked, {found.counts.remembered:,} remembered.")
    say(f"Written: {', '.join(map(str, files))}")


def _last_line(found: Fit) -> str:
    gone = ", ".join(found.dropped) or "nothing"
    return f"fit: {found.search.target.says()}: {verdict(found)}; dropped: {gone}."


def show(
    crew: CrewArgument,
    /,
    *,
    profile: Annotated[str, option("pro, flash, another of the crew's own, or a file. [flash]")] = FLASH,
    json_file: JsonOption = None,
) -> int:
    """What a profile makes of a crew: which roles are left, with which settings, and what tokens are worth.

    An example:

        stepwell profile show code --profile flash
    """
    made = find_crew(crew)
    found = find_profile(made, profile)
    applied = apply(made, found)
    console = report_console(json_file)
    settings = _settings(applied)
    write_json(json_file, {"crew": made.name, "profile": dump(found), "roles": settings})
    console.print(dump(found), markup=False, highlight=False, soft_wrap=True)
    for role, own in settings.items():
        line = ", ".join(f"{name} {value}" for name, value in own.items())
        console.print(f"{role}: {line}", markup=False, highlight=False, soft_wrap=True)
    gone = [name for name in made.roles if name in applied.dropped] or ["none"]
    console.print(
        f"{found.name}: {len(settings)} roles of {made.name} are left; dropped: {', '.join(gone)}.",
        style="bold",
        markup=False,
        highlight=False,
    )
    return 0


def _settings(crew: Crew) -> dict[str, dict[str, Any]]:
    """Of every role that is left: what a profile may set."""
    names = ("model", "samples", "max_tokens", "temperature", "max_turns", "check", "finish", "pass_rate")
    return {
        name: {key: value for key in names if (value := getattr(role, key)) not in ("", None)}
        for name, role in crew.roles.items()
        if name not in crew.dropped
    }


def tasks(
    task_set: TasksOption,
    /,
    *,
    half: Annotated[Half, option("Which items: held-out, fit or all. [all]")] = "all",
    items: ItemsOption = None,
) -> int:
    """Look at a task set: a line of JSON for the set and one for each item, as --tasks FILE reads them.

    Examples, to read one and to begin one of your own:

        stepwell profile tasks sums --items 3
        stepwell profile tasks facts > mine.jsonl
    """
    loaded = load_tasks(task_set)
    fit_half, held_out = loaded.halves()
    chosen = {"fit": fit_half, "held-out": held_out, "all": loaded.items}[half]
    for line in lines_of(replace(loaded, items=tuple(spread(chosen, items)))):
        print(line)
    print(
        f"{loaded.name}: {len(loaded.items)} items for the crew {loaded.crew}, {len(fit_half)} to fit on and "
        f"{len(held_out)} held out; graded by {loaded.grader}.",
        file=sys.stderr,
    )
    return 0


def _accuracy(share: float | None) -> float | None:
    if share is not None and not 0 < share <= 1:
        raise BadInput(f"--accuracy {share:g} is no share of one: 0.7 is seven right answers in ten")
    return share


def _microusd(cost: str | None) -> int | None:
    if cost is None:
        return None
    try:
        return budget_microusd(Decimal(cost), "--cost")
    except InvalidOperation as error:
        raise BadInput(f"--cost {cost} is no amount: write dollars, like 0.0004") from error
