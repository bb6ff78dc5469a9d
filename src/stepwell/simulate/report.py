"""The figures of one run, as plain numbers: for tables, charts and JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stepwell.policy.contracts import Contract
from stepwell.simulate.bound import Bound
from stepwell.simulate.machine import Machine
from stepwell.simulate.meter import TurnTimes

PERCENTS = (50, 90, 99)

LEGEND = (
    "cost of misses = again + copies + waits: seconds spent computing prompt tokens that had been computed"
    " before (again), seconds of copies from host to device (copies), seconds that turns waited for blocks"
    " from disk, summed over turns (waits). tax = tokens computed again / tokens computed; device, host, disk"
    " = share of prompt tokens found there; x bound = cost of misses over a lower bound that no policy beats"
    " which opens the same turns at the same times (docs/simulate.md)"
)


@dataclass(frozen=True, slots=True)
class Latency:
    """Seconds at p50, p90 and p99; empty when no turn came so far."""

    count: int
    p50_s: float
    p90_s: float
    p99_s: float


def latency(values_us: Sequence[int]) -> Latency:
    """Percentiles by nearest rank, of integers: the same everywhere."""
    if not values_us:
        return Latency(0, 0.0, 0.0, 0.0)
    ordered = sorted(values_us)
    ranks = [ordered[min(len(ordered) - 1, (len(ordered) * p + 99) // 100 - 1)] / 1e6 for p in PERCENTS]
    return Latency(len(ordered), *ranks)


@dataclass(frozen=True, slots=True)
class TierFigures:
    """What one service tier got."""

    service_tier: str
    turns: int
    refused: int
    ttft: Latency
    turn: Latency
    ttft_on_time: float | None
    """Share of its turns whose first token came within the contract's target (a refused one's did not);
    None: there is no target."""


@dataclass(frozen=True, slots=True)
class RunReport:
    """One policy on one workload in one room. Seconds are those of the modelled machine.

    ``miss_s`` is the cost of misses: ``again_s + copy_in_s + disk_wait_s``.
    """

    policy: str
    declared: str
    miss_s: float
    again_s: float
    """Computing prompt tokens that had been computed before."""
    copy_in_s: float
    """Copies host to device; the step waits for them."""
    copy_out_s: float
    disk_wait_s: float
    """Summed over turns: waiting for blocks from disk."""
    prefill_s: float
    busy_s: float
    elapsed_s: float
    prefill_tokens: int
    decode_tokens: int
    again_tokens: int
    recompute_tax: float
    """Tokens computed again / tokens computed."""
    prompt_tokens: int
    tokens_from: dict[str, int]
    """Of the prompts, by KV tier; the rest was computed."""
    bytes_moved: dict[str, int]
    useful_read_bytes: int
    """Of the bytes read from disk: those of blocks that a turn was then admitted with."""
    written_per_useful: float | None
    preemptions: int
    turns: int
    refused: int
    tiers: tuple[TierFigures, ...]
    sessions: Latency
    """From a session's first arrival to its last token, waits of its agents included."""
    steps: int
    bound: Bound | None
    """What no policy beats on this timeline; None: not asked for."""
    cpu_s: float = field(compare=False)
    """What the simulation itself took; the only figure that differs between two runs."""

    @property
    def times_bound(self) -> float | None:
        """The cost of misses as a multiple of the lower bound; None without one, or where it is nothing."""
        return self.miss_s / self.bound.miss_s if self.bound is not None and self.bound.miss_s else None

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"times_bound": self.times_bound}


def report_of(
    policy: str, declared: str, machine: Machine, cpu_s: float, bound: Bound | None = None
) -> RunReport:
    """Read the meter of a machine that has come to rest."""
    meter, turns = machine.meter, list(machine.meter.turns.values())
    again_s, copy_in_s, disk_wait_s = meter.again_us / 1e6, meter.copy_in_us / 1e6, meter.disk_wait_us / 1e6
    useful = meter.useful_read_bytes
    return RunReport(
        policy=policy,
        declared=declared,
        miss_s=again_s + copy_in_s + disk_wait_s,
        again_s=again_s,
        copy_in_s=copy_in_s,
        copy_out_s=meter.copy_out_us / 1e6,
        disk_wait_s=disk_wait_s,
        prefill_s=meter.prefill_us / 1e6,
        busy_s=meter.busy_us / 1e6,
        elapsed_s=machine.now_us / 1e6,
        prefill_tokens=meter.prefill_tokens,
        decode_tokens=meter.decode_tokens,
        again_tokens=meter.again_tokens,
        recompute_tax=meter.again_tokens / max(1, meter.prefill_tokens + meter.decode_tokens),
        prompt_tokens=sum(t.prompt_tokens for t in turns),
        tokens_from={tier.value: tokens for tier, tokens in meter.tokens_from.items()},
        bytes_moved=dict(meter.bytes_moved),
        useful_read_bytes=useful,
        written_per_useful=meter.bytes_moved["host_disk"] / useful if useful else None,
        preemptions=meter.preemptions,
        turns=len(turns),
        refused=sum(1 for t in turns if was_refused(t)),
        tiers=tuple(tier_figures(c, turns) for c in machine.scheduler.config.contracts),
        sessions=latency(session_times(turns)),
        steps=machine.steps,
        bound=bound,
        cpu_s=cpu_s,
    )


def was_refused(turn: TurnTimes) -> bool:
    """It was turned away: no token came, and it was not taken back."""
    return turn.ttft_us is None and turn.reason != "cancelled"


def tier_figures(contract: Contract, all_turns: Sequence[TurnTimes]) -> TierFigures:
    """What the turns of one service tier got."""
    turns = [t for t in all_turns if t.service_tier == contract.name]
    ttft = [t.ttft_us for t in turns if t.ttft_us is not None]
    target = contract.ttft_target_us
    on_time = None
    if target is not None and turns:
        on_time = sum(1 for us in ttft if us <= target) / len(turns)
    done = [t.done_us for t in turns if t.done_us is not None and t.reason == "stop"]
    refused = sum(1 for t in turns if was_refused(t))
    return TierFigures(contract.name, len(turns), refused, latency(ttft), latency(done), on_time)


def session_times(turns: Sequence[TurnTimes]) -> list[int]:
    """Microseconds from each session's first arrival to its last token."""
    first: dict[str, int] = {}
    last: dict[str, int] = {}
    for turn in turns:
        if turn.session and turn.done_us is not None:
            first[turn.session] = min(first.get(turn.session, turn.arrived_us), turn.arrived_us)
            last[turn.session] = max(last.get(turn.session, 0), turn.arrived_us + turn.done_us)
    return [last[session] - first[session] for session in first]
