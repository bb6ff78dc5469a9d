"""``stepwell replay``: decide a recorded run again, or play its turns under other policies."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from rich.console import Console
from rich.progress import track

from stepwell.commands.plan.output import write_page
from stepwell.commands.replay.machine import (
    PricedRun,
    ReplayMachine,
    closing,
    hourly,
    machine_of,
    priced_table,
)
from stepwell.commands.replay.page import changed_machine, elsewhere_page, policies_page
from stepwell.console.fitting import fitted
from stepwell.console.options import ChartsOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.errors import BadInput
from stepwell.policy.config import PolicyConfig
from stepwell.policy.eviction import EVICTION_POLICIES
from stepwell.recording.decided_again import DecidedAgain, decided_again
from stepwell.recording.file import read_recording
from stepwell.simulate.bound import is_available
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.recorded import Recorded, measured_model, recorded_workload
from stepwell.simulate.report import LEGEND, RunReport
from stepwell.simulate.run import play
from stepwell.simulate.tables import cost_table, latency_table, traffic_table


def replay(
    file: Path,
    *,
    policy: str | None = None,
    hardware: ReplayMachine | None = None,
    html: Annotated[ChartsOption, Parameter(help="With --policy or --machine: write a report here.")] = None,
    json_file: ResultOption = None,
) -> int:
    """Decide a recording again and check that nothing differs, or ask what another policy would have done.

    A recording is made with ``stepwell serve --record run.jsonl`` (``.gz`` compresses it). Every step's
    events are given to the policy again and the running hash of its decisions is compared with the
    recorded one. Example: ``stepwell replay run.jsonl``

    With ``--policy`` the recorded turns arrive again, at their times, on a machine whose costs are fitted to
    the recording, once under each policy named. Example: ``stepwell replay run.jsonl --policy lru,stepwell``

    ``--what-if prefill_us_per_token=x0.5`` changes one of those costs, and ``--html`` writes a report.

    With ``--machine`` they arrive on that part of the catalogue, too: how long its turns take by the
    roofline of 'stepwell plan', and what it costs by a cost book or the catalogue's rent. Turns
    arrive at their recorded times, so a faster machine waits more: 'took' is the time that is paid for. The
    machine is modelled, but not its network and not faults of its engine. Example:
    ``stepwell replay run.jsonl --machine h100``

    Exit code 0: the same decisions (or every policy played); 1: they differ (the first differing step is
    named); 2: not a recording, or no such policy.

    Parameters
    ----------
    file
        The recording.
    policy
        Policies to play it under, with commas, instead of checking the decisions.
    """
    hardware = hardware or ReplayMachine()
    if hardware.machine is not None:
        if policy is not None and "," in policy:
            raise BadInput("--machine plays one policy: give --policy one name")
        named = None if policy is None else _named(policy)[0]
        return _elsewhere(file, named, hardware, html, json_file)
    if replace(hardware, what_if=[]) != ReplayMachine():
        raise BadInput("--cost-book, --chips and the like say what --machine costs: give --machine")
    if policy is not None:
        return _compare(file, _named(policy), hardware.what_if, html, json_file)
    if html is not None or hardware.what_if:
        raise BadInput("--html and --what-if are of turns that are played: give --policy or --machine")
    config, steps = read_recording(file)
    console = Console(stderr=True)
    again = decided_again(config, track(steps, description="replaying", console=console, transient=True))
    _report(console, again, json_file)
    return 0 if again.differs_at is None else 1


def _report(console: Console, again: DecidedAgain, json_file: Path | None) -> None:
    log, line = again.log, again.differs_at
    same = line is None
    write_json(
        json_file,
        {"steps": log.plans, "events": again.events, "digest": log.digest, "same": same, "line": line},
    )
    events = ", ".join(f"{count} {name}" for name, count in sorted(again.events.items()))
    console.print(f"{log.plans} steps, {events or 'no events'}")
    if same:
        console.print(f"same decisions, digest {log.digest}")
    else:
        console.print(f"the decisions differ from line {line} on")


# --- what would it have cost elsewhere? --------------------------------------------------------


def _elsewhere(
    file: Path, policy: str | None, wanted: ReplayMachine, html: Path | None, json_file: Path | None
) -> int:
    config, steps = read_recording(file)
    console = console_for(json_file)
    reading = track(steps, description="reading the recording", console=Console(stderr=True), transient=True)
    found = recorded_workload(config, reading)
    if not found.turns:
        raise BadInput(f"{file} holds no turns: there is nothing to play")
    model, there, part = machine_of(wanted, found)
    name = f"{wanted.chips} x {wanted.machine}, {wanted.machine_model} {wanted.weights}"
    own, named = measured_model(found), policy or config.eviction
    rows = [
        PricedRun(
            place,
            _play(found, times, room, named, bounded=False),
            hourly(wanted, room, of),
        )
        for place, times, room, of in (
            ("as recorded", own, config, None),
            (name, model, there, part),
        )
    ]
    table = priced_table(f"{file.name}: {len(found.turns)} turns", rows)
    console.print(fitted(console, table), soft_wrap=True)
    answer = closing(*rows)
    if html is not None:
        inputs = {"recording": file.name, "policy": named, **asdict(wanted)}
        write_page(elsewhere_page(answer, rows, [table], inputs), html, console)
    costs = ", ".join(f"{key} {value:,}" for key, value in asdict(model).items() if key != "instant_disk")
    console.print(f"{name}: {costs}", style="dim", markup=False, soft_wrap=True)
    write_json(
        json_file, {"turns": len(found.turns), "machine": asdict(model), "runs": [r.as_json() for r in rows]}
    )
    console.print(answer, style="bold", markup=False, soft_wrap=True)
    return 0


# --- what would another policy have done? -----------------------------------------------------


def _named(policy: str) -> list[str]:
    names = [name.strip() for name in policy.split(",")]
    for name in names:
        if name not in EVICTION_POLICIES:
            raise BadInput(f"--policy {name}: there is {', '.join(sorted(EVICTION_POLICIES))}")
    return names


def _compare(
    file: Path, policies: list[str], what_if: list[str], html: Path | None, json_file: Path | None
) -> int:
    config, steps = read_recording(file)
    console = console_for(json_file)
    progress = Console(stderr=True)
    reading = track(steps, description="reading the recording", console=progress, transient=True)
    found = recorded_workload(config, reading)
    model = changed_machine(measured_model(found), what_if)
    if not found.turns:
        raise BadInput(f"{file} holds no turns: there is nothing to play")
    runs = [
        _play(found, model, config, name, bounded=is_available())
        for name in track(policies, description="playing", console=progress, transient=True)
    ]
    title = f"{file.name}: {len(found.turns)} turns"
    tables = (cost_table(title, runs), traffic_table(runs), latency_table(runs))
    for table in tables:
        console.print(fitted(console, table), soft_wrap=True)
    for line in _notes(found, model):
        console.print(line, style="dim", markup=False, soft_wrap=True)
    figures = [run.as_json() for run in runs]
    write_json(json_file, {"turns": len(found.turns), "machine": asdict(model), "runs": figures})
    answer = _closing(runs)
    if html is not None:
        inputs = {"recording": file.name, "what if": ", ".join(what_if) or "nothing", **asdict(model)}
        write_page(policies_page(answer, runs, tables, inputs), html, console)
    console.print(answer, style="bold", markup=False, soft_wrap=True)
    return 0


def _closing(runs: Sequence[RunReport]) -> str:
    """The policy whose misses cost least, or that several cost the same."""
    least = min(run.miss_s for run in runs)
    best = [run.policy for run in runs if run.miss_s == least]
    if len(best) > 1:
        return f"replay: a tie of {', '.join(best)}: their misses cost {least:,.2f} s each."
    return f"replay: least cost of misses under {best[0]}, {least:,.2f} s."


def _play(
    found: Recorded, model: MachineModel, config: PolicyConfig, policy: str, *, bounded: bool
) -> RunReport:
    wanted = replace(config, eviction=policy)
    return play(found, found.future(), model, wanted, "", bounded=bounded)


def _notes(found: Recorded, model: MachineModel) -> list[str]:
    costs = ", ".join(f"{name} {value:,}" for name, value in asdict(model).items() if name != "instant_disk")
    notes = [
        f"costs measured from {len(found.steps):,} steps and {len(found.moves):,} transfers: {costs}",
        LEGEND,
    ]
    if found.unfinished:
        notes.append(
            f"{found.unfinished} turns do not end in the recording; they generate what is known of them"
        )
    return notes
