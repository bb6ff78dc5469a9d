"""``stepwell bench overhead``: what a step costs outside the engine call.

Twelve agents on a real model, then 200 agents on the null engine, which takes the time that was just
measured on the real one. Time is skipped there instead of slept, so that the second half is quick and
its steps cost what they would with that model. Both run under pressure: device KV for a part of the
agents, the rest in host memory.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field, replace
from statistics import median
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.quantiles import percentile
from stepwell.basics.this_machine import usable_cores
from stepwell.bench.clocks import timed_calls
from stepwell.bench.harness import NULL_MODEL, BenchRun, RealModelOption, ThreadsOption, bench
from stepwell.bench.node import driver_for, load_engine
from stepwell.bench.turns import TurnsPlayer, TurnsWork
from stepwell.console.options import Positive
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.engines.base import Engine, TextModel
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.loop.driver import Driver

LIMIT_REAL = 0.03
LIMIT_MANY = 0.10
HOST_BYTES = 8 << 30
ENGINE_CALLS = ("open", "close", "seal", "drop", "store", "load", "forget")
COLUMNS = {
    "": "{name}",
    "steps": "{steps}",
    "outside": "{outside_share:.2%}",
    "policy": "{policy_share:.2%}",
    "moves": "{engine_moves_share:.2%}",
    "driver, sinks": "{driver_and_sinks_share:.2%}",
    "us p50": "{outside_us_per_step_p50:,.0f}",
    "us p95": "{outside_us_per_step_p95:,.0f}",
}


@dataclass(slots=True)
class OverheadSpent:
    """Seconds of all steps that ran a batch, by where they went."""

    name: str
    agents: int
    steps: int = 0
    step_s: float = 0.0
    run_s: float = 0.0
    policy_s: float = 0.0
    moves_s: float = 0.0
    """Engine calls besides ``run``: opening, sealing, storing, loading."""
    shares: list[float] = field(default_factory=list)
    """Per step: the share outside the engine's run."""
    outside_us: list[float] = field(default_factory=list)

    @property
    def outside(self) -> float:
        """Share of all step time that was not the engine's run."""
        return 1 - self.run_s / self.step_s

    def as_json(self) -> dict[str, Any]:
        rest_s = self.step_s - self.run_s - self.policy_s - self.moves_s
        return {
            "agents": self.agents,
            "steps": self.steps,
            "outside_share": self.outside,
            "policy_share": self.policy_s / self.step_s,
            "engine_moves_share": self.moves_s / self.step_s,
            "driver_and_sinks_share": rest_s / self.step_s,
            "outside_us_per_step_p50": median(self.outside_us),
            "outside_us_per_step_p95": percentile(self.outside_us, 95),
        }


@bench("overhead")
def main(
    run: BenchRun,
    *,
    model: RealModelOption = "smollm2",
    agents: Positive = 12,
    many_agents: Annotated[int, Parameter(validator=Number(gte=8))] = 200,
    threads: ThreadsOption = None,
) -> None:
    """Measure the time per step spent outside the engine call.

    Twelve agents on a real model, and 200 on an engine that computes nothing and takes the time measured
    on the real one.

    Example: ``stepwell bench overhead``

    Parameters
    ----------
    agents
        Agents on the real model.
    many_agents
        Agents on the null engine.
    """
    real = TurnsWork(agents, 3, 300, 20, 24, 64 * (16 + 3 * agents))
    many = TurnsWork(many_agents, 3, 1_000, 40, 24, 1_000 * many_agents // 4)
    if run.quick:
        real = replace(real, turns=2, prompt_tokens=100, output_tokens=8, device_kv_tokens=64 * (8 + agents))
        many = replace(many, turns=2, prompt_tokens=200, output_tokens=8, device_kv_tokens=50 * many_agents)
    spent, costs = _on_the_model(real, model, threads, run.progress)
    found = [spent, _on_the_null_engine(many, costs, run.progress)]
    run.settings = {"model": model, "threads": threads or usable_cores(), "real": asdict(real)}
    run.settings |= {"many": asdict(many), "costs_of_the_null_engine": costs}
    run.results = {one.name: one.as_json() for one in found}
    run.samples = [
        {"case": one.name, "outside_us": one.outside_us, "outside_share": one.shares} for one in found
    ]
    run.verdicts = verdicts(found)
    rows = [one.as_json() | {"name": one.name} for one in found]
    run.show(sheet("Step time outside the engine's run, as shares of all step time", COLUMNS, rows))


def verdicts(found: Sequence[OverheadSpent]) -> list[Verdict]:
    return [
        Verdict(f"{one.name}: share of step time outside the engine call", one.outside, limit)
        for one, limit in zip(found, (LIMIT_REAL, LIMIT_MANY), strict=True)
    ]


# --- driving ----------------------------------------------------------------------------------


def _on_the_model(
    work: TurnsWork, model: str, threads: int | None, progress: Ticker
) -> tuple[OverheadSpent, dict[str, int]]:
    engine, text = load_engine(model, device_kv_tokens=work.device_kv_tokens, threads=threads)
    costs = NULL_COSTS if model == NULL_MODEL else measure_costs(engine, text, progress)
    with driver_for(engine, text, host_bytes=HOST_BYTES) as driver:
        return run_case(f"{work.agents} agents, {model}", work, driver, text, progress), costs


def _on_the_null_engine(work: TurnsWork, costs: dict[str, int], progress: Ticker) -> OverheadSpent:
    clock = SkippingClock()
    engine = NullEngine(NullConfig(device_blocks=work.device_kv_tokens // 64, **dict[str, Any](costs)), clock)
    text = NullText(engine.info)
    with driver_for(engine, text, host_bytes=HOST_BYTES, clock=clock) as driver:
        return run_case(f"{work.agents} agents, null engine", work, driver, text, progress)


NULL_COSTS = {
    "prefill_us_per_token": 4_000,
    "decode_us_per_step": 5_000,
    "decode_us_per_sequence": 4_000,
    "copy_us_per_block": 200,
}
"""SmolLM2 on two slow cores, for runs without a real model."""


class SkippingClock:
    """Real time, except that a sleep is over at once and counts in full."""

    def __init__(self) -> None:
        self._skipped_us = 0

    def now_us(self) -> int:
        return time.monotonic_ns() // 1000 + self._skipped_us

    def sleep_us(self, duration_us: int) -> None:
        self._skipped_us += duration_us


def run_case(name: str, work: TurnsWork, driver: Driver, text: TextModel, progress: Ticker) -> OverheadSpent:
    """All turns of all agents. The policy and the engine's calls besides ``run`` are timed from outside, on
    this driver alone."""
    progress.phase(name, work.turns)
    spent, player = OverheadSpent(name, work.agents), TurnsPlayer(text, work)
    calls = [(driver.engine, call, "moves") for call in ENGINE_CALLS]
    with timed_calls([*calls, (driver.scheduler, "step", "policy")], driver.clock.now_us) as watch:
        player.play(driver, lambda: _timed_step(driver, watch, spent), progress.advance)
    return spent


def _timed_step(driver: Driver, watch: defaultdict[str, float], spent: OverheadSpent) -> None:
    before = driver.snapshot().counters
    watch.clear()
    driver.step()
    after = driver.snapshot().counters
    if after["steps"] == before["steps"]:
        return  # nothing ran: waiting for a disk is not a step
    step_us, run_us = (after[name] - before[name] for name in ("step_us", "engine_us"))
    spent.steps += 1
    spent.step_s += step_us / 1e6
    spent.run_s += run_us / 1e6
    spent.policy_s += watch["policy"] / 1e6
    spent.moves_s += watch["moves"] / 1e6
    spent.outside_us.append(step_us - run_us)
    spent.shares.append(1 - run_us / step_us)


# --- what the model costs ---------------------------------------------------------------------


def measure_costs(engine: Engine, text: TextModel, progress: Ticker) -> dict[str, int]:
    """The null engine's cost model, measured on a real engine: prefill, decode alone and in a batch."""
    from stepwell.engines.probe import Probe

    progress.phase("measuring what the model costs")
    probe = Probe(engine, text)
    prefill_us = probe.prefill(256)[0].duration_us / 256
    one_us = probe.decode(1, steps=8, depth_tokens=64)
    eight_us = probe.decode(8, steps=8, depth_tokens=64)
    per_sequence_us = max(0.0, (eight_us - one_us) / 7)
    copy_us = probe.copy_us()
    return {
        "prefill_us_per_token": round(prefill_us),
        "decode_us_per_step": max(0, round(one_us - per_sequence_us)),
        "decode_us_per_sequence": round(per_sequence_us),
        "copy_us_per_block": round(copy_us),
    }
