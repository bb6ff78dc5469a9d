"""``stepwell study speed``: how many requests the simulation takes in a CPU second, and how that grows."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from stepwell.commands.plan_output import progress, write_page
from stepwell.commands.simulate import TRACES_VARIABLE
from stepwell.commands.simulate_choice import Hardware, build
from stepwell.console.options import ChartsOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.errors import BadInput
from stepwell.fleet.routers import ROUTERS
from stepwell.report import charts
from stepwell.report.page import Page
from stepwell.simulate.cluster import Cluster
from stepwell.simulate.fleet_report import FleetReport, fleet_report
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.unpaused import unpaused
from stepwell.simulate.workloads import Wanted, workload_of

HEAD = ("requests", "CPU s", "requests/CPU s", "steps", "simulated s")


def speed(
    workload: str = "generated",
    *,
    count: int = 400,
    doublings: int = 2,
    replicas: int = 4,
    policy: str = "stepwell",
    what_if: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    traces: Path | None = None,
    html: ChartsOption = None,
    json_file: ResultOption = None,
) -> int:
    """How many requests the simulation takes in a second of one core, and whether that holds as they double.

    The same kind of load is played once, twice, four times as long, without books. A slope of 1.0 is linear.

    Example: ``stepwell study speed conversation --count 1000 --html speed.html``

    With half of the device memory: ``stepwell study speed conversation --what-if hbm_gb=x0.5``

    Parameters
    ----------
    workload
        conversation, synthetic, agentic, generated, or a file.
    count
        Requests (or sessions) of the shortest run.
    doublings
        How often that is doubled.
    replicas
        Replicas of the fleet.
    policy
        The eviction policy.
    what_if
        Figures of the part to set, as KEY=VALUE; of memory as dram.usd_gb, ssd.read_gb_s.
    traces
        The directory of the traces.
    html
        Write a report here.
    json_file
        Write every figure as JSON (``-``: standard output).
    """
    if not 1 <= count <= 10_000_000 or not 0 <= doublings <= 12:
        raise BadInput("--count must be 1 to 10,000,000, --doublings 0 to 12")
    named = os.environ.get(TRACES_VARIABLE)
    directory = traces or (Path(named) if named else None)
    hardware = Hardware(replicas=replicas, policy=policy, prices="none", what_if=what_if or [])
    sizes = [count << turn for turn in range(doublings + 1)]
    console = console_for(json_file)
    found = [_run(workload, directory, size, hardware) for size in progress(sizes, len(sizes), "simulating")]
    inputs = {"workload": workload, "count": count, "doublings": doublings, **hardware.as_inputs()}
    _tell(found, inputs, console, html, json_file)
    return 0


def _tell(
    found: list[FleetReport],
    inputs: dict[str, object],
    console: Console,
    html: Path | None,
    json_file: Path | None,
) -> None:
    """The table, the page, the figures, and the answer last."""
    rows = [_cells(one) for one in found]
    table = Table(*HEAD)
    for row in rows:
        table.add_row(*row)
    console.print(table)
    slope = _slope(found)
    grows = "" if slope is None else f"; CPU time grows with the power {slope:.2f} of requests"
    answer = f"{found[-1].turns / found[-1].cpu_s:,.0f} requests per CPU second{grows}"
    if html is not None:
        page = Page("Speed of the simulation", f"{answer}.")
        rates = {"requests per CPU second": [one.turns / one.cpu_s for one in found]}
        names = [f"{one.turns:,}" for one in found]
        page.chart(charts.bars("Speed by requests", "requests per CPU second", names, rates))
        page.table(HEAD, rows)
        page.inputs(inputs)
        write_page(page, html, console)
    figures: list[dict[str, Any]] = [
        {"requests": one.turns, "cpu_s": one.cpu_s, "steps": one.steps, "elapsed_s": one.elapsed_s}
        for one in found
    ]
    told = {name: str(value) for name, value in inputs.items()}
    write_json(json_file, {"rows": figures, "slope": slope, "answer": answer, "inputs": told})
    console.print(f"study: {answer}", style="bold", markup=False)


def _cells(one: FleetReport) -> list[str]:
    return [
        f"{one.turns:,}", f"{one.cpu_s:.2f}", f"{one.turns / one.cpu_s:,.0f}", f"{one.steps:,}",
        f"{one.elapsed_s:,.0f}",
    ]  # fmt: skip


def _run(workload: str, directory: Path | None, count: int, hardware: Hardware) -> FleetReport:
    work, _ = workload_of(Wanted(workload, directory, count))
    lengths = [turn.prompt_tokens for turn in work.turns()]
    built = build(hardware, work.unit_tokens, work.block_tokens, sum(lengths) / len(lengths))
    router = ROUTERS[hardware.router]
    with unpaused() as on_end:
        player = Player(work, Declared(None))
        cluster = Cluster(player, built.site, hardware.replicas, router, on_end=on_end)
        started_s = time.process_time()
        cluster.run()
        cpu_s = time.process_time() - started_s
    return fleet_report(cluster, max(1e-9, cpu_s), None)


def _slope(found: list[FleetReport]) -> float | None:
    """Of the logarithm of CPU time over that of requests, from the first run to the last."""
    first, last = found[0], found[-1]
    if last.turns <= first.turns:
        return None
    return math.log(last.cpu_s / first.cpu_s) / math.log(last.turns / first.turns)
