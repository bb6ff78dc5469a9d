"""``stepwell bench policies``: policies against a lower bound, over public traces, on a modelled machine."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict, dataclass, replace
from fractions import Fraction
from multiprocessing import get_context
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.bench.harness import BenchRun, bench, words_of
from stepwell.bench.policy.kept_runs import KeptRuns
from stepwell.bench.policy.over_seeds import ORACLE, OWN, rooms_table, rows_of, seeds_table, verdicts
from stepwell.console.options import NotNegative, OptionalPositive, Positive
from stepwell.console.progress import Ticker
from stepwell.errors import BadInput
from stepwell.policy.eviction import EVICTION_POLICIES
from stepwell.simulate.bound import is_available
from stepwell.simulate.calibrate import BUSY, calibrated, hurried, working_set_blocks
from stepwell.simulate.chart import chart
from stepwell.simulate.crews import CREWS, crews
from stepwell.simulate.generated import generated
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.inference_perf import INFERENCE_PERF, inference_perf
from stepwell.simulate.lmcache import LMCACHE, lmcache
from stepwell.simulate.machine import SimulationError
from stepwell.simulate.player import RECORDED, Declared
from stepwell.simulate.report import LEGEND, RunReport
from stepwell.simulate.run import Room, config_for, simulate
from stepwell.simulate.tables import cost_table, latency_table, traffic_table
from stepwell.simulate.traces import AGENTIC, MOONCAKE, agentic, mooncake
from stepwell.simulate.workload import Workload
from stepwell.simulate.workloads import TRACES_VARIABLE, traces_folder

GENERATED = "generated"
TRACES = ("agentic", *LMCACHE, INFERENCE_PERF, *MOONCAKE, CREWS, GENERATED)
NEED_NO_FILES = (CREWS, GENERATED)
POLICIES = tuple(EVICTION_POLICIES)
USES_HINTS = (OWN, "steps")
"""Policies that look at what is declared; the others are run once, with nothing declared."""


@dataclass(frozen=True, slots=True)
class ComparedSetting:
    """What one run needs; small, so that it can be sent to another process."""

    traces: Path
    trace: str
    sessions: int
    requests: int | None
    seed: int
    unit_tokens: int
    pauses: str
    busy: float
    bounded: bool
    room: str
    host: int
    disk: int
    policy: str
    declared: str

    @property
    def title(self) -> str:
        return f"{self.trace}, device {self.room}"

    @property
    def label(self) -> str:
        declared = f", declared {self.declared}" if self.declared != "silent" else ""
        return f"{self.title}, {self.policy}{declared}, seed {self.seed}"


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class ComparedGrid:
    """What is compared: every trace in every room, under every policy, with several seeds."""

    traces: Path | None = None
    """The directory with the trace files (default: $STEPWELL_TRACES)."""
    trace: str = "agentic,mini-swe,magentic-one,inference-perf,conversation,synthetic"
    """Which traces, with commas: agentic, mini-swe, magentic-one, inference-perf, conversation, synthetic;
    or crews (our own, recorded) and generated, which need no files."""
    room: str = "1/16,1/8,1/4,1/2"
    """Device KV as a fraction of the working set: the most blocks that are live (used before, to be used
    again) at one time."""
    host: Positive = 2
    """Host memory, as a multiple of the device."""
    disk: Positive = 10
    """Disk, as a multiple of the device."""
    policy: str | None = None
    """Names, with commas (default: all there are)."""
    declared: str = "silent,exact,0.3,1.0"
    """What agents declare, with commas: silent, exact, the sigma of a lognormal error, or recorded: what
    was really told (crews alone). Policies that look at no declarations run once."""
    sessions: Positive = 110
    """How many sessions of agents, drawn by seed."""
    requests: OptionalPositive = None
    """How many of Mooncake's requests (default: all of them)."""
    seed: NotNegative = 1
    """Draws sessions, arrivals, service tiers and errors of declarations."""
    seeds: Positive = 5
    """How many seeds, from --seed on; means and 95 % intervals are reported. One with --quick."""
    unit_tokens: Annotated[int, Parameter(validator=Number(gte=1, lte=64))] = 2
    """Tokens that a block of 64 in the agents' trace stands for. 64: contexts at the trace's own length,
    up to 200,000 tokens; then give fewer sessions, as a run takes thirty times as long."""
    pauses: str = "1"
    """How long all pauses are, as a fraction of the trace's."""
    busy: Annotated[float, Parameter(validator=Number(gte=0.01, lte=100))] = BUSY
    """Share of the time in which sessions begin that the machine would compute, if it lost nothing. Above 1
    turns queue: with --pauses 1/20 --busy 2 memory and compute are both short."""

    def quick(self) -> ComparedGrid:
        """A small part of it, for a first look."""
        room, sessions = self.room.split(",")[0], min(self.sessions, 30)
        return replace(self, room=room, sessions=sessions, requests=2_000, seeds=1)

    def common(self, *, bounded: bool) -> dict[str, Any]:
        """What all its runs have alike. Raises ``BadInput``: a wrong trace before its missing folder."""
        names = words_of("--trace", self.trace, TRACES)
        directory = Path() if {*names} <= {*NEED_NO_FILES} else traces_directory(self.traces)
        _fraction("--pauses", self.pauses)
        alike = ("sessions", "requests", "host", "disk", "pauses", "busy")
        made: dict[str, Any] = {"traces": directory, "unit_tokens": self.unit_tokens, "bounded": bounded}
        return made | {name: getattr(self, name) for name in alike}

    def settings(self, common: Mapping[str, Any]) -> Iterator[ComparedSetting]:
        """One for every run. Raises ``BadInput``."""
        for seed in range(self.seed, self.seed + self.seeds):
            yield from _settings({**common, "seed": seed}, self.trace, self.room, self.policy, self.declared)


WHOLE_GRID = ComparedGrid()


@bench("policies")
def main(
    run: BenchRun,
    *,
    grid: ComparedGrid = WHOLE_GRID,
    jobs: Positive = 1,
    resume: Path | None = None,
    out: Path | None = None,
) -> int:
    """Compare eviction policies over real traces, on a modelled machine.

    The real policy runs; the machine under it is a cost model with figures measured on llama.cpp. The cost
    of misses is set against a lower bound that no policy beats which opens the same turns at the same times
    (a linear program; extra 'bound').

    Example: ``stepwell bench policies --trace agentic --room 1/8 --policy lru,ttl,stepwell --seeds 1``

    Exit code 1: a policy and the machine did not agree (a plan that cannot be carried out); the other runs
    are reported.

    Parameters
    ----------
    jobs
        Runs at the same time, each in a process of its own. The results do not depend on it.
    resume
        A directory: each run that ends is kept there, and one that is there already, of the same setting
        and the same code, is not run again.
    out
        A directory for charts, one SVG per trace and room.
    """
    if out is not None:
        out.mkdir(parents=True, exist_ok=True)
    grid, bounded = grid.quick() if run.quick else grid, is_available()
    common = grid.common(bounded=bounded)
    settings = list(grid.settings(common))
    told = {"seed": grid.seed, "seeds": grid.seeds, "traces": common["traces"].name}
    run.settings = common | told | {"machine_model": asdict(MachineModel())}
    if not bounded:
        run.notes.append("no lower bound: its solver is missing (pip install 'stepwell[bound]')")
    return _tell(run, settings, _run_all(settings, jobs, KeptRuns(resume), run.progress), out)


def _tell(
    run: BenchRun,
    settings: Sequence[ComparedSetting],
    found: Mapping[ComparedSetting, RunReport | str],
    out: Path | None,
) -> int:
    """Tables, charts and verdicts, a trace and a room at a time."""
    for title in dict.fromkeys(setting.title for setting in settings):
        here = [setting for setting in settings if setting.title == title]
        first = [setting for setting in here if setting.seed == here[0].seed]
        runs = [one for setting in first if isinstance(one := found[setting], RunReport)]
        _show(run, here[0], runs)
        _sum_up(run, here, found)
        if out is not None and runs:
            _draw(out, title, runs)
    for trace in dict.fromkeys(setting.trace for setting in settings):
        _beside(run, [setting for setting in settings if setting.trace == trace], found)
    failed = [f"{setting.label} FAILED: {why}" for setting, why in found.items() if isinstance(why, str)]
    run.notes += [LEGEND, *failed]
    return 1 if failed else 0


# --- what to run ------------------------------------------------------------------------------


def traces_directory(given: Path | None) -> Path:
    """Where the traces are. ``BadInput`` when it is not said, or when nothing is there."""
    named = traces_folder(given)
    if named is None:
        raise BadInput(
            f"where are the traces? Give --traces DIR or set {TRACES_VARIABLE} to the directory of {AGENTIC}"
            f" (--trace {','.join(NEED_NO_FILES)} needs no file)"
        )
    if not named.is_dir():
        raise BadInput(f"the directory of traces {named} does not exist: give --traces DIR")
    return named


def _settings(
    common: dict[str, Any], trace: str, room: str, policy: str | None, declared: str
) -> Iterator[ComparedSetting]:
    names = words_of("--policy", policy, POLICIES) if policy is not None else POLICIES
    modes = [str(Declared.parse(mode)) for mode in declared.split(",")]
    for one_trace in words_of("--trace", trace, TRACES):
        if RECORDED in modes and one_trace != CREWS:
            raise BadInput(
                f"--declared {RECORDED}: {one_trace} has no recorded hints; --trace {CREWS} has them"
            )
        for one_room in room.split(","):
            _fraction("--room", one_room)
            for name in names:
                aware = name in USES_HINTS and one_trace not in MOONCAKE
                for mode in modes if aware else ["exact" if name == ORACLE else "silent"]:
                    yield ComparedSetting(
                        **common, trace=one_trace, room=one_room, policy=name, declared=mode
                    )


def _fraction(flag: str, given: str) -> Fraction:
    try:
        value = Fraction(given)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if not 0 < value <= 1:
        raise BadInput(f"{flag} {given}: give a fraction above 0 and at most 1, such as 1/8")
    return value


def workload_of(setting: ComparedSetting, model: MachineModel) -> Workload:
    """The workload at its pace; the same for every policy and room."""
    if setting.trace == CREWS:
        workload = crews(sessions=setting.sessions, seed=setting.seed)
    elif setting.trace == GENERATED:
        workload = generated(sessions=setting.sessions, seed=setting.seed)
    elif setting.trace in LMCACHE:
        workload = lmcache(
            setting.traces,
            setting.trace,
            sessions=setting.sessions,
            seed=setting.seed,
            unit_tokens=setting.unit_tokens,
        )
    elif setting.trace == INFERENCE_PERF:
        workload = inference_perf(setting.traces, sessions=setting.sessions, seed=setting.seed)
    elif setting.trace in MOONCAKE:
        workload = mooncake(setting.traces, setting.trace, requests=setting.requests, seed=setting.seed)
    else:
        workload = agentic(
            setting.traces, sessions=setting.sessions, seed=setting.seed, unit_tokens=setting.unit_tokens
        )
    return calibrated(hurried(workload, Fraction(setting.pauses)), model, setting.busy)[0]


def room_of(setting: ComparedSetting, workload: Workload) -> Room:
    """Sizes in blocks. The device is never so small that it could not hold a few short turns; where little
    is ever used again, not so small that it could not hold the longest."""
    longest = -(-workload.context_tokens // workload.block_tokens)
    least = longest if setting.trace in (INFERENCE_PERF, CREWS) else 8
    device = max(least, int(working_set_blocks(workload) * Fraction(setting.room)))
    return Room(device, setting.host * device, setting.disk * device)


# --- running ----------------------------------------------------------------------------------


def run_one(setting: ComparedSetting) -> RunReport:
    """One run, from nothing: any process gives the same."""
    model = MachineModel()
    workload = workload_of(setting, model)
    config = config_for(workload, model, room_of(setting, workload), setting.policy)
    declared = Declared.parse(setting.declared)
    return simulate(workload, model, config, declared, bounded=setting.bounded)


def _attempt(setting: ComparedSetting) -> RunReport | str:
    """The run, or why it did not come to its end: one policy's mistake must not cost the others."""
    try:
        return run_one(setting)
    except (SimulationError, AssertionError) as error:
        return str(error) or type(error).__name__


def _run_all(
    settings: Sequence[ComparedSetting], jobs: int, kept: KeptRuns, progress: Ticker
) -> dict[ComparedSetting, RunReport | str]:
    """All runs, in the order of ``settings`` however they end."""
    found: dict[ComparedSetting, RunReport | str] = dict.fromkeys(settings, "was not run")
    found.update({setting: done for setting in settings if (done := kept.get(setting)) is not None})
    missing = [setting for setting in settings if isinstance(found[setting], str)]
    progress.phase(f"{len(settings)} runs", len(settings))
    for number, (setting, run) in enumerate(_each(missing, jobs), start=len(settings) - len(missing) + 1):
        found[setting] = run
        if isinstance(run, RunReport):
            kept.put(setting, run)
        what = run if isinstance(run, str) else f"{run.steps:,} steps in {run.cpu_s:.1f} s"
        progress.phase(f"{number} of {len(settings)}: {setting.label}, {what}", len(settings))
        progress.advance(number)
    return found


def _each(
    settings: Sequence[ComparedSetting], jobs: int
) -> Iterator[tuple[ComparedSetting, RunReport | str]]:
    """Runs as they end."""
    if jobs == 1:
        for setting in settings:
            yield setting, _attempt(setting)
        return
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        futures = {pool.submit(_attempt, setting): setting for setting in settings}
        for future in as_completed(futures):
            yield futures[future], future.result()


# --- telling ----------------------------------------------------------------------------------


def _show(run: BenchRun, setting: ComparedSetting, runs: Sequence[RunReport]) -> None:
    model = MachineModel()
    workload = workload_of(setting, model)
    room = room_of(setting, workload)
    notes = [f"{setting.trace}: {note}" for note in workload.notes]
    run.notes += [note for note in notes if note not in run.notes]
    sizes = (
        f"device {room.device:,}, host {room.host:,}, disk {room.disk:,} blocks; "
        f"working set {working_set_blocks(workload):,}"
    )
    run.show(cost_table(f"{setting.title} ({sizes})", runs), traffic_table(runs), latency_table(runs))


def _sum_up(
    report: BenchRun,
    settings: Sequence[ComparedSetting],
    found: Mapping[ComparedSetting, RunReport | str],
) -> None:
    """All seeds of a trace and a room."""
    runs = [(setting, run) for setting in settings if isinstance(run := found[setting], RunReport)]
    rows = rows_of([run for _, run in runs])
    first, seeds = settings[0], len({setting.seed for setting in settings})
    if seeds > 1:
        report.show(seeds_table(f"{first.title}: mean of {seeds} seeds (95 % interval)", rows))
    report.results[first.title] = [{"seed": setting.seed, **run.as_json()} for setting, run in runs]
    report.verdicts += verdicts(first.trace, first.room, rows)


def _beside(
    run: BenchRun, settings: Sequence[ComparedSetting], found: Mapping[ComparedSetting, RunReport | str]
) -> None:
    """All rooms of a trace in one table."""
    rooms = {
        room: rows_of([one for s in settings if s.room == room and isinstance(one := found[s], RunReport)])
        for room in dict.fromkeys(setting.room for setting in settings)
    }
    if len(rooms) > 1:
        seeds = len({setting.seed for setting in settings})
        counted = f"mean of {seeds} seeds" if seeds > 1 else f"seed {settings[0].seed}"
        title = f"{settings[0].trace}, {counted}: cost of misses in seconds (multiple of the lower bound)"
        run.show(rooms_table(title, rooms))


def _draw(out: Path, title: str, runs: Sequence[RunReport]) -> None:
    name = title.replace(", device ", "-").replace("/", "-")
    (out / f"{name}.svg").write_text(chart(title, runs), encoding="utf-8")
