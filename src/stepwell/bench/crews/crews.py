"""``stepwell bench crews``: what the runtime of crews takes for a turn, and what a kill -9 of it costs."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.quantiles import percentile
from stepwell.bench.crews.busy import sampled
from stepwell.bench.crews.crew_kills import Killed, kill_runs
from stepwell.bench.crews.crew_server import null_arm
from stepwell.bench.crews.crew_shapes import SHAPES, CrewSize, Ran, run_shape
from stepwell.bench.harness import BenchRun, SeedOption, bench, scratch
from stepwell.bench.servers import running
from stepwell.console.options import OptionalPositive, Positive
from stepwell.console.output import sheet, table
from stepwell.console.progress import Ticker
from stepwell.console.report import Report, Verdict

LIMIT_MS = 2.0
SHARED = 1.25
"""Busy time by CPU time, from which on another program had the processor."""
TURNS = {
    "shape": "{shape}",
    "turns": "{turns:,}",
    "wall s": "{wall_s:.1f}",
    "us a turn": "{per_turn_us:,.0f}",
    "CPU us": "{cpu_per_turn_us:,.0f}",
    "p50": "{between_p50_us:,.0f}",
    "p99": "{between_p99_us:,.0f}",
    "commits": "{commits_per_turn:.1f}",
    "hints": "{hints_per_turn:.1f}",
}
KILLS = {
    "killed after s": "{after_s:.2f}",
    "ended before": "{survived}",
    "same": "{same}",
    "asked again": "{asked_again}",
    "calls unknown": "{notes_lost}",
    "calls twice": "{notes_twice}",
}


@bench("crews")
def main(
    run: BenchRun,
    *,
    agents: Annotated[int | None, Parameter(validator=Number(gte=8))] = None,
    concurrent: Positive = 50,
    rounds: OptionalPositive = None,
    kills: Annotated[int | None, Parameter(validator=Number(gte=0))] = None,
    seed: SeedOption = 1,
) -> None:
    """Measure what the runtime of crews takes for a turn with hundreds of agents, then kill it.

    The runtime runs in this process, Stepwell's server with the null engine in another one. Overhead is all
    wall time of the event loop outside of its wait for sockets and timers: spawning, requests, hints,
    commits, the beginning and the end of the session. Shapes called "inside" have a scripted server in the
    process, whose own time is taken out, so that what is left is the runtime without sockets. Then a
    planned crew's process is killed with SIGKILL at random moments and resumed.

    Example: ``stepwell bench crews --json crews.json``

    Parameters
    ----------
    agents
        Sub-agents of each crew (default: 500; quick: 60).
    concurrent
        Sub-agents at work at once.
    rounds
        Sessions of each shape; the one in the middle counts (default: 3; quick: 1).
    kills
        Sessions that are killed once and resumed (default: 10; quick: 2).
    """
    quick = run.quick
    size = CrewSize(agents or (60 if quick else 500), concurrent)
    rounds, kills = rounds or (1 if quick else 3), kills if kills is not None else (2 if quick else 10)
    run.settings = {**asdict(size), "rounds": rounds, "kills": kills, "seed": seed}
    killed: list[Killed] = []
    with scratch("crews") as directory:
        ran, places = measure(size, rounds, directory, run.progress)
        if kills:
            run.progress.phase(f"{kills} sessions, each killed and resumed", kills)
            killed = kill_runs(kills, seed, directory, run.progress.advance)
    fill(run, size, ran, places, killed)
    title = "The runtime's own time (p50, p99: between the ends of two turns; us)"
    run.show(sheet(title, TURNS, run.results["shapes"]))
    rows = [[name, f"{share:.0%}"] for name, share in run.results["places"].items()]
    run.show(table("Where it goes (waves; samples of CPU time)", ("in", "share"), rows))
    if killed:
        run.show(sheet("kill -9 of the runtime, and the session resumed", KILLS, run.results["kills"]))


def measure(
    size: CrewSize, rounds: int, directory: Path, progress: Ticker
) -> tuple[list[list[Ran]], Counter[str]]:
    """Every shape ``rounds`` times, in turns; then one session more to see where its time goes."""
    found: list[list[Ran]] = [[] for _ in SHAPES]
    progress.phase("a server on the null engine")
    arm = null_arm(directory)
    with running(arm):
        run_shape(SHAPES[0], CrewSize(8, 8), arm.base_url, directory / "warm-up.db")
        for number in range(rounds):
            for shape, runs in zip(SHAPES, found, strict=True):
                progress.phase(f"{shape.name}: {size.agents} agents, round {number + 1} of {rounds}")
                path = directory / f"{number}-{len(runs)}-{SHAPES.index(shape)}.db"
                runs.append(run_shape(shape, size, arm.base_url, path))
        progress.phase("where the time goes")
        with sampled() as places:
            run_shape(SHAPES[0], size, arm.base_url, directory / "sampled.db")
    return found, places


def fill(
    report: Report,
    size: CrewSize,
    ran: Sequence[Sequence[Ran]],
    places: Counter[str],
    killed: Sequence[Killed],
) -> None:
    """Results, samples, notes and verdicts."""
    middles = [middle(runs) for runs in ran]
    total = max(1, places.total())
    report.results = {
        "shapes": [figures(one) for one in middles],
        "places": {name: count / total for name, count in places.most_common()},
        "kills": [asdict(one) for one in killed],
    }
    report.samples = [
        {"shape": one.shape, "per_turn_us": one.per_turn_us, "between_us": one.between_us}
        for runs in ran
        for one in runs
    ]
    shared = [one.shape for one in middles if one.busy_us > SHARED * one.cpu_us]
    if shared:
        report.notes.append(
            f"{', '.join(shared)}: busy for more than {SHARED} times their CPU time: other programs had the "
            "processor meanwhile, and a quiet machine gives less"
        )
    what = f"{size.agents} agents, runtime per turn"
    report.verdicts = [
        Verdict(f"{one.shape}: {what}", one.per_turn_us / 1_000, LIMIT_MS, " ms") for one in middles
    ]
    report.verdicts += kill_verdicts(killed)


def kill_verdicts(killed: Sequence[Killed]) -> list[Verdict]:
    """What must not happen to a session that was killed in the middle."""
    there = [one for one in killed if not one.survived]
    differ = sum(1 for one in there if not one.same) if there else None
    twice = sum(one.notes_twice for one in there) if there else None
    return [
        Verdict("kill -9 and resume: sessions with another answer, agents or turns", differ, 0),
        Verdict("kill -9 and resume: calls made twice of a tool that must not be", twice, 0),
    ]


def middle(runs: Sequence[Ran]) -> Ran:
    """The run in the middle by its overhead."""
    return sorted(runs, key=lambda one: one.per_turn_us)[(len(runs) - 1) // 2]


def figures(one: Ran) -> dict[str, Any]:
    """One run as numbers. ``between``: busy time from the end of one turn to that of the next."""
    turns = max(1, len(one.ends_us))
    return {
        "shape": one.shape,
        "turns": len(one.ends_us),
        "wall_s": one.wall_us / 1e6,
        "per_turn_us": one.per_turn_us,
        "cpu_per_turn_us": one.cpu_us / turns,
        "between_p50_us": median(one.between_us),
        "between_p99_us": percentile(one.between_us, 99),
        "commits_per_turn": one.commits / turns,
        "hints_per_turn": one.hints / turns,
    }
