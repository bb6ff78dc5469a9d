"""``stepwell bench decisions``: what a step of the policy costs, and how that grows.

The policy alone, without engine, tiers or server: agents and blocks as a busy server has them, device
and host memory full, turns that arrive, run and end. Each size runs in a process of its own, so that
memory and the collector's pauses are its own.
"""

from __future__ import annotations

import cProfile
import gc
import io
import multiprocessing
import pstats
import re
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from statistics import median
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.quantiles import percentile
from stepwell.basics.this_machine import available_memory_bytes
from stepwell.bench.clocks import resident_bytes
from stepwell.bench.harness import BenchRun, bench, words_of
from stepwell.bench.policy.steady_load import PolicyLoad, PolicySize
from stepwell.console.options import Flag
from stepwell.console.output import sheet
from stepwell.console.report import Verdict
from stepwell.errors import BadInput
from stepwell.loop.collector import Collector
from stepwell.policy import scheduler
from stepwell.policy.eviction import EVICTION_POLICIES
from stepwell.policy.types import Moved, RequestArrived

SIZES = "50x12500, 200x50000, 1000x250000, 5000x1000000"
QUICK_SIZES = "20x1000, 50x4000"
LIMITS_US = {PolicySize(200, 50_000): (100, 1_000), PolicySize(5_000, 1_000_000): (300, 2_000)}
"""Of the median step, and of the hundredth that takes longest."""
WARM_UP_S, WARM_UP_TURNS = 60.0, 4
"""At most so long, and at most so many turns of each agent: some policies leave host memory free."""
QUICK_STEPS = 100
MOST_BYTES_PER_BLOCK = 4_000
PROFILE_LINES = 20
POLICIES = tuple(sorted(EVICTION_POLICIES.keys() - {"oracle"}))
COLUMNS = {
    "policy": "{policy}",
    "agents": "{agents:,}",
    "blocks": "{blocks:,}",
    "quiet p50": "{quiet_step_us_p50:,.0f}",
    "p50": "{step_us_p50:,.0f}",
    "p90": "{step_us_p90:,.0f}",
    "p99": "{step_us_p99:,.0f}",
    "max": "{step_us_max:,.0f}",
    "collector": "{collector_us_max:,.0f}",
    "moved": "{moved_blocks_per_step:.1f}",
    "bytes/block": "{python_bytes_per_block:,.0f}",
}
_SIZE = re.compile(r"([\d_]+)\s*x\s*([\d_]+)")


@dataclass(frozen=True, slots=True)
class DecisionCase:
    """One policy at one size."""

    policy: str
    size: PolicySize
    steps: int
    profile: bool = False


@dataclass(slots=True)
class Cost:
    """What one case cost. Microseconds of ``Scheduler.step``, the collector's pauses included."""

    case: DecisionCase
    step_us: list[float] = field(default_factory=list)
    moved_blocks: list[int] = field(default_factory=list)
    """Between KV tiers, per step: what a step is asked to do."""
    collector_us: list[float] = field(default_factory=list)
    """Of each step: Python's garbage collector."""
    quiet: list[bool] = field(default_factory=list)
    """Of each step: no turn arrived, no transfer ended and nothing was moved; turns only went on."""
    blocks: int = 0
    bytes_per_block: float = 0.0
    fill_s: float = 0.0
    warm_up_s: float = 0.0
    full: bool = False
    """Whether device and host were full when the measurement began."""
    turns: int = 0
    profile: str = ""

    @property
    def quiet_us(self) -> float | None:
        """The usual step of those in which turns only went on."""
        times = [us for us, quiet in zip(self.step_us, self.quiet, strict=True) if quiet]
        return median(times) if times else None

    def as_json(self) -> dict[str, Any]:
        return {
            "policy": self.case.policy,
            **asdict(self.case.size),
            "steps": len(self.step_us),
            "turns_ended": self.turns,
            "step_us_p50": median(self.step_us),
            "step_us_p90": percentile(self.step_us, 90),
            "step_us_p99": percentile(self.step_us, 99),
            "step_us_max": max(self.step_us),
            "step_us_mean": sum(self.step_us) / len(self.step_us),
            "quiet_steps": sum(self.quiet),
            "quiet_step_us_p50": self.quiet_us,
            "moved_blocks_per_step": sum(self.moved_blocks) / len(self.moved_blocks),
            "collector_us_max": max(self.collector_us),
            "python_bytes_per_block": self.bytes_per_block,
            "blocks_at_start": self.blocks,
            "fill_s": self.fill_s,
            "warm_up_s": self.warm_up_s,
            "device_and_host_full": self.full,
        }


@bench("decisions")
def main(
    run: BenchRun,
    *,
    policies: str = "stepwell",
    sizes: str | None = None,
    steps: Annotated[int, Parameter(validator=Number(gte=10))] = 1_000,
    profile: Flag = False,
) -> None:
    """Measure how long the policy takes to decide a step, and how that grows with agents and blocks.

    No engine runs and no bytes move: this is the time of Scheduler.step alone under steady pressure. With
    PYTHONPATH=build/policy-compiled (see make policy-compiled) the compiled policy is measured.

    Example: ``stepwell bench decisions --policies stepwell,lru --sizes 200x50000``

    Parameters
    ----------
    policies
        One or more, comma separated. All but the oracle, which needs a simulation.
    sizes
        AGENTSxBLOCKS, comma separated (default: 50x12500, 200x50000, 1000x250000, 5000x1000000).
    steps
        Steps that are timed, after device and host memory are full.
    profile
        Show which functions take the time (cProfile; the figures are then several times larger).
    """
    names = words_of("--policies", policies, POLICIES)
    wanted = parse_sizes(sizes or (QUICK_SIZES if run.quick else SIZES))
    steps = min(steps, QUICK_STEPS) if run.quick else steps
    run.settings = {"policies": names, "sizes": [str(size) for size in wanted], "steps": steps}
    run.settings["compiled"] = is_compiled()
    found = []
    for case in [DecisionCase(name, size, steps, profile) for size in wanted for name in names]:
        run.progress.phase(f"{case.policy}: {case.size}")
        found.append(_in_its_own_process(case))
    run.results = {"cases": [cost.as_json() for cost in found]}
    run.samples = [_samples(cost) for cost in found]
    run.notes = list(_notes(found))
    run.verdicts = [] if profile else verdicts(found)
    title = "Time of one decision in microseconds (collector: longest pause), blocks moved per step, memory"
    title += "; the policy compiled by mypyc" if is_compiled() else ""
    run.show(sheet(title, COLUMNS, run.results["cases"]))
    run.show(*(f"{one.case.policy}, {one.case.size}:\n{one.profile}" for one in found if one.profile))


def is_compiled() -> bool:
    """Whether the policy that is measured was compiled by mypyc (``make policy-compiled``)."""
    return not str(scheduler.__file__).endswith(".py")


def parse_sizes(text: str) -> list[PolicySize]:
    """``200x50000, ...``. ``BadInput`` when a size cannot be measured here."""
    sizes = []
    for word in (word.strip() for word in text.split(",") if word.strip()):
        match = _SIZE.fullmatch(word)
        if match is None:
            raise BadInput(f"--sizes {word!r}: give AGENTSxBLOCKS, such as 200x50000")
        size = PolicySize(int(match[1]), int(match[2]))
        if size.agents < 8 or size.blocks < 20 * size.agents:
            raise BadInput(f"--sizes {word}: at least 8 agents, with 20 blocks each")
        if size.blocks * MOST_BYTES_PER_BLOCK > available_memory_bytes():
            raise BadInput(
                f"--sizes {word}: {size.blocks:,} blocks do not fit into this machine's free memory"
            )
        sizes.append(size)
    if not sizes:
        raise BadInput("--sizes needs at least one size, such as 200x50000")
    return sizes


# --- measuring --------------------------------------------------------------------------------


def _in_its_own_process(case: DecisionCase) -> Cost:
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(max_workers=1, mp_context=context) as pool:
        return pool.submit(measure, case).result()


def measure(case: DecisionCase) -> Cost:
    """Fill, warm up until nothing is free, then time every step, the collector kept out of them as a server
    keeps it."""
    cost = Cost(case)
    before_bytes, began = resident_bytes(), time.perf_counter()
    load = PolicyLoad(case.size, case.policy)
    cost.blocks = load.fill()
    cost.fill_s = time.perf_counter() - began
    cost.bytes_per_block = max(0, resident_bytes() - before_bytes) / cost.blocks
    cost.warm_up_s = _warm_up(load)
    cost.full = load.full
    profiler = cProfile.Profile() if case.profile else None
    keeper = Collector()
    keeper.take_over()
    with _collector_watched() as collector:
        ended = load.turns_ended
        for _ in range(case.steps):
            keeper.between_steps()
            _timed_step(load, cost, collector, profiler)
    keeper.give_back()
    cost.turns = load.turns_ended - ended
    if profiler is not None:
        cost.profile = _top(profiler)
    return cost


def _warm_up(load: PolicyLoad) -> float:
    began, most_turns = time.perf_counter(), WARM_UP_TURNS * load.size.agents
    while not load.full and load.turns_ended < most_turns and time.perf_counter() - began < WARM_UP_S:
        load.carry_out(load.scheduler.step(load.now_us, load.next_events()))
    return time.perf_counter() - began


def _timed_step(
    load: PolicyLoad, cost: Cost, collector: list[int], profiler: cProfile.Profile | None
) -> None:
    events = load.next_events()
    collector[0] = 0
    moved = load.blocks_moved
    if profiler is not None:
        profiler.enable()
    began = time.perf_counter_ns()
    plan = load.scheduler.step(load.now_us, events)
    spent_ns = time.perf_counter_ns() - began
    if profiler is not None:
        profiler.disable()
    cost.step_us.append(spent_ns / 1_000)
    cost.collector_us.append(collector[0] / 1_000)
    load.carry_out(plan)
    cost.moved_blocks.append(load.blocks_moved - moved)
    happened = any(isinstance(event, RequestArrived | Moved) for event in events)
    cost.quiet.append(not happened and load.blocks_moved == moved)


@contextmanager
def _collector_watched() -> Iterator[list[int]]:
    """A list whose only item grows by the nanoseconds that the garbage collector takes."""
    spent, began = [0], [0]

    def watch(phase: str, info: dict[str, int]) -> None:
        now = time.perf_counter_ns()
        if phase == "start":
            began[0] = now
        else:
            spent[0] += now - began[0]

    gc.callbacks.append(watch)
    try:
        yield spent
    finally:
        gc.callbacks.remove(watch)


def _top(profiler: cProfile.Profile) -> str:
    out = io.StringIO()
    pstats.Stats(profiler, stream=out).strip_dirs().sort_stats("tottime").print_stats(PROFILE_LINES)
    lines = out.getvalue().splitlines()
    return "\n".join(line.rstrip() for line in lines if line.strip())


# --- reporting --------------------------------------------------------------------------------


def verdicts(found: Sequence[Cost]) -> list[Verdict]:
    """The targets hold for Stepwell's own policy, for the usual step and for one in a hundred."""
    return [
        Verdict(f"{cost.case.size}: decision p{percent}", percentile(cost.step_us, percent), limit, " us")
        for cost in found
        if cost.case.policy == "stepwell"
        for percent, limit in zip((50, 99), LIMITS_US.get(cost.case.size, ()), strict=False)
    ]


def _notes(found: Sequence[Cost]) -> Iterator[str]:
    for cost in found:
        if not cost.full:
            yield (
                f"{cost.case.policy}, {cost.case.size}: device and host were not both full when the "
                "measurement began, so the pressure was less than meant"
            )


def _samples(cost: Cost) -> dict[str, Any]:
    return {
        "policy": cost.case.policy,
        **asdict(cost.case.size),
        "step_us": [round(us, 1) for us in cost.step_us],
        "moved_blocks": cost.moved_blocks,
        "collector_us": [round(us, 1) for us in cost.collector_us],
    }
