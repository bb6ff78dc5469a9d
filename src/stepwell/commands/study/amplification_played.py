"""Amplification simulated: one replica is offered the sessions of x1, x2, x3 and is paid for those of x1.

The closed form takes every replica to be full and scales what a turn costs. Here more turns meet in one
replica's memory and queue: batches grow, contexts push each other out, and turns come late.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from decimal import Decimal
from fractions import Fraction
from pathlib import Path

from cyclopts import Parameter

from stepwell.commands.plan.choice import Choice
from stepwell.commands.plan.flash import percent
from stepwell.commands.plan.output import progress
from stepwell.commands.study.ssd import PRICES, StudyRun, played_run, selective, tell_run
from stepwell.console.options import Flag
from stepwell.economics.list_prices import MILLION, ListPrice
from stepwell.errors import BadInput
from stepwell.launch.modelled_fleet import Built, Hardware, build
from stepwell.simulate.arrivals import Arrivals, arranged
from stepwell.simulate.workload import Workload
from stepwell.simulate.workloads import Wanted, traces_folder, workload_of
from stepwell.simulate.workloads import times as repeated

HEAD = ("list price", "times", "memory", "turns", "on time", "found", "computed again", "margin")
DRAM_GB, DRIVES, TTFT_S = 500.0, 1.0, 10.0
_SPARE = 1.3
"""More sessions than are expected to begin, as they begin at random."""


@Parameter(name="*")
@dataclass(frozen=True, slots=True)
class PlayedLoad:
    """What is offered to the replica."""

    simulated: Flag = False
    """Simulate a replica as well: it is offered the sessions of each multiple and paid for those of one."""
    sessions: str = "agentic"
    """With --simulated: agentic (from $STEPWELL_TRACES), generated, or a file of sessions."""
    per_hour: float = 15.0
    """With --simulated: sessions that customers pay for, an hour."""
    hours: float = 0.5
    """With --simulated: simulated hours."""
    seed: int = 1
    """With --simulated: draws the sessions and when they begin. Few sessions differ much: try several."""
    traces: Path | None = None
    """The directory of the traces."""

    def check(self) -> None:
        """Raises ``BadInput``."""
        if not 0 < self.per_hour <= 1e6 or not 0 < self.hours <= 1000:
            raise BadInput("--per-hour and --hours must be above zero")

    def as_inputs(self) -> dict[str, object]:
        if not self.simulated:
            return {}
        return {
            "sessions": self.sessions,
            "per hour": self.per_hour,
            "hours": self.hours,
            "seed": self.seed,
        }


@dataclass(frozen=True, slots=True)
class PlayedMargin:
    """One replica with one memory under so many times the paid sessions."""

    kind: str
    times: int
    run: StudyRun
    input_tokens: int
    output_tokens: int

    def margin(self, usd: ListPrice, reusable: Decimal) -> float | None:
        """The replica's hours and wear, against the paid part of what was answered at list price."""
        cached = Decimal(self.input_tokens) * reusable
        fresh = Decimal(self.input_tokens) - cached
        listed = fresh * usd.input + cached * usd.cached + Decimal(self.output_tokens) * usd.output
        paid = Fraction(listed) / Fraction(MILLION) / self.times
        return float(1 - self.run.usd / paid) if paid else None

    def cells(self, name: str, usd: ListPrice, reusable: Decimal, memory: str) -> list[str]:
        report = self.run.report
        again = report.again_tokens / max(1, report.computed_tokens)
        return [
            name, f"x{self.times}", memory, f"{report.turns:,}", f"{self.run.on_time:.1%}",
            f"{report.hit_share:.1%}", f"{again:.1%}", percent(self.margin(usd, reusable)),
        ]  # fmt: skip


def play_amplified(
    part: str, choice: Choice, load: PlayedLoad, kinds: Sequence[str], multiples: Sequence[int]
) -> list[PlayedMargin]:
    """Every memory under every multiple, with the same sessions for all of them."""
    everything, _ = workload_of(Wanted(load.sessions, traces_folder(load.traces), None, load.seed, 512))
    base = _drawn(everything, load, max(multiples))
    jobs = [(kind, times) for times in multiples for kind in kinds]
    machines = {kind: _machine(part, choice, kind, everything) for kind in kinds}
    found = []
    for kind, times in progress(jobs, len(jobs), "simulating"):
        rate = load.per_hour * times
        work = arranged(base, Arrivals("poisson", rate / 3600), load.seed)
        run, turns = played_run(machines[kind], work, (part, kind, rate), load.hours, TTFT_S)
        tell_run(run)
        prompts, answers = sum(t.prompt_tokens for t in turns), sum(t.new_tokens for t in turns)
        found.append(PlayedMargin(kind, times, run, prompts, answers))
    return found


def _drawn(everything: Workload, load: PlayedLoad, most: int) -> Workload:
    """As many sessions as may begin. Fewer are the first of more, so a multiple's figures do not depend on
    which others are asked for."""
    order = random.Random(load.seed).sample(everything.sessions, len(everything.sessions))
    count = max(2, round(load.per_hour * most * load.hours * _SPARE))
    found = repeated(replace(everything, sessions=tuple(order)), count)
    return replace(found, sessions=found.sessions[:count])


def _machine(part: str, choice: Choice, kind: str, work: Workload) -> Built:
    hardware = Hardware(
        part=part, model=choice.model, chips=choice.chips, weights=choice.weights, kv=choice.kv,
        engine=choice.engine, constants=choice.constants, ssd=choice.ssd, what_if=choice.what_if,
        replicas=1, prices=PRICES, dram_gb=0.0 if kind == "hbm" else DRAM_GB,
        drives=DRIVES if kind == "selective" else 0.0,
    )  # fmt: skip
    lengths = [turn.prompt_tokens for turn in work.turns()]
    built = build(hardware, work.unit_tokens, work.block_tokens, sum(lengths) / len(lengths))
    return replace(built, site=selective(built)) if kind == "selective" else built


def played_answer(
    name: str, usd: ListPrice, reusable: Decimal, found: Sequence[PlayedMargin], load: PlayedLoad
) -> str:
    """Without KV tiers, and with all of them."""
    told = []
    for kind, words in (("hbm", "with HBM only"), ("selective", "with all KV tiers")):
        own = [one for one in found if one.kind == kind]
        told.append(words + " " + ", ".join(f"x{o.times} {percent(o.margin(usd, reusable))}" for o in own))
    return (
        f"{name}, simulated: one replica, {load.per_hour:g} paid sessions an hour for {load.hours:g} h:"
        f" margin {'; '.join(told)}."
    )
