"""``stepwell study speed``: how many requests the simulation takes in a CPU second, and how that grows."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from stepwell.commands.plan.output import kept, progress, write_page
from stepwell.console.fitting import fitted
from stepwell.console.options import ChartsOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.console.stopping import told_to_stop
from stepwell.errors import BadInput
from stepwell.fleet.routers import ROUTERS
from stepwell.launch.modelled_fleet import Hardware, build
from stepwell.report import charts
from stepwell.report.page import Page
from stepwell.simulate.cluster import Cluster
from stepwell.simulate.growth import FEWEST_WINDOWS, GrowthPower, RunWindow, WindowRecorder, power, warm
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.unpaused import unpaused
from stepwell.simulate.workloads import Wanted, traces_folder, workload_of

HEAD = ("requests", "CPU s", "requests/CPU s", "steps", "simulated s")
WINDOWS_TITLE = "Windows of the longest run, for each request"
WINDOW_HEAD = ("up to", "CPU ms", "steps", "us/step", "tokens", "under way", "host full", "simulated s")
_WINDOWS = 20
_INTERRUPTED = 130


@dataclass(slots=True)
class SpeedRun:
    """One length of the workload; figures so far, if it was cut off."""

    windows: list[RunWindow] = field(default_factory=list)
    requests: int = 0
    cpu_s: float = 0.0
    steps: int = 0
    simulated_s: float = 0.0
    complete: bool = False


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class SpeedLoad:
    """What is simulated, and how often it is doubled."""

    count: int = 400
    """Requests (or sessions) of the shortest run."""
    doublings: int = 2
    """How often that is doubled."""
    window: int | None = None
    """Requests of a window; a twentieth of the longest run."""
    replicas: int = 4
    """Replicas of the fleet."""
    policy: str = "stepwell"
    """The eviction policy."""
    dram_gb: float = 500.0
    """Host memory for KV of one replica."""
    what_if: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    """Figures of the part to set, as KEY=VALUE; of memory as dram.usd_gb, ssd.read_gb_s."""
    traces: Path | None = None
    """The directory of the traces."""

    def check(self) -> None:
        """Raises ``BadInput``."""
        if not 1 <= self.count <= 10_000_000 or not 0 <= self.doublings <= 12:
            raise BadInput("--count must be 1 to 10,000,000, --doublings 0 to 12")
        if self.window is not None and not 1 <= self.window <= 10_000_000:
            raise BadInput(f"--window {self.window}: give 1 to 10,000,000")

    def hardware(self) -> Hardware:
        return Hardware(
            replicas=self.replicas,
            policy=self.policy,
            dram_gb=self.dram_gb,
            prices="none",
            what_if=self.what_if or [],
        )


AS_SHIPPED = SpeedLoad()


def speed(
    workload: str = "generated",
    *,
    load: SpeedLoad = AS_SHIPPED,
    html: ChartsOption = None,
    json_file: ResultOption = None,
) -> int:
    """How many requests the simulation takes in a second of one core, and whether that holds as they double.

    The same kind of load is played once, twice, four times as long, without books. The longest run is shown
    in windows as it goes: what a request takes, and how many are under way. A request takes more and more
    until host memory is full; windows after that say how time grows. A power of 1.0 is linear.

    Ctrl-C ends it; what was measured until then is shown and kept.

    Example: ``stepwell study speed conversation --count 1000 --html speed.html``

    The whole trace, once: ``stepwell study speed conversation --count 12031 --doublings 0 --json speed.json``

    With half of the device memory: ``stepwell study speed conversation --what-if hbm_gb=x0.5``

    Parameters
    ----------
    workload
        conversation, synthetic, agentic, generated, or a file.
    """
    load.check()
    hardware = load.hardware()
    found: list[SpeedRun] = []
    with told_to_stop():
        for turn in progress(range(load.doublings + 1), load.doublings + 1, "simulating"):
            one = SpeedRun()
            found.append(one)
            wanted = Wanted(workload, traces_folder(load.traces), load.count << turn)
            try:
                _run(wanted, hardware, load.window, one)
            except KeyboardInterrupt:
                break
    inputs: dict[str, object] = {"workload": workload, "count": load.count, "doublings": load.doublings}
    _tell(found, inputs | hardware.as_inputs(), console_for(json_file), html, json_file)
    return 0 if found[-1].complete else _INTERRUPTED


def _tell(
    found: Sequence[SpeedRun],
    inputs: dict[str, object],
    console: Console,
    html: Path | None,
    json_file: Path | None,
) -> None:
    """The tables, the page, the figures, and the answer last."""
    grown = _grown(found)
    tables: list[tuple[str, tuple[str, ...], list[list[str]]]] = [
        ("Speed", HEAD, [_cells(one) for one in found]),
        (WINDOWS_TITLE, WINDOW_HEAD, [_window_cells(one) for one in found[-1].windows]),
    ]
    for title, head, rows in tables:
        table = Table(*head, title=title)
        for row in rows:
            table.add_row(*row)
        console.print(fitted(console, table))
    answer = _answer(found, grown)
    if html is not None:
        page = Page("Speed of the simulation", answer)
        rates = {"requests per CPU second": [one.requests / max(1e-9, one.cpu_s) for one in found]}
        names = [f"{one.requests:,}" for one in found]
        page.chart(charts.bars("Speed by requests", "requests per CPU second", names, rates))
        for _, head, rows in tables:
            page.table(head, rows)
        page.inputs(inputs)
        write_page(page, html, console)
    figures: list[dict[str, Any]] = [
        {"requests": o.requests, "cpu_s": o.cpu_s, "steps": o.steps, "elapsed_s": o.simulated_s,
         "complete": o.complete, "windows": [asdict(w) for w in o.windows]}
        for o in found
    ]  # fmt: skip
    powers = {name: None if one is None else asdict(one) for name, one in grown.items()}
    told: dict[str, Any] = {"rows": figures, "slope": _slope(found), "powers": powers, "answer": answer}
    told["notes"] = [answer]
    told["inputs"] = {name: str(value) for name, value in inputs.items()}
    write_json(json_file, kept("study speed", inputs, tables) | told)
    console.print(f"study: {answer}", style="bold", markup=False, soft_wrap=True)


def _grown(found: Sequence[SpeedRun]) -> dict[str, GrowthPower | None]:
    """Over the windows of the longest run after memory was full."""
    windows = warm(found[-1].windows)
    return {
        "CPU time": power(windows, lambda one: one.cpu_ms_per_request),
        "steps": power(windows, lambda one: one.steps_per_request),
        "tokens computed": power(windows, lambda one: one.computed_tokens / one.ended),
        "turns under way": power(windows, lambda one: one.under_way),
    }


def _answer(found: Sequence[SpeedRun], grown: dict[str, GrowthPower | None]) -> str:
    last = found[-1]
    said = [f"{last.requests / max(1e-9, last.cpu_s):,.0f} requests per CPU second"]
    if not last.complete:
        said = [f"interrupted after {last.requests:,} requests: {said[0]}"]
    slope, cpu = _slope(found), grown["CPU time"]
    if slope is not None:
        said.append(f"from the first run to the last CPU time grows with the power {slope:.2f} of requests")
    if cpu is None:
        said.append(
            f"fewer than {FEWEST_WINDOWS} windows came after host memory was full, so how time grows from"
            " there on is not known"
        )
        return "; ".join(said)
    others = ", ".join(f"{name} {_bounds(one)}" for name, one in grown.items() if one and name != "CPU time")
    said.append(
        f"once host memory is full, over {cpu.windows} windows, CPU time grows with the power {_bounds(cpu)}"
        f" of requests ({others})"
    )
    return "; ".join(said)


def _bounds(one: GrowthPower) -> str:
    return f"{one.value:.2f} ({one.low:.2f} to {one.high:.2f})"


def _cells(one: SpeedRun) -> list[str]:
    return [
        f"{one.requests:,}", f"{one.cpu_s:.2f}", f"{one.requests / max(1e-9, one.cpu_s):,.0f}",
        f"{one.steps:,}", f"{one.simulated_s:,.0f}",
    ]  # fmt: skip


def _window_cells(one: RunWindow) -> list[str]:
    return [
        f"{one.requests:,}", f"{one.cpu_ms_per_request:.2f}", f"{one.steps_per_request:.1f}",
        f"{one.cpu_us_per_step:,.0f}", f"{one.computed_tokens / one.ended:,.0f}", f"{one.under_way:.1f}",
        f"{one.host_share:.0%}", f"{one.simulated_s:,.0f}",
    ]  # fmt: skip


def _run(wanted: Wanted, hardware: Hardware, window: int | None, found: SpeedRun) -> None:
    """Play it; ``found`` has what was found even where an interruption ends it."""
    work, _ = workload_of(wanted)
    lengths = [turn.prompt_tokens for turn in work.turns()]
    every = window or max(1, len(lengths) // _WINDOWS)
    built = build(hardware, work.unit_tokens, work.block_tokens, sum(lengths) / len(lengths))
    with unpaused() as on_end:

        def ended(count: int, now_us: int) -> None:
            on_end(count, now_us)
            recorder.ended(count, now_us)

        router = ROUTERS[hardware.router]
        cluster = Cluster(Player(work, Declared(None)), built.site, hardware.replicas, router, on_end=ended)
        recorder = WindowRecorder(cluster, every, _told(len(lengths)))
        found.windows = recorder.windows
        started_s = time.process_time()
        try:
            cluster.run()
            found.complete = True
        finally:
            found.cpu_s = max(1e-9, time.process_time() - started_s)
            found.requests = cluster.ended_turns
            machines = [replica.machine for replica in cluster.replicas]
            found.steps = sum([machine.steps for machine in machines])
            found.simulated_s = max(machine.now_us for machine in machines) / 1e6


def _told(total: int) -> Callable[[RunWindow], None]:
    """A line on standard error for each window, with the time left at its pace."""
    shown = Console(stderr=True)

    def told(one: RunWindow) -> None:
        left_s = (total - one.requests) * one.cpu_s / one.ended
        shown.print(
            f"{one.requests:,} of {total:,} requests: {one.cpu_ms_per_request:.2f} CPU ms a request,"
            f" {one.under_way:.0f} under way, host {one.host_share:.0%} full; about {left_s:,.0f} CPU s left",
            markup=False, highlight=False, soft_wrap=True,
        )  # fmt: skip

    return told


def _slope(found: Sequence[SpeedRun]) -> float | None:
    """Of the logarithm of CPU time over that of requests, from the first run to the last whole one."""
    whole = [one for one in found if one.complete]
    if len(whole) < 2 or whole[-1].requests <= whole[0].requests:
        return None
    first, last = whole[0], whole[-1]
    return math.log(last.cpu_s / first.cpu_s) / math.log(last.requests / first.requests)
