"""A tenant that has paid beside a flood of those who have not, on vLLM: its priorities, and service tiers."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx2

from stepwell.basics.quantiles import percentile
from stepwell.bench.client import TurnSample
from stepwell.bench.scraped import scraped
from stepwell.bench.server.flood import FloodTarget, Neighbours, paid_turns
from stepwell.bench.servers import ServerArm, free_port, running
from stepwell.bench.vllm.arms import OURS_ROOMY, ROOMY, VARIABLES, VllmPlan, stock_command
from stepwell.console.progress import Ticker
from stepwell.errors import StepwellError
from stepwell.vllm.command_line import command_line, transfer_config

READY_S = 900.0
FULL = Neighbours(turns=4, opening_words=250, turn_words=60, output_tokens=16, flood_words=120, flood_s=120.0)
QUICK = Neighbours(
    agents=3, turns=3, opening_words=60, turn_words=10, output_tokens=8, think_s=(0.2, 0.6), flood_agents=6,
    flood_outstanding=12, flood_words=40, flood_turn_words=10, flood_turns=3, flood_output_tokens=8,
    settle_s=2.0, flood_s=60.0,
)  # fmt: skip
"""Fits 960 tokens of context where a token is a byte, as with ``stepwell vllm convert random``."""
KEYS = """
[[keys]]
key = "sk-bench-priority"
tenant = "bench-priority"
service_tiers = ["priority"]
[[keys]]
key = "sk-bench-flex"
tenant = "bench-flex"
service_tiers = ["flex"]
"""
ARRIVALS_PER_S = 4.0


class ByHeader(FloodTarget):
    """Stock vLLM: a client says itself how heavy it is."""

    def client(self, key: str | None) -> httpx2.Client:
        headers = {"X-Vllm-Priority": key or "0"}
        return httpx2.Client(base_url=self.base_url, headers=headers, timeout=600, trust_env=False)


@dataclass(slots=True)
class FloodRow:
    """One server."""

    name: str
    alone: list[TurnSample] = field(default_factory=list)
    flooded: list[TurnSample] = field(default_factory=list)
    flood: list[TurnSample] = field(default_factory=list)
    preempted: float = 0.0
    error: str | None = None

    @property
    def turns(self) -> list[TurnSample]:
        """The paid ones."""
        return [*self.alone, *self.flooded]

    @property
    def usable(self) -> bool:
        return self.error is None and bool(self.alone and self.flooded)

    @property
    def times(self) -> float:
        return _ttft(self.flooded, 50) / _ttft(self.alone, 50)

    def as_json(self) -> dict[str, Any]:
        usable = self.usable
        return {
            "name": self.name,
            "error": self.error,
            "ttft_alone_p50_s": _ttft(self.alone, 50) if usable else None,
            "ttft_flooded_p50_s": _ttft(self.flooded, 50) if usable else None,
            "ttft_flooded_p95_s": _ttft(self.flooded, 95) if usable else None,
            "times": self.times if usable else None,
            "flood_turns": len(self.flood),
            "flood_refused": sum(one.error is not None for one in self.flood),
            "preempted": self.preempted if usable else None,
        }


def _ttft(samples: list[TurnSample], percent: int) -> float:
    return percentile([one.ttft_s for one in samples], percent)


def measure_flood(plan: VllmPlan, quick: bool, progress: Ticker) -> list[FloodRow]:
    """Both servers have room for all KV: what is measured is which goes first."""
    work, rows = QUICK if quick else FULL, []
    few = replace(plan, at_once=4)
    with tempfile.TemporaryDirectory(prefix="stepwell-bench-vllm-") as folder:
        config = Path(folder) / "stepwell.toml"
        config.write_text(KEYS, encoding="utf-8")
        for arm, target in _arms(few, Path(folder)):
            row = FloodRow(arm.name)
            rows.append(row)
            progress.phase(f"{arm.name}: starting, then paid turns alone and under a flood")
            try:
                with running(arm, READY_S, {**VARIABLES, "STEPWELL_CONFIG": str(config)}):
                    _measure(target, work, row)
                    row.preempted = _preempted(arm)
            except (StepwellError, httpx2.HTTPError) as error:
                row.error = f"{type(error).__name__}: {error}"
    return rows


def _arms(plan: VllmPlan, folder: Path) -> Iterator[tuple[ServerArm, FloodTarget]]:
    model, name = plan.model, plan.model.resolve().name
    port = free_port()
    flags = [*plan.flags(ROOMY), "--scheduling-policy", "priority"]
    stock = tuple(stock_command(model, port, None, flags))
    arm = ServerArm("stock, --scheduling-policy priority", stock, port, False, 0)
    yield arm, ByHeader(arm.base_url, name, "0", "2")
    port = free_port()
    transfer = transfer_config(plan.host_bytes, 0, folder)
    ours = tuple(command_line(model, "127.0.0.1", port, transfer, plan.flags(OURS_ROOMY)))
    arm = ServerArm("stepwell", ours, port, False, 0)
    yield arm, FloodTarget(arm.base_url, name, "sk-bench-priority", "sk-bench-flex")


def _measure(target: FloodTarget, work: Neighbours, row: FloodRow) -> None:
    row.alone = paid_turns(target, work, "alone").turns
    flooded = paid_turns(target, work, "flooded", ARRIVALS_PER_S)
    row.flooded, row.flood = flooded.turns, flooded.flood
    row.error = next((f"a paid turn failed: {one.error}" for one in row.turns if one.error), None)


def _preempted(arm: ServerArm) -> float:
    with httpx2.Client(base_url=arm.base_url, timeout=60, trust_env=False) as http:
        return sum(one.value for one in scraped(http) if one.name == "vllm:num_preemptions_total")
