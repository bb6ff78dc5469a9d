"""``stepwell bench overhead``: what a step costs outside the engine call.

Twelve agents on a real model, then 200 agents on the null engine, which takes the time that was just
measured on the real one. Time is skipped there instead of slept, so that the second half is quick and
its steps cost what they would with that model. Both run under pressure: device KV for a part of the
agents, the rest in host memory.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from statistics import median
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.table import Table

from stepwell.bench.node import NULL_MODEL, TurnLog, driver_for, load_engine, turn_of
from stepwell.bench.workload import prose
from stepwell.console.options import JsonOption, OptionalPositive, Positive, QuickOption
from stepwell.console.output import report_console, table
from stepwell.console.progress import Ticker, ticker
from stepwell.console.report import Report, Verdict
from stepwell.engines.base import Engine, TextModel
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.loop.driver import Driver
from stepwell.quantiles import percentile
from stepwell.this_machine import usable_cores

LIMIT_REAL = 0.03
LIMIT_MANY = 0.10
HOST_BYTES = 8 << 30
ENGINE_CALLS = ("open", "close", "seal", "drop", "store", "load", "forget")


@dataclass(frozen=True, slots=True)
class OverheadCase:
    """Agents that take turns, all at once, with less device KV than they have together."""

    name: str
    agents: int
    turns: int
    prompt_tokens: int
    added_tokens: int
    output_tokens: int
    device_kv_tokens: int


@dataclass(slots=True)
class OverheadSpent:
    """Seconds of all steps that ran a batch, by where they went."""

    case: OverheadCase
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
            "agents": self.case.agents,
            "steps": self.steps,
            "outside_share": self.outside,
            "policy_share": self.policy_s / self.step_s,
            "engine_moves_share": self.moves_s / self.step_s,
            "driver_and_sinks_share": rest_s / self.step_s,
            "outside_us_per_step_p50": median(self.outside_us),
            "outside_us_per_step_p95": percentile(self.outside_us, 95),
        }


def main(
    *,
    quick: QuickOption = False,
    json_file: JsonOption = None,
    model: str = "smollm2",
    agents: Positive = 12,
    many_agents: Annotated[int, Parameter(validator=Number(gte=8))] = 200,
    threads: OptionalPositive = None,
) -> None:
    """Measure the time per step spent outside the engine call.

    Twelve agents on a real model, and 200 on an engine that computes nothing and takes the time measured
    on the real one. Example: stepwell bench overhead

    Parameters
    ----------
    model
        smollm2, gemma3 or the path of a GGUF file.
    agents
        Agents on the real model.
    many_agents
        Agents on the null engine.
    threads
        Threads of the engine (default: the cores there are).
    """
    real = OverheadCase(f"{agents} agents, {model}", agents, 3, 300, 20, 24, 64 * (16 + 3 * agents))
    many = OverheadCase(
        f"{many_agents} agents, null engine", many_agents, 3, 1_000, 40, 24, 1_000 * many_agents // 4
    )
    if quick:
        real = replace(real, turns=2, prompt_tokens=100, output_tokens=8, device_kv_tokens=64 * (8 + agents))
        many = replace(many, turns=2, prompt_tokens=200, output_tokens=8, device_kv_tokens=50 * many_agents)
    settings = {
        "model": model,
        "threads": threads or usable_cores(),
        "real": _plain(real),
        "many": _plain(many),
    }
    report = Report("overhead", settings)
    with ticker() as progress:
        spent, costs = _on_the_model(real, model, threads, progress)
        report.settings["costs_of_the_null_engine"] = costs
        found = [spent, _on_the_null_engine(many, costs, progress)]
    for one in found:
        report.results[one.case.name] = one.as_json()
        report.samples.append(
            {"case": one.case.name, "outside_us": one.outside_us, "outside_share": one.shares}
        )
    report.verdicts = verdicts(found)
    console = report_console(json_file)
    console.print(_table(found))
    report.finish(console, json_file)


def verdicts(found: Sequence[OverheadSpent]) -> list[Verdict]:
    limits = (LIMIT_REAL, LIMIT_MANY)
    return [
        Verdict(f"{one.case.name}: share of step time outside the engine call", one.outside, limit)
        for one, limit in zip(found, limits, strict=True)
    ]


def _plain(case: OverheadCase) -> dict[str, Any]:
    return {name: getattr(case, name) for name in OverheadCase.__slots__}


# --- driving ----------------------------------------------------------------------------------


def _on_the_model(
    case: OverheadCase, model: str, threads: int | None, progress: Ticker
) -> tuple[OverheadSpent, dict[str, int]]:
    engine, text = load_engine(model, device_kv_tokens=case.device_kv_tokens, threads=threads)
    costs = NULL_COSTS if model == NULL_MODEL else measure_costs(engine, text, progress)
    with driver_for(engine, text, host_bytes=HOST_BYTES) as driver:
        return run_case(case, driver, text, progress), costs


def _on_the_null_engine(case: OverheadCase, costs: dict[str, int], progress: Ticker) -> OverheadSpent:
    clock = SkippingClock()
    config = NullConfig(
        device_blocks=case.device_kv_tokens // 64,
        prefill_us_per_token=costs["prefill_us_per_token"],
        decode_us_per_step=costs["decode_us_per_step"],
        decode_us_per_sequence=costs["decode_us_per_sequence"],
        copy_us_per_block=costs["copy_us_per_block"],
    )
    engine = NullEngine(config, clock)
    with driver_for(engine, NullText(engine.info), host_bytes=HOST_BYTES, clock=clock) as driver:
        return run_case(case, driver, NullText(engine.info), progress)


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


def run_case(case: OverheadCase, driver: Driver, text: TextModel, progress: Ticker) -> OverheadSpent:
    """All turns of all agents; every turn of everybody is queued at once, as a busy server has it."""
    progress.phase(case.name, case.turns)
    spent = OverheadSpent(case)
    contexts = [_prompt(text, number, case.prompt_tokens) for number in range(case.agents)]
    with _stopwatch(driver) as watch:
        for turn in range(case.turns):
            logs = [TurnLog() for _ in contexts]
            for number, (context, log) in enumerate(zip(contexts, logs, strict=True)):
                driver.submit(turn_of(context, case.output_tokens, f"agent-{number}"), log)
            while not all(log.finished for log in logs):
                _timed_step(driver, watch, spent)
            for number, log in enumerate(logs):
                added = _prompt(text, 1_000 * (turn + 1) + number, case.added_tokens)
                contexts[number] = [*contexts[number], *log.tokens, *added]
            progress.advance()
    return spent


def _timed_step(driver: Driver, watch: _Stopwatch, spent: OverheadSpent) -> None:
    before = driver.snapshot().counters
    watch.policy_us = watch.moves_us = 0
    driver.step()
    after = driver.snapshot().counters
    if after["steps"] == before["steps"]:
        return  # nothing ran: waiting for a disk is not a step
    step_us = after["step_us"] - before["step_us"]
    run_us = after["engine_us"] - before["engine_us"]
    spent.steps += 1
    spent.step_s += step_us / 1e6
    spent.run_s += run_us / 1e6
    spent.policy_s += watch.policy_us / 1e6
    spent.moves_s += watch.moves_us / 1e6
    spent.outside_us.append(step_us - run_us)
    spent.shares.append(1 - run_us / step_us)


def _prompt(text: TextModel, number: int, tokens: int) -> list[int]:
    words = prose(random.Random(9_000 + number), tokens)
    return text.tokenize(f" {number}: {words}", add_bos=False, parse_special=False)[:tokens]


@dataclass(slots=True)
class _Stopwatch:
    policy_us: int = 0
    moves_us: int = 0


@contextmanager
def _stopwatch(driver: Driver) -> Iterator[_Stopwatch]:
    """Time the policy and the engine's calls besides ``run`` from outside, on this driver alone."""
    watch = _Stopwatch()

    def timed(call: Callable[..., Any], counter: str) -> Callable[..., Any]:
        def wrapper(*args: Any, **kwargs: Any) -> Any:
            started_us = driver.clock.now_us()
            try:
                return call(*args, **kwargs)
            finally:
                spent_us = driver.clock.now_us() - started_us
                setattr(watch, counter, getattr(watch, counter) + spent_us)

        return wrapper

    patched: list[tuple[object, str]] = [(driver.scheduler, "step")]
    patched += [(driver.engine, name) for name in ENGINE_CALLS]
    for owner, name in patched:
        counter = "policy_us" if owner is driver.scheduler else "moves_us"
        setattr(owner, name, timed(getattr(owner, name), counter))
    try:
        yield watch
    finally:
        for owner, name in patched:
            delattr(owner, name)


# --- what the model costs ---------------------------------------------------------------------


def measure_costs(engine: Engine, text: TextModel, progress: Ticker) -> dict[str, int]:
    """The null engine's cost model, measured on a real engine: prefill, decode alone and in a batch."""
    from stepwell.bench.engine.returns import Probe

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


def _table(found: Sequence[OverheadSpent]) -> Table:
    columns = ("", "steps", "outside", "policy", "moves", "driver, sinks", "us p50", "us p95")
    rows = []
    for one in found:
        figures = one.as_json()
        shares = [
            figures[key]
            for key in ("outside_share", "policy_share", "engine_moves_share", "driver_and_sinks_share")
        ]
        micros = [f"{figures[f'outside_us_per_step_{p}']:,.0f}" for p in ("p50", "p95")]
        rows.append([one.case.name, str(one.steps), *(f"{100 * share:.2f}%" for share in shares), *micros])
    return table("Step time outside the engine's run, as shares of all step time", columns, rows)
