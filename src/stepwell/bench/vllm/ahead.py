"""What a returning agent waits for on vLLM: its KV lies on disk, or has come up before the agent.

More agents than host memory holds take turns one after the other; each says with its turn when it will be
back, and is. Between two turns the server has nothing to do. Two servers that differ in nothing but the tier
that fetches ahead of use; both begin with an empty disk.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx2
from rich.table import Table

from stepwell.basics.quantiles import percentile
from stepwell.bench.client import TurnSample, complete
from stepwell.bench.scraped import scraped
from stepwell.bench.servers import ServerArm, running
from stepwell.bench.vllm.arms import OURS, VARIABLES, VllmPlan
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.errors import StepwellError
from stepwell.vllm.waking import VARIABLE

AHEAD, ON_DEMAND = "fetched ahead of use", "read when the turn comes"
READY_S = 900.0
_TIER = "StepwellAhead"


COUNTED = ("from_host", "from_disk", "promoted", "used", "wasted")
RETURNED = {
    "server": "{name}",
    "TTFT p50, later": "{ttft_p50_s:.3f} s",
    "p95": "{ttft_p95_s:.3f} s",
    "tokens found on the host": "{from_host:,.0f}",
    "on disk": "{from_disk:,.0f}",
    "blocks fetched ahead": "{promoted:,.0f}",
    "used": "{used:,.0f}",
    "wasted": "{wasted:,.0f}",
}


@dataclass(frozen=True, slots=True)
class Returning:
    """The workload."""

    agents: int = 8
    turns: int = 5
    words: int = 420
    output_tokens: int = 4
    gap_s: float = 1.0
    """From one agent's answer to the next one's turn; an agent is back after ``agents`` of them, about."""


QUICK = Returning(agents=6, turns=3, words=60)


@dataclass(slots=True)
class AheadRow:
    """One server."""

    name: str
    samples: list[TurnSample] = field(default_factory=list)
    counters: dict[str, float] = field(default_factory=dict)
    error: str | None = None

    @property
    def back(self) -> list[float]:
        """Times to the first token of turns after the first."""
        return [one.ttft_s for one in self.samples if one.turn]

    @property
    def usable(self) -> bool:
        return self.error is None and bool(self.back)

    def as_json(self) -> dict[str, Any]:
        times = {f"ttft_p{n}_s": percentile(self.back, n) if self.usable else None for n in (50, 95)}
        return {"name": self.name, "error": self.error, **times, **dict.fromkeys(COUNTED, 0), **self.counters}


def measure_ahead(plan: VllmPlan, quick: bool, progress: Ticker) -> list[AheadRow]:
    work, rows = QUICK if quick else Returning(), []
    for name in (ON_DEMAND, AHEAD):
        row = AheadRow(name)
        rows.append(row)
        progress.phase(f"{name}: starting, then {work.agents * work.turns} turns")
        with tempfile.TemporaryDirectory(prefix="stepwell-bench-") as folder:
            arm = _arm(plan, name, Path(folder))
            try:
                with running(arm, READY_S, {**VARIABLES, VARIABLE: folder}):
                    _measure(arm, plan, work, row, progress)
            except (StepwellError, httpx2.HTTPError) as error:
                row.error = f"{type(error).__name__}: {error}"
    return rows


def _arm(plan: VllmPlan, name: str, folder: Path) -> ServerArm:
    arm = plan.arm(OURS, folder)
    command = list(arm.command)
    at = command.index("--kv-transfer-config") + 1
    transfer = json.loads(command[at])
    tiers = transfer["kv_connector_extra_config"]["secondary_tiers"]
    kept = [tier for tier in tiers if name == AHEAD or tier["type"] != _TIER]
    transfer["kv_connector_extra_config"]["secondary_tiers"] = kept
    command[at] = json.dumps(transfer)
    return ServerArm(name, tuple(command), arm.port, arm.is_ours, arm.device_kv_tokens)


def _measure(arm: ServerArm, plan: VllmPlan, work: Returning, row: AheadRow, progress: Ticker) -> None:
    model, began = plan.model.resolve().name, time.perf_counter()
    with httpx2.Client(base_url=arm.base_url, timeout=600, trust_env=False) as http:
        complete(http, model, "Warm-up.", 2, "warm-up-0")
        before = _counted(http)
        for turn in range(work.turns):
            for agent in range(work.agents):
                time.sleep(work.gap_s)
                back_ms = round(1000 * work.gap_s * work.agents)
                headers = {"X-Agent-ID": "main", "X-Agent-Next": f"tool; expected_ms={back_ms}"}
                sample = complete(
                    http,
                    model,
                    prompt_of(work, agent, turn),
                    work.output_tokens,
                    f"agent-{agent}",
                    turn=turn,
                    began_s=began,
                    headers=headers,
                )
                row.samples.append(sample)
                row.error = row.error or (f"a turn failed: {sample.error}" if sample.error else None)
                progress.advance()
        after = _counted(http)
    row.counters = {name: value - before.get(name, 0) for name, value in after.items()}


def prompt_of(work: Returning, agent: int, turn: int) -> str:
    """What the agent has said until now: a document of its own, and a line for each turn."""
    words = " ".join(f"w{(agent * 7_919 + n * 31) % 9_973}" for n in range(work.words // 2))
    return f"Agent {agent} reads: {words}" + "".join(f" Question {n} of {agent}." for n in range(turn + 1))


def _counted(http: httpx2.Client) -> dict[str, float]:
    """Prompt tokens by where they were found, and blocks that came up ahead."""
    found: dict[str, float] = {}
    for one in scraped(http):
        name, source = one.name.removeprefix("vllm:"), one.labels.get("source")
        if name == "prompt_tokens_cached_by_source_total" and source in ("host", "disk"):
            kind = f"from_{source}"
        elif name.startswith("kv_offload_ahead_") and not name.endswith("_created"):
            kind = name.removeprefix("kv_offload_ahead_").removesuffix("_total").removesuffix("_blocks")
        else:
            continue
        found[kind] = found.get(kind, 0) + one.value
    return found


def ahead_table(rows: list[AheadRow]) -> Iterator[Table]:
    if rows:
        yield sheet(
            "Agents that come back when they said, on vLLM", RETURNED, [one.as_json() for one in rows]
        )


def ahead_verdict(rows: list[AheadRow]) -> list[Verdict]:
    by_name = {one.name: one for one in rows if one.usable}
    if not rows:
        return []
    demand, ahead = by_name.get(ON_DEMAND), by_name.get(AHEAD)
    both = demand is not None and ahead is not None
    ratio = percentile(ahead.back, 50) / percentile(demand.back, 50) if both and demand and ahead else None
    used = None
    if ahead is not None and (promoted := ahead.counters.get("promoted", 0)):
        used = ahead.counters.get("wasted", 0) / promoted
    return [
        Verdict("TTFT p50 of returning agents, fetched ahead against read on demand", ratio, 1.0, "x"),
        Verdict("of the blocks fetched ahead: gone unused", used, 0.5, ""),
    ]
