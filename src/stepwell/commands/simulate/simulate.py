"""``stepwell simulate``: a workload on a modelled fleet, with the real policy and the real router."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

from stepwell.commands.plan.output import kept
from stepwell.commands.simulate.tables import show, tables, write_report
from stepwell.commands.simulate.work import WorkFlags
from stepwell.console.options import ChartsOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.fleet.routers import ROUTERS
from stepwell.launch.modelled_fleet import Built, Hardware, build
from stepwell.simulate.books import Money, money_of
from stepwell.simulate.calibrate import WorkloadFacts, facts_of
from stepwell.simulate.cluster import Cluster
from stepwell.simulate.exchange import write_mooncake, write_sessions
from stepwell.simulate.fleet_report import FleetReport, fleet_report, plain
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.unpaused import unpaused
from stepwell.simulate.workload import Workload

ALL_AS_RECORDED = WorkFlags()


def simulate(
    workload: str = "generated",
    *,
    hardware: Hardware | None = None,
    flags: WorkFlags = ALL_AS_RECORDED,
    declared: str = "silent",
    export: Path | None = None,
    html: ChartsOption = None,
    json_file: ResultOption = None,
) -> int:
    """A workload on a modelled fleet: the real policy on every replica, the fleet's own router before them.

    Reports latency, hits by KV tier, cost and margin by service tier, and how fast the simulation itself was.
    Contexts have their own length. Agents are a closed loop: a turn begins one pause after the answer before
    it, or after the last child that it waits for. Times come from a roofline model: docs/simulate.md says
    what that leaves out.

    Example: ``stepwell simulate generated --replicas 2 --html fleet.html``

    A trace under bursty arrivals: ``stepwell simulate trace.jsonl.gz --arrivals gamma:0.05:3``

    A replica is lost after a minute, for five: ``stepwell simulate conversation --fault lost:0@60+300``

    Parameters
    ----------
    workload
        agentic, conversation or synthetic (from $STEPWELL_TRACES), generated, or a file: Mooncake JSONL,
        sessions of agents, calls by session, Azure CSV, a recording of 'stepwell serve --record'.
    declared
        What agents say about their pauses: silent, exact, the sigma of a lognormal error, or recorded: what
        they said when it was recorded (--closed, or sessions made by it).
    export
        Write the workload here before it runs: sessions of agents (.sessions.jsonl), else Mooncake JSONL.
    """
    hardware = hardware or Hardware()
    said = Declared.parse(declared)
    work = flags.workload(workload)
    built = build(hardware, work.unit_tokens, work.block_tokens, _mean_input(work))
    console = console_for(json_file)
    if export is not None:
        write = write_sessions if export.name.endswith(".sessions.jsonl") else write_mooncake
        console.print(f"wrote {write(work, export)} lines to {export}", markup=False)
    found, money = run(work, built, hardware, said)
    facts = facts_of(work, built.replica.model)
    notes = [*work.notes, _facts_note(facts)]
    show(console, found, notes)
    inputs: dict[str, object] = {
        "workload": workload, "count": flags.count or "all", "arrivals": flags.arrivals,
        "declared": declared, "block tokens": work.block_tokens, **hardware.as_inputs(),
    }  # fmt: skip
    write_report(found, notes, inputs, flags.seed, html, console)
    result = kept("simulate", inputs | {"seed": flags.seed}, tables(found))
    write_json(json_file, result | _as_json(found, facts, notes, inputs, built, money))
    console.print(_last_line(found, built), style="bold", markup=False, soft_wrap=True)
    return 0


def run(
    work: Workload, built: Built, hardware: Hardware, declared: Declared, *, quiet: bool = False
) -> tuple[FleetReport, Money | None]:
    """Play the workload to its end, with a progress bar on standard error."""
    total = sum(1 for _ in work.turns())
    started_s = time.process_time()
    with _bar(total, quiet) as shown, unpaused(shown) as on_end:
        router = ROUTERS[hardware.router]
        player = Player(work, declared)
        cluster = Cluster(player, built.site, hardware.replicas, router, faults=built.faults, on_end=on_end)
        cluster.run()
    cpu_s = time.process_time() - started_s
    money = None
    if built.site.prices is not None:
        money = money_of([books.sums for _, books in cluster.lives() if books is not None], built.rates)
    return fleet_report(cluster, cpu_s, money), money


@contextmanager
def _bar(total: int, quiet: bool) -> Iterator[Callable[[int, int], None] | None]:
    if quiet:
        yield None
        return
    columns = (TextColumn("simulating"), BarColumn(), TextColumn("{task.fields[at]}"), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("", total=total, at="")
        every = max(1, total // 200)

        def on_end(count: int, now_us: int) -> None:
            if count % every == 0:
                progress.update(
                    task, completed=count, at=f"{count:,} turns, {now_us / 3.6e9:.2f} h simulated"
                )

        yield on_end


def _mean_input(work: Workload) -> float:
    lengths = [turn.prompt_tokens for turn in work.turns()]
    return sum(lengths) / max(1, len(lengths))


def _facts_note(facts: WorkloadFacts) -> str:
    share = facts.units_hit / max(1, facts.units)
    return (
        f"{facts.turns:,} turns; memory for everything would find {facts.units_hit:,} of {facts.units:,}"
        f" units of their prompts ({share:.4%}), {facts.unique_units:,} are different"
    )


def _as_json(
    found: FleetReport,
    facts: WorkloadFacts,
    notes: list[str],
    inputs: dict[str, object],
    built: Built,
    money: Money | None,
) -> dict[str, Any]:
    shown = {name: str(value) for name, value in inputs.items()}
    margins = {} if money is None else {name: tier.margin for name, tier in money.tiers.items()}
    whole = None if money is None else plain({"revenue_usd": money.revenue_usd, "cost_usd": money.cost_usd})
    room = {
        **built.replica.room._asdict(),
    }
    return {
        "report": found.as_json(), "margin_by_tier": margins, "books": whole, "notes": notes, "inputs": shown,
        "blocks_per_replica": room, "usd_replica_hour": float(built.usd_hour),
        "endless_memory": {"units": facts.units, "hit": facts.units_hit, "unique": facts.unique_units},
    }  # fmt: skip


def _last_line(found: FleetReport, built: Built) -> str:
    cost = ""
    if found.money is not None:
        margin = found.money.margin
        cost = f", ${float(found.usd_per_1000_turns or 0):,.2f} for 1,000 turns"
        cost += "" if margin is None else f", margin {margin:.0%}"
    return (
        f"simulate: {found.turns:,} turns on {found.replicas} replicas in {found.elapsed_s:,.0f} s of theirs:"
        f" mean TTFT {found.means.ttft_ms:,.0f} ms, TPOT {found.means.tpot_ms:.1f} ms, {found.hit_share:.1%}"
        f" found{cost}; {found.turns / max(found.cpu_s, 1e-9):,.0f} requests per CPU second"
    )
