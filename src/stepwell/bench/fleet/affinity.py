"""``stepwell bench affinity``: what a rule for where turns go is worth, beside Ray's own prefix-aware router.

The simulator's fleet plays one workload under each rule: the same sessions at the same times, the real policy
on every replica. What differs is which replica a turn goes to.
"""

from __future__ import annotations

import time
from dataclasses import asdict, dataclass

from stepwell.bench.fleet.ray_prefix import RayPrefix, text_of
from stepwell.bench.harness import BenchRun, SeedOption, bench
from stepwell.console.options import Positive
from stepwell.console.output import sheet
from stepwell.console.report import Verdict
from stepwell.errors import BadInput
from stepwell.fleet.routers import ROUTERS, Router
from stepwell.launch.modelled_fleet import Built, Hardware, build
from stepwell.simulate.arrivals import Arrivals, arranged
from stepwell.simulate.calibrate import facts_of
from stepwell.simulate.cluster import Cluster
from stepwell.simulate.fleet_report import FleetReport, fleet_report
from stepwell.simulate.machine import ComingTurn
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.workload import Workload
from stepwell.simulate.workloads import Wanted, traces_folder, workload_of

OURS, RAYS = "kv-affine", RayPrefix.name
QUICK_SESSIONS = 60
COLUMNS = (
    ("rule", "{rule}"),
    ("found", "{found_share:.1%}"),
    ("recompute tax", "{tax:.1%}"),
    ("TTFT p50", "{ttft_ms_p50:,.0f} ms"),
    ("p99", "{ttft_ms_p99:,.0f} ms"),
    ("whole turn p50", "{turn_s_p50:,.2f} s"),
    ("p99", "{turn_s_p99:,.2f} s"),
    ("busiest replica", "{busiest_share:.0%}"),
    ("CPU", "{cpu_s:.1f} s"),
)


@dataclass(frozen=True, slots=True)
class AffinityRow:
    """One rule. Seconds and milliseconds are those of the modelled machines."""

    rule: str
    turns: int
    prompt_tokens: int
    found_share: float
    tax: float
    """The recompute tax: of all prompt tokens, those that one endless memory for all replicas would have
    found and that were computed again."""
    ttft_ms_p50: float
    ttft_ms_p99: float
    turn_s_p50: float
    turn_s_p99: float
    session_s_p50: float
    busiest_share: float
    """Of all turns, those that the busiest replica got; evenly it would be one over the replicas."""
    cpu_s: float


class _TextCluster(Cluster):
    """A cluster that shows the rule the prompt of the turn it is asked about."""

    def _send(self, call: ComingTurn, since_us: int) -> None:
        if isinstance(self.router, RayPrefix):
            self.router.text = text_of(call.arrival(0).units)
        super()._send(call, since_us)


@bench("affinity")
def main(
    run: BenchRun,
    *,
    workload: str = "generated",
    sessions: Positive = 300,
    arrivals: str = "poisson:5",
    replicas: Positive = 4,
    dram_gb: float = 20.0,
    seed: SeedOption = 1,
) -> None:
    """Compare rules for where turns go, Ray's prefix-aware router among them, on a simulated fleet.

    Needs Ray: .venv-ray/bin/stepwell bench affinity, after 'make test-ray'. Ray's rule is its own prefix
    tree, asked as its router asks it, with its defaults.

    Example: ``.venv-ray/bin/stepwell bench affinity --replicas 8``

    Parameters
    ----------
    workload
        As for 'stepwell simulate': generated, a named trace, or a file.
    sessions
        Sessions of agents.
    arrivals
        When they begin: poisson:RATE, gamma:RATE:CV, recorded.
    replicas
        Replicas of llama-3.1-70b, on two H200 each.
    dram_gb
        Host memory for KV of each; there are no disks.
    """
    if replicas < 2:
        raise BadInput(f"--replicas {replicas}: with one replica there is nothing to choose")
    count = min(sessions, QUICK_SESSIONS) if run.quick else sessions
    hardware = Hardware(replicas=replicas, dram_gb=dram_gb, drives=0, chips=2, prices="none")
    wanted = Wanted(workload, traces_folder(), count, seed)
    work = arranged(workload_of(wanted)[0], Arrivals.parse(arrivals), seed)
    lengths = [turn.prompt_tokens for turn in work.turns()]
    built = build(hardware, work.unit_tokens, work.block_tokens, sum(lengths) / max(1, len(lengths)))
    rules: list[Router] = [*ROUTERS.values(), RayPrefix([f"r{n}" for n in range(replicas)])]
    rows: list[AffinityRow] = []
    for rule in rules:
        run.progress.phase(f"{rule.name}: {len(lengths):,} turns on {replicas} replicas")
        rows.append(play(work, built, replicas, rule))
    run.settings = {
        "workload": workload, "sessions": count, "arrivals": arrivals, "replicas": replicas,
        "dram_gb": dram_gb, "seed": seed,
    }  # fmt: skip
    run.results = {"rules": [asdict(row) for row in rows]}
    run.verdicts = verdicts(rows)
    run.show(sheet(f"{rows[0].turns:,} turns, {rows[0].prompt_tokens:,} prompt tokens", COLUMNS, rows))


def play(work: Workload, built: Built, replicas: int, rule: Router) -> AffinityRow:
    started_s = time.process_time()
    cluster = _TextCluster(Player(work, Declared.parse("silent")), built.site, replicas, rule)
    cluster.run()
    found = fleet_report(cluster, time.process_time() - started_s, None)
    facts = facts_of(work, built.replica.model)
    endless_share = facts.units_hit / max(1, facts.units)
    return row_of(found, endless_share, [len(machine.meter.turns) for machine, _ in cluster.lives()])


def row_of(found: FleetReport, endless_share: float, turns: list[int]) -> AffinityRow:
    return AffinityRow(
        found.router,
        found.turns,
        found.prompt_tokens,
        found.hit_share,
        endless_share - found.hit_share,
        found.ttft.p50_s * 1e3,
        found.ttft.p99_s * 1e3,
        found.e2e.p50_s,
        found.e2e.p99_s,
        found.sessions.p50_s,
        max(turns) / max(1, sum(turns)),
        found.cpu_s,
    )


def verdicts(rows: list[AffinityRow]) -> list[Verdict]:
    """Ours computes no more again than Ray's, and its slowest turns take no longer."""
    ours, rays = (next(row for row in rows if row.rule == rule) for rule in (OURS, RAYS))
    return [
        Verdict("recompute tax over Ray's prefix-aware router's", _over(ours.tax, rays.tax), 1.0, "x"),
        Verdict("p99 of a turn's time over it", _over(ours.turn_s_p99, rays.turn_s_p99), 1.0, "x"),
    ]


def _over(ours: float, theirs: float) -> float | None:
    return ours / theirs if theirs else None
