"""``stepwell study ssd``: what disks below DRAM are worth for agents at the same targets, and their wear."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from fractions import Fraction
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.console import Console
from rich.table import Table

from stepwell.commands.plan.choice import named_parts
from stepwell.commands.plan.output import kept, progress, write_page
from stepwell.commands.study.ssd_plan import HEAD as PLAN_HEAD
from stepwell.commands.study.ssd_plan import FullReplica, full_replica
from stepwell.console.fitting import fitted
from stepwell.console.options import HtmlOption, ResultOption
from stepwell.console.output import console_for, write_json
from stepwell.errors import BadInput
from stepwell.fleet.routers import ROUTERS
from stepwell.launch.modelled_fleet import Built, Hardware, build
from stepwell.ledger.pricing.prices import load_price_book
from stepwell.ledger.types import Resource
from stepwell.report import charts
from stepwell.report.page import Page
from stepwell.simulate.arrivals import Arrivals, arranged
from stepwell.simulate.books import money_of
from stepwell.simulate.cluster import Cluster, ReplicaSite
from stepwell.simulate.fleet_report import FleetReport, answered_turns, fleet_report
from stepwell.simulate.meter import TurnTimes
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.unpaused import unpaused
from stepwell.simulate.workload import Workload
from stepwell.simulate.workloads import Wanted, traces_folder, workload_of

HEAD = (
    "part", "memory", "sessions/h", "turns", "on time", "TTFT p90 s", "found", "again", "GB written",
    "USD/1,000 turns", "of it wear",
)  # fmt: skip
MEMORIES = ("HBM + DRAM", "with SSD, selective", "with SSD, everything")
CHIPS = {"tpu-v6e": 8}
PRICES = "openai-gpt-5"
_HOUR_US = 3_600_000_000


@dataclass(frozen=True, slots=True)
class StudyRun:
    """One replica under one load for some hours. Money is exact."""

    part: str
    memory: str
    per_hour: float
    report: FleetReport
    on_time: float
    again_us: int
    wear_usd: Fraction
    usd: Fraction
    usd_compute_s: Fraction

    @property
    def usd_per_1000(self) -> Fraction:
        return 1000 * self.usd / max(1, self.report.turns)


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class SsdLoad:
    """What one replica is given to do, and with how much memory below the device."""

    workload: str = "agentic"
    """agentic (from $STEPWELL_TRACES), generated, or a file of sessions."""
    per_hour: str = "20,40,80"
    """Sessions that begin in an hour, with commas."""
    hours: float = 1.0
    """Simulated hours; what has not ended then does not count."""
    ttft_s: float = 10.0
    """Target: seconds to the first token."""
    share: float = 0.9
    """Share of turns that must meet it."""
    drives: float = 2.0
    """Disks of the replica."""
    dram_gb: float = 500.0
    """Host memory for KV."""
    block_tokens: int = 512
    """Tokens of one block."""
    seed: int = 1
    """Draws sessions and when they begin."""
    simulated: Annotated[bool, Parameter(negative="--no-simulated")] = True
    """Simulate as well; the closed form takes seconds."""
    what_if: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None
    """Figures to set, as KEY=VALUE: of the part by name, of memory as ssd.usd_gb."""
    traces: Path | None = None
    """The directory of the traces."""

    @property
    def changes(self) -> list[str]:
        return self.what_if or []

    def check(self) -> None:
        """Raises ``BadInput``."""
        _rates(self.per_hour)
        if (
            not 0 < self.hours <= 1000
            or not 0 < self.share <= 1
            or not self.ttft_s > 0
            or not self.drives > 0
        ):
            raise BadInput("--hours, --share, --ttft-s and --drives must be above zero, --share at most 1")

    def as_inputs(self) -> dict[str, object]:
        return {
            "workload": self.workload, "sessions an hour": self.per_hour, "hours": self.hours,
            "TTFT target, s": self.ttft_s, "share on time": self.share, "drives": self.drives,
            "DRAM GB": self.dram_gb, "what if": ", ".join(self.changes) or "nothing",
        }  # fmt: skip

    def runs(self, parts: Sequence[str]) -> tuple[list[StudyRun], list[str]]:
        """Every part with every memory at every rate, told as they end; and an answer for each part."""
        rates = _rates(self.per_hour)
        count = max(2, round(max(rates) * self.hours * 1.3))
        base, _ = workload_of(
            Wanted(self.workload, traces_folder(self.traces), count, self.seed, self.block_tokens)
        )
        sizes = {"dram_gb": self.dram_gb, "drives": self.drives, "what_if": self.changes}
        sizes |= {"replicas": 1, "prices": PRICES}
        jobs = [(p, m, rate) for p in parts for m in MEMORIES for rate in rates]
        machines = {(p, m): _machine(p, m, base, sizes) for p, m, _ in jobs}
        found: list[StudyRun] = []
        for part, memory, rate in progress(jobs, len(jobs), "simulating"):
            work = arranged(base, Arrivals("poisson", rate / 3600), self.seed)
            one, *_ = played_run(machines[part, memory], work, (part, memory, rate), self.hours, self.ttft_s)
            found.append(one)
            tell_run(one)
        return found, [_answer(part, found, machines, self.share) for part in parts]


AS_KEPT = SsdLoad()


def ssd(
    parts: str = "h200,tpu-v6e",
    *,
    load: SsdLoad = AS_KEPT,
    html: HtmlOption = None,
    json_file: ResultOption = None,
) -> int:
    """What disks below DRAM are worth for agents at the same targets, and when wear costs more than it saves.

    First in closed form: each split of memory at its cheapest size, every replica full. Then simulated, with
    the real policy: one replica (4 chips; 8 of a TPU v6e) serves sessions that begin at random at several
    rates, without disks, with disks that may be written as much a day as they are rated for (selective), and
    without that limit. Of the rates that meet the target the cheapest counts.

    Example: ``stepwell study ssd h200 --per-hour 20,40 --html ssd.html``

    With dearer disks: ``stepwell study ssd h200 --what-if ssd.usd_gb=1``

    Parameters
    ----------
    parts
        Hardware of 'stepwell catalogue hardware', with commas.
    """
    load.check()
    if html is not None and load.simulated:
        charts.require_charts()  # before minutes of work whose page has charts
    names = named_parts(parts)
    full = [full_replica(part, CHIPS.get(part, 4), load.changes) for part in names]
    found, answers = load.runs(names) if load.simulated else ([], [])
    _tell(full, found, load.as_inputs(), answers, load.seed, html, json_file)
    return 0


def _tell(
    full: list[FullReplica],
    found: list[StudyRun],
    inputs: dict[str, object],
    answers: list[str],
    seed: int,
    html: Path | None,
    json_file: Path | None,
) -> None:
    """The table, the page, the figures, and the answers last."""
    console = console_for(json_file)
    planned, rows = [row for one in full for row in one.rows()], [_row(one) for one in found]
    for head, cells in ((PLAN_HEAD, planned), (HEAD, rows)):
        table = Table(*head)
        for row in cells:
            table.add_row(*row)
        if cells:
            console.print(fitted(console, table))
    answers = [*(one.answer() for one in full), *answers]
    if html is not None:
        page = Page("Disks below DRAM", " ".join(answers))
        names = [f"{rate:g}/h" for rate in dict.fromkeys(one.per_hour for one in found)]
        for part in dict.fromkeys(one.part for one in found):
            own = [one for one in found if one.part == part]
            series = {m: [float(o.usd_per_1000) for o in own if o.memory == m] for m in MEMORIES}
            page.chart(charts.bars(f"Cost of 1,000 turns, {part}", "USD", names, series))
        page.table(PLAN_HEAD, planned)
        if rows:
            page.table(HEAD, rows)
        page.inputs(inputs, seed)
        write_page(page, html, console)
    shown: list[dict[str, Any]] = [dict(zip(HEAD, row, strict=True)) for row in rows]
    told = {name: str(value) for name, value in inputs.items()}
    full_rows = [dict(zip(PLAN_HEAD, row, strict=True)) for row in planned]
    figures = {"closed_form": full_rows, "rows": shown, "answers": answers, "inputs": told}
    tables = [("Closed form", PLAN_HEAD, planned), ("Simulated", HEAD, rows)]
    result = kept("study ssd", inputs, [one for one in tables if one[2]])
    write_json(json_file, result | figures | {"notes": answers})
    for answer in answers:
        console.print(f"study: {answer}", style="bold", markup=False, soft_wrap=True)


def _rates(text: str) -> list[float]:
    try:
        found = [float(part) for part in text.split(",")]
    except ValueError:
        found = [0.0]
    if not all(0 < rate <= 1e6 for rate in found):
        raise BadInput(f"--per-hour {text}: give numbers above zero, with commas")
    return sorted(found)


def _machine(part: str, memory: str, work: Workload, sizes: dict[str, Any]) -> Built:
    """One replica of the part with that memory."""
    hardware = Hardware(part=part, chips=CHIPS.get(part, 4), **sizes)
    lengths = [turn.prompt_tokens for turn in work.turns()]
    if memory == MEMORIES[0]:
        hardware = replace(hardware, drives=0.0)
    built = build(hardware, work.unit_tokens, work.block_tokens, sum(lengths) / len(lengths))
    if memory != MEMORIES[1]:
        return built
    return replace(built, site=selective(built))


def selective(built: Built) -> ReplicaSite:
    """Its disks may be written as much a day as they are rated for."""
    limit = int(built.site.config.disk_bytes * built.figures["ssd"].number("dwpd"))
    config = replace(built.site.config, disk_write_bytes_per_day=max(1, limit))
    return replace(built.site, config=config)


def played_run(
    built: Built, work: Workload, what: tuple[str, str, float], hours: float, ttft_s: float
) -> tuple[StudyRun, list[TurnTimes]]:
    """One replica for some hours, and the turns it answered. ``what``: part, memory, sessions an hour."""
    site: ReplicaSite = replace(built.site, prices=load_price_book(PRICES))
    started_s = time.process_time()
    with unpaused() as on_end:
        cluster = Cluster(Player(work, Declared(None)), site, 1, ROUTERS["kv-affine"], on_end=on_end)
        cluster.run(until_us=int(hours * _HOUR_US))
    money = money_of([books.sums for _, books in cluster.lives() if books is not None], built.rates)
    report = fleet_report(cluster, time.process_time() - started_s, money)
    answered = answered_turns(cluster)
    late = sum(1 for turn in answered if (turn.ttft_us or 0) > ttft_s * 1e6)
    # A turn that still waits for a first token after the target is late as well, whatever comes of it.
    waiting = [t for m, _ in cluster.lives() for t in m.meter.turns.values() if t.ttft_us is None]
    late += sum(1 for turn in waiting if hours * _HOUR_US - turn.arrived_us > ttft_s * 1e6)
    on_time = 1 - late / max(1, len(answered) + len(waiting))
    wear = money.by_resource_usd.get(Resource.WRITTEN.value, Fraction(0))
    usd = built.usd_hour * Fraction(hours) + wear
    again_us = sum(machine.meter.again_us for machine, _ in cluster.lives())
    ended = replace(report, turns=len(answered))
    per_s = built.rates.microusd[Resource.COMPUTE]
    return StudyRun(*what, ended, on_time, again_us, wear, usd, per_s), answered


def tell_run(one: StudyRun) -> None:
    """A line on standard error for each run that has ended: all of them may take long."""
    Console(stderr=True).print(
        f"{one.part}, {one.memory}, {one.per_hour:g} sessions an hour: {one.report.turns:,} turns,"
        f" {one.on_time:.1%} on time, ${float(one.usd_per_1000):.2f} for 1,000 turns;"
        f" {one.report.cpu_s:,.0f} CPU s",
        markup=False, highlight=False, soft_wrap=True,
    )  # fmt: skip


def _row(one: StudyRun) -> list[str]:
    report = one.report
    again = report.again_tokens / max(1, report.computed_tokens)
    return [
        one.part, one.memory, f"{one.per_hour:g}", f"{report.turns:,}", f"{one.on_time:.1%}",
        f"{report.ttft.p90_s:.2f}", f"{report.hit_share:.1%}", f"{again:.1%}",
        f"{report.bytes_moved['host_disk'] / 1e9:,.0f}", f"{float(one.usd_per_1000):.2f}",
        f"{1000 * float(one.wear_usd) / max(1, report.turns):.3f}",
    ]  # fmt: skip


def _best(found: list[StudyRun], part: str, memory: str, share: float) -> StudyRun | None:
    """The cheapest load that meets the target."""
    met = [o for o in found if (o.part, o.memory) == (part, memory) and o.on_time >= share and o.report.turns]
    return min(met, key=lambda one: one.usd_per_1000, default=None)


def _answer(part: str, found: list[StudyRun], machines: dict[tuple[str, str], Built], share: float) -> str:
    before, after = (_best(found, part, memory, share) for memory in MEMORIES[:2])
    if before is None or after is None:
        lacking = MEMORIES[0] if before is None else MEMORIES[1]
        return f"on {part} no load that was tried meets the target with {lacking}: give lower --per-hour."
    change = float(1 - after.usd_per_1000 / before.usd_per_1000)
    word = "cheaper" if change >= 0 else "dearer"
    return (
        f"on {part} at the same target disks with selective admission are {abs(change):.0%} {word}"
        f" (${float(after.usd_per_1000):.2f} at {after.per_hour:g} sessions an hour against"
        f" ${float(before.usd_per_1000):.2f} at {before.per_hour:g}); {_wear(part, found, machines, after)}"
    )


def _wear(part: str, found: list[StudyRun], machines: dict[tuple[str, str], Built], after: StudyRun) -> str:
    """At which price of disks wear costs what the recomputing that it saved does."""
    without = next(o for o in found if (o.part, o.memory, o.per_hour) == (part, MEMORIES[0], after.per_hour))
    # Per turn, as the slower one has answered fewer.
    again = [Fraction(one.again_us, max(1, one.report.turns)) for one in (without, after)]
    saved = (again[0] - again[1]) * after.report.turns * after.usd_compute_s / 1_000_000
    if not after.wear_usd:
        return "nothing was written at that load."
    if saved <= 0:
        return "nothing less was computed again at that load, so wear costs more."
    price = machines[part, MEMORIES[1]].figures["ssd"].get("usd_gb")
    return (
        f"it wore ${float(after.wear_usd):.3f} off the disks and saved ${float(saved):.3f} of computing"
        f" again, so wear costs more above ${float(Fraction(price) * saved / after.wear_usd):.2f} a GB"
        f" (it is ${float(price):.2f})."
    )
