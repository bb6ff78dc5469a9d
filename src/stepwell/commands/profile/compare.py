"""``stepwell profile compare``: profiles side by side, with intervals and aims."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Annotated

from rich.console import Console

from stepwell.agents.crews.files import find_crew
from stepwell.agents.crews.profile import Profile, find_profile
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
)
from stepwell.commands.profile.view import evaluations_table, print_failures, print_findings
from stepwell.console.options import Flag, JsonOption, option
from stepwell.console.output import report_console, write_json
from stepwell.console.report import versions
from stepwell.errors import BadInput
from stepwell.fit.compare import WITHOUT_PENALTY, findings
from stepwell.fit.evaluate import SESSIONS, Evaluator
from stepwell.fit.load import load_tasks
from stepwell.fit.outcomes import SINGLE, Evaluation, together
from stepwell.fit.statistics import Resamples
from stepwell.launch.crew_servers import Given, ServerOption


def compare(
    crew: CrewArgument,
    /,
    *,
    tasks: TasksOption,
    profiles: Annotated[
        str, option("Which, by commas: single, pro, flash, other names, files. [single,flash,pro]")
    ] = "single,flash,pro",
    penalty_off: Annotated[Flag, option("Try those with a token penalty once more without it.")] = False,
    half: Annotated[Half, option("Which items: held-out, fit or all. [held-out]")] = "held-out",
    model: ModelOption = (),
    server: ServerOption = (),
    key: KeyOption = None,
    items: ItemsOption = None,
    seed: SeedOption = 0,
    at_once: AtOnceOption = SESSIONS,
    memo: MemoOption = None,
    no_memo: NoMemoOption = False,
    json_file: JsonOption = None,
) -> int:
    """Profiles side by side on one task set: accuracy, intermediate tokens, cost.

    All figures have 95 % intervals, and differences are paired: the same items, one profile against the
    other. Aims: pro at least 15 points over the single call; flash keeps at least 80 % of that gain at no
    more than 40 % of pro's cost. Example:

        stepwell profile compare code --tasks functions --penalty-off
        stepwell profile compare code --tasks functions --profiles single,pro,fitted/fitted.toml
    """
    made, task_set = find_crew(crew), load_tasks(tasks)
    names = [name.strip() for name in profiles.split(",") if name.strip()]
    if not names:
        raise BadInput("--profiles is empty: name some, as in --profiles single,flash,pro")
    chosen = [None if name == SINGLE else find_profile(made, name) for name in names]
    wanted = PlacesWanted(Given.of(server, key), tuple(model), seed, memo, no_memo)
    trial = ProfileTrial(made, task_set, wanted, items, at_once)
    trial.require(half)
    console = report_console(json_file)
    work = partial(_compare, trial=trial, chosen=chosen, off=penalty_off, half=half)
    looked, places = trial.run([one for one in chosen if one], work)
    return _show_compared(console, trial, half, looked, places, json_file)


async def _compare(
    places: ProfileServers,
    evaluator: Evaluator,
    trial: ProfileTrial,
    chosen: Sequence[Profile | None],
    off: bool,
    half: Half,
) -> tuple[list[Evaluation], ProfileServers]:
    items = trial.some(half)
    looked: list[Evaluation] = []
    for profile in chosen:
        if profile is None:
            looked.append(await evaluator.single(items))
            continue
        looked.append(await evaluator.profile(profile, items))
        if off and profile.penalty is not None:
            without = replace(profile, penalty=None)
            looked.append(await evaluator.profile(without, items, f"{profile.name} {WITHOUT_PENALTY}"))
    return looked, places


def _show_compared(
    console: Console,
    trial: ProfileTrial,
    half: Half,
    looked: Sequence[Evaluation],
    places: ProfileServers,
    json_file: Path | None,
) -> int:
    in_money = together(looked)
    found = findings(looked, Resamples())
    count = len(looked[0].outcomes)
    title = f"{trial.crew.name} on {trial.tasks.name}: {half} items, {count}; tokens and turns per item"
    console.print(evaluations_table(title, looked, in_money))
    print_findings(console, found)
    print_failures(console, looked)
    counts = places.counts
    if json_file is not None:
        what = {"crew": trial.crew.name, "tasks": trial.tasks.name, "half": half, "served": places.served}
        turns = {"turns_asked": counts.asked, "turns_remembered": counts.remembered}
        figures = {
            "profiles": [one.as_json(items=True) for one in looked],
            "findings": [one.as_json() for one in found],
        }
        here = {"machine": machine(), "versions": versions()}
        write_json(json_file, here | what | turns | figures)
    aims = [one.reached for one in found if one.reached is not None]
    aimed = f"{sum(aims)} of {len(aims)} aims reached" if aims else "no aim applies to these profiles"
    turns_line = f"{counts.asked:,} turns asked, {counts.remembered:,} remembered"
    console.print(f"compare: {aimed}; {turns_line}.", style="bold", markup=False, highlight=False)
    return 0
