"""The figures of one run of a fleet."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from fractions import Fraction
from statistics import fmean
from typing import Any

from stepwell.policy.types import KvTier
from stepwell.simulate.books import Money
from stepwell.simulate.cluster import Cluster
from stepwell.simulate.meter import ROUTES, SimulatedMeter, TurnTimes
from stepwell.simulate.report import (
    Latency,
    TierFigures,
    latency,
    session_times,
    tier_figures,
    was_refused,
)


@dataclass(frozen=True, slots=True)
class Means:
    """Means over all turns that were answered, in milliseconds; TPOT over those with a second token."""

    ttft_ms: float
    tpot_ms: float
    e2e_ms: float


@dataclass(frozen=True, slots=True)
class FleetReport:
    """A whole fleet. Seconds are those of the modelled machines."""

    replicas: int
    router: str
    policy: str
    turns: int
    refused: int
    sent_again: int
    """Turns that a fault cut off, or that no replica took at first."""
    elapsed_s: float
    busy_share: float
    """Of all replicas' time, that in which a batch ran."""
    means: Means
    ttft: Latency
    tpot: Latency
    e2e: Latency
    sessions: Latency
    tiers: tuple[TierFigures, ...]
    prompt_tokens: int
    generated_tokens: int
    tokens_from: dict[str, int]
    again_tokens: int
    computed_tokens: int
    bytes_moved: dict[str, int]
    preemptions: int
    steps: int
    money: Money | None
    cpu_s: float = field(compare=False)
    """What the simulation itself took."""

    @property
    def hit_share(self) -> float:
        """Of prompt tokens, those found in a KV tier."""
        return sum(self.tokens_from.values()) / max(1, self.prompt_tokens)

    @property
    def usd_per_1000_turns(self) -> Fraction | None:
        """The whole bill, with idle time; None without books."""
        return None if self.money is None else 1000 * self.money.cost_usd / max(1, self.turns - self.refused)

    def as_json(self) -> dict[str, Any]:
        extra = {
            "hit_share": self.hit_share,
            "usd_per_1000_turns": self.usd_per_1000_turns,
            "requests_per_cpu_s": self.turns / self.cpu_s if self.cpu_s else None,
        }
        shown: dict[str, Any] = plain(asdict(self) | extra)
        return shown


def plain(value: Any) -> Any:
    """For JSON: money, which is exact inside, as numbers."""
    if isinstance(value, dict):
        return {key: plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [plain(one) for one in value]
    return float(value) if isinstance(value, Fraction) else value


def fleet_report(cluster: Cluster, cpu_s: float, money: Money | None) -> FleetReport:
    """Read the meters of a cluster that has come to rest."""
    machines = [machine for machine, _ in cluster.lives()]
    meters = [machine.meter for machine in machines]
    turns = [turn for meter in meters for turn in meter.turns.values()]
    answered = [turn for turn in turns if turn.reason == "stop"]
    ttft = [t.ttft_us for t in answered if t.ttft_us is not None]
    tpot = [t.tpot_us for t in answered if t.tpot_us is not None]
    e2e = [t.done_us for t in answered if t.done_us is not None]
    elapsed_us = max((machine.now_us for machine in machines), default=0)
    busy_us = sum(m.busy_us for m in meters)
    return FleetReport(
        replicas=len(cluster.replicas),
        router=cluster.router.name,
        policy=cluster.site.config.eviction,
        turns=len(turns),
        refused=sum(1 for turn in turns if was_refused(turn)),
        sent_again=cluster.retried,
        elapsed_s=elapsed_us / 1e6,
        busy_share=busy_us / max(1, elapsed_us * len(cluster.replicas)),
        means=Means(_mean_ms(ttft), _mean_ms(tpot), _mean_ms(e2e)),
        ttft=latency(ttft),
        tpot=latency([round(us) for us in tpot]),
        e2e=latency(e2e),
        sessions=latency(session_times(turns)),
        tiers=tuple(tier_figures(c, turns) for c in cluster.site.config.contracts),
        prompt_tokens=sum(t.prompt_tokens for t in turns),
        generated_tokens=sum(t.new_tokens for t in turns),
        tokens_from={tier.value: sum(m.tokens_from[tier] for m in meters) for tier in KvTier},
        again_tokens=sum(m.again_tokens for m in meters),
        computed_tokens=sum(m.prefill_tokens + m.decode_tokens for m in meters),
        bytes_moved=_moved(meters),
        preemptions=sum(m.preemptions for m in meters),
        steps=sum(machine.steps for machine in machines),
        money=money,
        cpu_s=cpu_s,
    )


def _mean_ms(values_us: Sequence[float]) -> float:
    return fmean(values_us) / 1e3 if values_us else 0.0


def _moved(meters: Sequence[SimulatedMeter]) -> dict[str, int]:
    return {route: sum(meter.bytes_moved[route] for meter in meters) for route in ROUTES}


def answered_turns(cluster: Cluster) -> list[TurnTimes]:
    """Turns with an answer, of all replicas."""
    return [t for machine, _ in cluster.lives() for t in machine.meter.turns.values() if t.reason == "stop"]
