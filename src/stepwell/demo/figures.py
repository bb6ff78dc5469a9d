"""From records to figures: per service tier, per run, and one run against the other.

``DemoFigures`` is what ``--json`` writes. ``schema`` names the shape; it changes whenever a reader
of the old shape would go wrong. Times are seconds, sizes bytes, lengths tokens.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import msgspec

from stepwell.basics.quantiles import percentile
from stepwell.demo.books import LedgerFigures
from stepwell.demo.record import (
    KV_TIERS,
    AgentSample,
    Capacity,
    CheckedAnswer,
    DemoCustomer,
    DemoRun,
    DemoTurn,
)

SCHEMA = "stepwell.demo/3"
ALL = "all"
SPEEDUPS = (
    *("ttft_p50_s", "ttft_p95_s", "return_ttft_p50_s", "return_ttft_p95_s"),
    *("computed_tokens", "recomputed_tokens"),
)


@dataclass(frozen=True, slots=True)
class ServiceTierFigures:
    """One row of the table: all turns of the customers of one service tier, or of all."""

    service_tier: str
    customers: tuple[str, ...]
    turns: int
    ttft_p50_s: float
    ttft_p95_s: float
    return_ttft_p50_s: float
    """TTFT of an agent's second and later turns: those that had something cached."""
    return_ttft_p95_s: float
    session_s: float
    """From the first question to the answer; for all: the longest of them."""
    prompt_tokens: int
    output_tokens: int
    cached_tokens: dict[str, int]
    """By the KV tier where they lay."""
    computed_tokens: int
    """Everything that ran through the model: missing prompt tokens and generated ones."""
    recomputed_tokens: int
    recompute_tax: float
    """recomputed / computed."""


@dataclass(frozen=True, slots=True)
class LanePoint(AgentSample):
    """Where an agent's KV lay from this moment on, until the next point."""

    t_s: float


@dataclass(frozen=True, slots=True)
class FillPoint:
    """How much each KV tier held from this moment on."""

    t_s: float
    device_bytes: int
    host_bytes: int
    disk_bytes: int


@dataclass(frozen=True, slots=True)
class RunFigures:
    """One run of the job."""

    name: str
    tiering: bool
    capacity: Capacity
    duration_s: float
    service_tiers: tuple[ServiceTierFigures, ...]
    total: ServiceTierFigures
    held_tokens: int
    """What the agents' contexts really added up to at the end, shared prefixes counted once."""
    peak_bytes: dict[str, int]
    counters: dict[str, int]
    """The server's own counters at the end of the run."""
    answers: dict[str, tuple[CheckedAnswer, ...]]
    """By tenant, in the order of its questions."""
    turns: tuple[DemoTurn, ...]
    lanes: dict[str, tuple[LanePoint, ...]]
    fill: tuple[FillPoint, ...]
    ledger: LedgerFigures | None = None
    """What it cost and earned; None in files of before the ledger."""


@dataclass(frozen=True, slots=True)
class DocumentFigures:
    """What was read."""

    name: str
    kind: str
    title: str
    words: int
    total_tokens: int


@dataclass(frozen=True, slots=True)
class DemoFigures:
    """Everything."""

    schema: str
    date: str
    stepwell: str
    model: str
    machine: dict[str, Any]
    versions: dict[str, str | None]
    document: DocumentFigures
    customers: tuple[DemoCustomer, ...]
    agents: int
    device_share: float
    """Device KV / what the agents hold together, as planned."""
    runs: tuple[RunFigures, ...]
    speedup: dict[str, float]
    """Without KV tiers / with: how many times as long or as much. Empty when one run was made."""
    result: str
    """One sentence."""

    def to_json(self) -> bytes:
        return msgspec.json.format(msgspec.json.encode(self), indent=1) + b"\n"


def read_json(data: bytes) -> DemoFigures:
    """The figures of an earlier demo; ``msgspec.ValidationError`` when they have another shape."""
    return msgspec.json.decode(data, type=DemoFigures)


def figures_of_run(run: DemoRun, customers: Sequence[DemoCustomer]) -> RunFigures:
    """Everything about one run."""
    tiers = list(dict.fromkeys(customer.service_tier for customer in customers))
    rows = [_row(tier, [c for c in customers if c.service_tier == tier], run) for tier in tiers]
    return RunFigures(
        name=run.name,
        tiering=run.tiering,
        capacity=run.capacity,
        duration_s=run.duration_s,
        service_tiers=tuple(rows),
        total=_row(ALL, customers, run),
        held_tokens=run.held_tokens,
        peak_bytes={tier: max((s.used_bytes[tier] for s in run.samples), default=0) for tier in KV_TIERS},
        counters=run.counters,
        answers={tenant: tuple(answers) for tenant, answers in run.answers.items()},
        turns=tuple(sorted(run.turns, key=lambda turn: turn.start_s)),
        lanes=lanes(run),
        fill=fill(run),
        ledger=run.ledger,
    )


def _row(service_tier: str, customers: Sequence[DemoCustomer], run: DemoRun) -> ServiceTierFigures:
    tenants = {customer.tenant for customer in customers}
    turns = [turn for turn in run.turns if turn.tenant in tenants]
    ttfts = [turn.ttft_s for turn in turns]
    returns = [turn.ttft_s for turn in turns if turn.number > 1]
    computed = sum(turn.computed_tokens + turn.output_tokens for turn in turns)
    recomputed = sum(turn.recomputed_tokens for turn in turns)
    return ServiceTierFigures(
        service_tier=service_tier,
        customers=tuple(customer.name for customer in customers),
        turns=len(turns),
        ttft_p50_s=_percentile(ttfts, 50),
        ttft_p95_s=_percentile(ttfts, 95),
        return_ttft_p50_s=_percentile(returns, 50),
        return_ttft_p95_s=_percentile(returns, 95),
        session_s=max(
            (end - began for t, (began, end) in run.sessions_s.items() if t in tenants), default=0.0
        ),
        prompt_tokens=sum(turn.prompt_tokens for turn in turns),
        output_tokens=sum(turn.output_tokens for turn in turns),
        cached_tokens={tier: sum(turn.cached_tokens.get(tier, 0) for turn in turns) for tier in KV_TIERS},
        computed_tokens=computed,
        recomputed_tokens=recomputed,
        recompute_tax=recomputed / computed if computed else 0.0,
    )


def _percentile(values: Sequence[float], percent: int) -> float:
    return percentile(values, percent) if values else 0.0


def marks(runs: Sequence[RunFigures]) -> list[bool]:
    """Whether each answer of the first run is right, of those to questions with a known answer."""
    given = (answer for answers in runs[0].answers.values() for answer in answers)
    return [answer.right for answer in given if answer.right is not None]


def same_answers(ours: RunFigures, theirs: RunFigures) -> tuple[int, int]:
    """How many answers are the same in both runs, and of how many."""
    pairs = [
        (a.text, b.text)
        for tenant in ours.answers
        for a, b in zip(ours.answers[tenant], theirs.answers.get(tenant, ()), strict=False)
    ]
    return sum(a == b for a, b in pairs), len(pairs)


def lanes(run: DemoRun) -> dict[str, tuple[LanePoint, ...]]:
    """By agent, the moments at which its KV changed place."""
    made: dict[str, list[LanePoint]] = {agent: [] for agent in run.agents}
    last: dict[str, AgentSample] = {}
    for sample in run.samples:
        for agent, seen in sample.agents.items():
            if agent in made and last.get(agent) != seen:
                last[agent] = seen
                made[agent].append(LanePoint(**asdict(seen), t_s=round(sample.t_s, 3)))
    return {agent: tuple(points) for agent, points in made.items()}


def fill(run: DemoRun) -> tuple[FillPoint, ...]:
    """The moments at which a KV tier's fill changed."""
    made: list[FillPoint] = []
    last: dict[str, int] = {}
    for sample in run.samples:
        if last != sample.used_bytes:
            last = dict(sample.used_bytes)
            made.append(FillPoint(round(sample.t_s, 3), last["device"], last["host"], last["disk"]))
    return tuple(made)


def speedup(with_tiers: RunFigures, without: RunFigures) -> dict[str, float]:
    """Without / with, for the figures that matter; a figure that is zero with KV tiers is left out."""
    pairs = {"duration": (with_tiers.duration_s, without.duration_s)}
    for name in SPEEDUPS:
        pairs[name.removesuffix("_s")] = (getattr(with_tiers.total, name), getattr(without.total, name))
    return {name: theirs / ours for name, (ours, theirs) in pairs.items() if ours > 0}


def result_sentence(runs: Sequence[RunFigures], agents: int, device_share: float) -> str:
    """What was seen, in one sentence; also when it was not an improvement."""
    first = runs[0]
    setting = f"{agents} agents on device KV for {device_share:.0%} of what they hold"
    if len(runs) == 1:
        return f"{setting} finished in {first.duration_s:.1f} s and computed {_repeated(first)}."
    without = runs[1]
    ratio = without.duration_s / first.duration_s
    compared = f"{ratio:.1f} times as fast as" if ratio >= 1.05 else "about as fast as"
    if ratio < 0.95:
        compared = "slower than"
    return (
        f"{setting} finished in {first.duration_s:.1f} s with KV tiers, {compared} the "
        f"{without.duration_s:.1f} s without; they computed {_repeated(first)}, and without KV tiers "
        f"{_repeated(without)}."
    )


def _repeated(run: RunFigures) -> str:
    if run.total.recomputed_tokens == 0:
        return "no token twice"
    return f"{run.total.recompute_tax:.0%} of their tokens more than once"
