"""``stepwell bench throughput``: decode through our whole loop against llama.cpp's own batched decode.

Both decode the same sequences at the same depth with the same library, alternating in short rounds so
that a busy moment of the machine hits both. Ours does everything it always does: policy, driver,
sampling chain, detokenising, sinks.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any, Protocol

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.this_machine import usable_cores
from stepwell.bench.harness import BenchRun, RealModelOption, ThreadsOption, bench, require_real
from stepwell.bench.node import TurnLog, driver_for, load_engine, turn_of
from stepwell.console.options import OptionalPositive
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.engines.models import resolve_model
from stepwell.engines.prose import prose
from stepwell.loop.driver import Driver

LIMIT_BATCH_RATIO = 0.95
COLUMNS = {
    "": "{case}",
    "stepwell": "{ours_tokens_per_s:.1f}",
    "bare llama.cpp loop": "{raw_tokens_per_s:.1f}",
    "ratio": "{ratio:.3f}",
}


@dataclass(frozen=True, slots=True)
class ThroughputCase:
    """What is decoded: how many sequences, how deep, and for how long."""

    name: str
    sequences: int
    exact_lone_decode: bool
    depth_tokens: int
    rounds: int
    steps_per_round: int

    @property
    def output_tokens(self) -> int:
        """Enough for a warm-up round and all others, and for what the first sequences write while the
        prompts of the last ones are still being computed."""
        prefill_steps = self.sequences * -(-self.depth_tokens // 128)
        return (self.rounds + 2) * self.steps_per_round + prefill_steps + 8

    @property
    def device_kv_tokens(self) -> int:
        return 64 * (self.sequences * -(-(self.depth_tokens + self.output_tokens) // 64) + 4)


@dataclass(slots=True)
class Speeds:
    """Tokens per second of every round, ours and the bare loop's."""

    case: ThroughputCase
    ours: list[float] = field(default_factory=list)
    raw: list[float] = field(default_factory=list)

    @property
    def ratio(self) -> float:
        """Median over the rounds of ours over the bare loop right beside it."""
        return median([ours / raw for ours, raw in zip(self.ours, self.raw, strict=True)])

    def as_json(self) -> dict[str, Any]:
        return {
            "sequences": self.case.sequences,
            "exact_lone_decode": self.case.exact_lone_decode,
            "ours_tokens_per_s": median(self.ours),
            "raw_tokens_per_s": median(self.raw),
            "ratio": self.ratio,
        }


@bench("throughput")
def main(
    run: BenchRun,
    *,
    model: RealModelOption = "smollm2",
    sequences: Annotated[int, Parameter(validator=Number(gte=1, lte=32))] = 12,
    depth_tokens: Annotated[int, Parameter(validator=Number(gte=8))] = 500,
    rounds: OptionalPositive = None,
    threads: ThreadsOption = None,
) -> None:
    """Decode through our whole loop against llama.cpp's own batched decode.

    Twelve sequences of about 500 tokens, in alternating rounds with a bare loop over the same library;
    then one sequence alone, with and without exact_lone_decode.

    Example: ``stepwell bench throughput --model gemma3``

    Parameters
    ----------
    sequences
        How many are decoded at once.
    depth_tokens
        How long each is when decoding begins.
    rounds
        Rounds of 8 steps each way (default 12; 3 with --quick).
    """
    require_real(model)
    rounds = rounds or (3 if run.quick else 12)
    depth_tokens = min(depth_tokens, 100) if run.quick else depth_tokens
    cases = [
        ThroughputCase(f"{sequences} sequences", sequences, True, depth_tokens, rounds, 8),
        ThroughputCase("alone, exact", 1, True, depth_tokens, rounds, 8),
        ThroughputCase("alone, not exact", 1, False, depth_tokens, rounds, 8),
    ]
    run.settings = {"model": model, "depth_tokens": depth_tokens, "rounds": rounds, "steps_per_round": 8}
    run.settings["threads"] = threads or usable_cores()
    found = [_measure(case, model, threads, run.progress) for case in cases]
    run.results = {one.case.name: one.as_json() for one in found}
    run.samples = [
        {"case": one.case.name, "ours_tokens_per_s": ours, "raw_tokens_per_s": raw}
        for one in found
        for ours, raw in zip(one.ours, one.raw, strict=True)
    ]
    run.verdicts = verdicts(found)
    run.notes = [f"{speeds.case.name}: {speeds.ratio:.3f} of the bare loop" for speeds in found[1:]]
    rows = [one.as_json() | {"case": one.case.name} for one in found]
    run.show(sheet("Decode, tokens per second (medians over rounds)", COLUMNS, rows))


def verdicts(found: list[Speeds]) -> list[Verdict]:
    """The target is about the batch; what exact_lone_decode costs is told beside it."""
    batch = found[0]
    text = f"decode of {batch.case.sequences} sequences, against llama.cpp's own batched decode"
    return [Verdict(text, batch.ratio, LIMIT_BATCH_RATIO, "x", at_most=False)]


def prompts_for(case: ThroughputCase, tokenize: Callable[[str], list[int]]) -> list[list[int]]:
    """One prompt per sequence, all different from their first word on."""
    made = []
    for number in range(case.sequences):
        words = prose(random.Random(4_000 + number), case.depth_tokens + 40)
        tokens = tokenize(f"Agent {number}. {words}")
        made.append(tokens[: case.depth_tokens])
    return made


def _measure(case: ThroughputCase, model: str, threads: int | None, progress: Ticker) -> Speeds:
    progress.phase(f"{model}: {case.name}, filling the caches")
    engine, text = load_engine(
        model,
        device_kv_tokens=case.device_kv_tokens,
        threads=threads,
        exact_lone_decode=case.exact_lone_decode,
    )
    prompts = prompts_for(case, lambda words: text.tokenize(words, add_bos=True, parse_special=False))
    with driver_for(engine, text, host_bytes=0, reserve_tokens=case.output_tokens) as driver:
        ours = _Ours(driver, case, prompts)
        raw = _Raw(resolve_model(model).path, case, prompts, threads)
        try:
            return _alternate(case, ours, raw, progress, model)
        finally:
            raw.close()


def _alternate(case: ThroughputCase, ours: _Ours, raw: _Raw, progress: Ticker, model: str) -> Speeds:
    speeds = Speeds(case)
    tokens = case.sequences * case.steps_per_round
    progress.phase(f"{model}: {case.name}", case.rounds + 1)
    for number in range(case.rounds + 1):
        # Which goes first changes, so that what one leaves in the processor's caches helps both alike.
        arms: list[_Arm] = [ours, raw] if number % 2 else [raw, ours]
        rates = {arm: tokens / _seconds(arm, case.steps_per_round) for arm in arms}
        if number:  # the first round warms up
            speeds.ours.append(rates[ours])
            speeds.raw.append(rates[raw])
        progress.advance()
    return speeds


def _seconds(arm: _Arm, steps: int) -> float:
    started = time.perf_counter()
    for _ in range(steps):
        arm.step()
    return time.perf_counter() - started


class _Arm(Protocol):
    def step(self) -> None: ...


class _Ours:
    """Our driver, stepped by hand, with every sequence past its prompt."""

    def __init__(self, driver: Driver, case: ThroughputCase, prompts: list[list[int]]) -> None:
        self._driver = driver
        self._logs = [TurnLog() for _ in prompts]
        self._expected = case.sequences
        for number, (prompt, log) in enumerate(zip(prompts, self._logs, strict=True)):
            driver.submit(turn_of(prompt, case.output_tokens, f"agent-{number}"), log)
        while not all(log.tokens for log in self._logs):
            driver.step()

    def step(self) -> None:
        before = self._generated()
        self._driver.step()
        gained = self._generated() - before
        assert gained == self._expected, f"a step gave {gained} tokens, not {self._expected}"

    def _generated(self) -> int:
        return sum(len(log.tokens) for log in self._logs)


class _Raw:
    """The bare loop over the same library."""

    def __init__(
        self, path: Path, case: ThroughputCase, prompts: list[list[int]], threads: int | None
    ) -> None:
        from stepwell.bench.engine.raw_llamacpp import RawLlama

        self._llama = RawLlama(path, n_cells=case.device_kv_tokens, threads=threads)
        self._last = [self._llama.prefill(number, prompt) for number, prompt in enumerate(prompts)]
        self._position = [len(prompt) for prompt in prompts]

    def step(self) -> None:
        positions, last = self._position, self._last
        self._llama.decode([(i, positions[i], last[i], True) for i in range(len(last))])
        for i in range(len(last)):
            last[i] = self._llama.sample(i)
            positions[i] += 1

    def close(self) -> None:
        self._llama.close()
