"""``stepwell study speed``: how many requests the simulation takes in a CPU second, and how that grows."""

from __future__ import annotations

import math
import os
import time
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from stepwell.commands.plan_output import console_for, progress, write_json
from stepwell.commands.simulate import TRACES_VARIABLE
from stepwell.commands.simulate_choice import Hardware, build
from stepwell.errors import BadInput
from stepwell.fleet.routers import ROUTERS
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
    traces: Path | None = None,
    json_file: Annotated[Path | None, Parameter(name="--json")] = None,
) -> int:
    """How many requests the simulation takes in a second of one core, and whether that holds as they double.

    The same kind of load is played once, twice, four times as long, without books. A slope of 1.0 is linear.

    Example: ``stepwell study speed conversation --count 1000``

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
    traces
        The directory of the traces.
    json_file
        Write every figure as JSON (``-``: standard output).
    """
    if not 1 <= count <= 10_000_000 or not 0 <= doublings <= 12:
        raise BadInput("--count must be 1 to 10,000,000, --doublings 0 to 12")
    named = os.environ.get(TRACES_VARIABLE)
    directory = traces or (Path(named) if named else None)
    hardware = Hardware(replicas=replicas, policy=policy, prices="none")
    sizes = [count << turn for turn in range(doublings + 1)]
    console = console_for(json_file)
    found = [_run(workload, directory, size, hardware) for size in progress(sizes, len(sizes), "simulating")]
    table = Table(*HEAD)
    for one in found:
        table.add_row(
            f"{one.turns:,}", f"{one.cpu_s:.2f}", f"{one.turns / one.cpu_s:,.0f}", f"{one.steps:,}",
            f"{one.elapsed_s:,.0f}",
        )  # fmt: skip
    console.print(table)
    slope = _slope(found)
    rows: list[dict[str, Any]] = [
        {"requests": one.turns, "cpu_s": one.cpu_s, "steps": one.steps, "elapsed_s": one.elapsed_s}
        for one in found
    ]
    write_json({"rows": rows, "slope": slope}, json_file)
    grows = "" if slope is None else f"; CPU time grows with the power {slope:.2f} of requests"
    rate = found[-1].turns / found[-1].cpu_s
    console.print(f"study: {rate:,.0f} requests per CPU second{grows}", style="bold", markup=False)
    return 0


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
