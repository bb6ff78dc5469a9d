"""``stepwell bench vllm``: many agents on vLLM with a quarter of the KV they want, stock and with our parts.

One server after the other does the pressure workload; then one client takes turns one by one on stock vLLM
with room for all and on ours with little, and every token is compared; then a tenant that has paid takes its
turns beside a flood, on vLLM's own priorities and on ours; then agents come back when they said.
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import httpx2
from rich.table import Table

from stepwell.bench.client import ClientsFigures, TurnSample, complete, run_clients, warm_up
from stepwell.bench.harness import BenchRun, bench, words_of
from stepwell.bench.servers import running
from stepwell.bench.vllm.ahead import AheadRow, ahead_table, ahead_verdict, measure_ahead
from stepwell.bench.vllm.arms import ARMS, BLOCK_TOKENS, OURS, OURS_ROOMY, ROOMY, STOCK, VARIABLES, VllmPlan
from stepwell.bench.vllm.flood import FloodRow, measure_flood
from stepwell.bench.workload import Pressure
from stepwell.console.options import (
    OptionalPositive,
    Positive,
    size_bytes,
)
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.errors import StepwellError
from stepwell.vllm.install import examine_model, require_vllm

READY_S = 900.0
FULL = Pressure(clients=2)
QUICK = Pressure(agents=16, turns=3, clients=2, document_words=120, role_words=120, output_tokens=8)
EXACT_TURNS = 200
PRESSED = {
    "server": "{name}",
    "device KV": "{device_kv_tokens:,}",
    "total": "{total_s:.1f} s",
    "TTFT p50, later": "{ttft_p50_s:.2f} s",
    "p95": "{ttft_p95_s:.2f} s",
    "computed": "{computed_prompt_tokens:,}",
    "of tokens": "{prompt_tokens:,}",
}
EXACT = {
    "turns": "{turns:,}",
    "different answers": "{different:,}",
    "prompt tokens": "{prompt_tokens:,}",
    "computed by stock": "{computed_stock:,}",
    "computed by ours": "{computed_ours:,}",
}
FLOODED = {
    "server": "{name}",
    "TTFT p50 alone": "{ttft_alone_p50_s:.2f} s",
    "under the flood": "{ttft_flooded_p50_s:.2f} s",
    "times": "{times:.2f}x",
    "p95 under the flood": "{ttft_flooded_p95_s:.2f} s",
    "preempted": "{preempted:.0f}",
}
Part = Literal["all", "pressure", "exactness", "flood", "ahead"]


@dataclass(slots=True)
class VllmArm(ClientsFigures):
    """What one server did with the pressure workload."""

    name: str
    device_kv_tokens: int
    samples: list[TurnSample] = field(default_factory=list)
    total_s: float = 0.0
    prefill_tokens_per_s: float = 0.0
    """Of the warm-up request alone: whether the machine was as quick for all."""
    error: str | None = None

    def as_json(self) -> dict[str, Any]:
        usable = self.usable
        return {
            "name": self.name,
            "device_kv_tokens": self.device_kv_tokens,
            "error": self.failure,
            "prefill_tokens_per_s": self.prefill_tokens_per_s,
            "ttft_p50_s": self.ttft_s(50) if usable else None,
            "ttft_p95_s": self.ttft_s(95) if usable else None,
            "total_s": self.total_s if usable else None,
            "prompt_tokens": sum(one.prompt_tokens for one in self.samples) if usable else None,
            "computed_prompt_tokens": self.computed_tokens if usable else None,
        }


@bench("vllm")
def main(
    run: BenchRun,
    *,
    model: Path,
    part: Part = "all",
    arms: str | None = None,
    everybody_tokens: OptionalPositive = None,
    host_kv: str = "2GiB",
    disk_kv: str = "4GiB",
    context_tokens: OptionalPositive = None,
    dtype: str = "bfloat16",
    exact_turns: Positive = EXACT_TURNS,
) -> None:
    """Run many agents on vLLM with a quarter of the KV they want: stock, its own offloading, and ours.

    Needs an environment with vLLM (make test-vllm makes one) and a folder that vLLM loads. One server after
    the other; each takes a minute to start on a CPU. Also: are all tokens the same as stock's, and what does
    a tenant that has paid feel of a flood, with vLLM's own priorities and with service tiers.

    Example: ``stepwell bench vllm --model models/gemma3 --quick``

    Parameters
    ----------
    model
        The folder: stepwell vllm convert gemma3 models/gemma3
    part
        Only one of the four measurements. For ahead, --host-kv has to be less than all agents want.
    arms
        Which servers do the pressure workload, comma separated (default: all six).
    everybody_tokens
        Device KV of the servers that have room for all; the others have a quarter of it.
    host_kv
        Host memory for KV, where there is any.
    disk_kv
        Bound of our KV on disk.
    context_tokens
        Longest context (--max-model-len), which the few blocks must hold (default: 1984, with --quick 960).
    dtype
        Type of weights and KV.
    exact_turns
        Turns whose tokens are compared.
    """
    version = require_vllm()
    found = examine_model(model)
    chosen = ARMS if arms is None else words_of("--arms", arms, ARMS)
    workload, quick = QUICK if run.quick else FULL, run.quick
    roomy_blocks = (everybody_tokens or (4_096 if quick else 8_192)) // BLOCK_TOKENS
    plan = VllmPlan(
        model, context_tokens or (960 if quick else 1_984), roomy_blocks, roomy_blocks // 4,
        size_bytes("--host-kv", host_kv), size_bytes("--disk-kv", disk_kv), workload.clients, dtype,
    )  # fmt: skip
    results = _pressure(plan, workload, chosen, run.progress) if part in ("all", "pressure") else []
    exact = _exactness(plan, exact_turns, run.progress) if part in ("all", "exactness") else None
    floods = measure_flood(plan, quick, run.progress) if part in ("all", "flood") else []
    ahead = measure_ahead(plan, quick, run.progress) if part in ("all", "ahead") else []
    run.settings = {"workload": asdict(workload), **asdict(plan), "vllm": version}
    run.settings |= {"model": model.resolve().name, "architecture": found["architecture"]}
    _fill(run, results, exact, floods, ahead)


def _fill(
    run: BenchRun,
    results: list[VllmArm],
    exact: dict[str, Any] | None,
    floods: list[FloodRow],
    ahead: list[AheadRow],
) -> None:
    """Figures, samples, verdicts, notes and tables of what was measured."""
    run.results = {
        "arms": [one.as_json() for one in results],
        "exactness": exact,
        "flood": [one.as_json() for one in floods],
        "ahead": [one.as_json() for one in ahead],
    }
    run.samples = [{"arm": one.name, **s.as_json()} for one in results for s in one.samples]
    run.verdicts = [
        *_verdicts(results),
        *_exact_verdict(exact),
        *_flood_verdict(floods),
        *ahead_verdict(ahead),
    ]
    run.notes = [f"{one.name}: {one.failure}" for one in results if one.failure]
    run.notes += [f"{one.name}: {one.error}" for one in floods if one.error]
    run.notes += [f"{one.name}: {one.error}" for one in ahead if one.error]
    if exact is not None and "error" in exact:
        run.notes.append(f"answers against stock's: {exact['error']}")
    run.show(*_tables(results, exact, floods), *ahead_table(ahead))


# --- pressure ---------------------------------------------------------------------------------


def _pressure(plan: VllmPlan, workload: Pressure, names: Sequence[str], progress: Ticker) -> list[VllmArm]:
    results = []
    for name in names:
        with tempfile.TemporaryDirectory(prefix="stepwell-bench-vllm-") as folder:
            arm = plan.arm(name, Path(folder))
            result = VllmArm(name, arm.device_kv_tokens)
            results.append(result)
            progress.phase(f"{name}: starting, then {workload.agents * workload.turns} turns")
            try:
                with running(arm, READY_S, VARIABLES):
                    _run(arm.base_url, plan, workload, result, progress)
            except (StepwellError, httpx2.HTTPError) as error:
                result.error = f"{type(error).__name__}: {error}"
    return results


def _run(url: str, plan: VllmPlan, workload: Pressure, result: VllmArm, progress: Ticker) -> None:
    name = plan.model.resolve().name
    with httpx2.Client(base_url=url, timeout=600, trust_env=False) as http:
        complete(http, name, "Warm-up.", 2, "warm-up-0")  # it pays for what is loaded late
        result.prefill_tokens_per_s = warm_up(http, name, workload)
    result.samples, result.total_s = run_clients(url, name, workload, lambda sample: progress.advance())


def _verdicts(results: Sequence[VllmArm]) -> list[Verdict]:
    if not results:
        return []
    by_name = {one.name: one for one in results if one.usable}
    roomy, stock, ours, ours_roomy = (by_name.get(name) for name in (ROOMY, STOCK, OURS, OURS_ROOMY))
    total, ttft = _over(ours, roomy, "total_s"), _over(ours, stock, "ttft_p50_s")
    return [
        Verdict("a quarter of the KV: total, against stock with room for all", total, 1.1, "x"),
        Verdict("a quarter of the KV: TTFT p50 after the first turn, of stock's", ttft, 1 / 3, "x"),
        Verdict("room for all: total, against stock", _over(ours_roomy, roomy, "total_s"), 1.1, "x"),
    ]


def _over(ours: VllmArm | None, theirs: VllmArm | None, figure: str) -> float | None:
    return None if ours is None or theirs is None else ours.as_json()[figure] / theirs.as_json()[figure]


# --- exactness --------------------------------------------------------------------------------


def _exactness(plan: VllmPlan, turns: int, progress: Ticker) -> dict[str, Any]:
    """One client, one request at a time, so that both compute every token in the same batch."""
    agents = max(1, turns // 8)
    workload = Pressure(
        agents=agents, turns=-(-turns // agents), clients=1, document_words=60, role_words=60, output_tokens=8
    )
    alone = replace(plan, at_once=1)
    stock, ours = _pressure(alone, workload, (ROOMY, OURS), progress)
    if not (stock.usable and ours.usable):
        failed = next((one.failure for one in (stock, ours) if one.failure), "no turns")
        return {"turns": 0, "different": None, "error": failed}
    pairs = list(zip(stock.samples, ours.samples, strict=True))
    return {
        "turns": len(pairs),
        "different": sum(one.text != other.text for one, other in pairs),
        "computed_stock": stock.computed_tokens,
        "computed_ours": ours.computed_tokens,
        "prompt_tokens": sum(one.prompt_tokens for one in ours.samples),
    }


def _exact_verdict(exact: dict[str, Any] | None) -> list[Verdict]:
    if exact is None:
        return []
    name = f"answers that differ from stock's, of {exact['turns']} turns"
    return [Verdict(name, exact["different"], 0)]


# --- the report -------------------------------------------------------------------------------


def _flood_verdict(floods: Sequence[FloodRow]) -> list[Verdict]:
    by_name = {one.name: one for one in floods if one.usable}
    stock, ours = by_name.get("stock, --scheduling-policy priority"), by_name.get("stepwell")
    if not floods:
        return []
    ratio = None if stock is None or ours is None else ours.times / stock.times
    return [
        Verdict("paid turns under a flood: what the flood costs, against stock's priorities", ratio, 1.0, "x")
    ]


def _tables(
    results: Sequence[VllmArm], exact: dict[str, Any] | None, floods: Sequence[FloodRow]
) -> Iterator[Table]:
    if results:
        yield sheet("Agents under pressure on vLLM", PRESSED, [one.as_json() for one in results])
    if exact is not None and exact["turns"]:
        yield sheet("Answers against stock with room for all", EXACT, [exact])
    if floods:
        yield sheet("Paid turns beside a flood, on vLLM", FLOODED, [one.as_json() for one in floods])
