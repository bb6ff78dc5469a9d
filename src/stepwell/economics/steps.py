"""What each step of memory is worth: hit rates, wear and cost in the steady state, in closed form.

A context that rests is kept while its gap is shorter than a time ``T`` that memory allows: memory that drops
the least recently used holds ``turns a second x E[min(gap, T)] x bytes of a context`` (Che's approximation).
That is a model of averages: no queues, no bursts; the simulation has those.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from math import log

from stepwell.catalogue.kv import kv_bytes
from stepwell.catalogue.load import Entry
from stepwell.economics.roofline import (
    Serving,
    binding,
    kv_room_bytes,
    largest_batch,
    prefill_share,
    requests_per_s,
    tpot_ms,
)

_LONGEST_GAP_S = 36_000.0
_HALVINGS = 26
_STEPS, _CLOSE, _LEAST = 40, 1e-10, 1e-12


@dataclass(frozen=True, slots=True)
class Gaps:
    """Time between two turns of an agent: its quantiles, joined by straight lines over log time."""

    knots: tuple[tuple[float, float], ...]
    """(seconds, share of gaps that are shorter), ascending."""

    @classmethod
    def of(cls, workload: Entry) -> Gaps:
        middle = [(workload.number(f"gap_s{p}"), p / 100) for p in (50, 90, 99)]
        return cls(((middle[0][0] / 20, 0.0), *middle, (max(_LONGEST_GAP_S, 2 * middle[2][0]), 1.0)))

    def shorter(self, seconds: float) -> float:
        """Share of gaps below ``seconds``."""
        if seconds <= self.knots[0][0]:
            return 0.0
        for (low, at_low), (high, at_high) in zip(self.knots, self.knots[1:], strict=False):
            if seconds < high:
                return at_low + (at_high - at_low) * log(seconds / low) / log(high / low)
        return 1.0

    def mean_held(self, seconds: float) -> float:
        """``E[min(gap, seconds)]``: the integral of the share that is still waiting."""
        total = min(seconds, self.knots[0][0])
        for piece in self._pieces():
            if seconds <= piece.low:
                break
            total += piece.held(min(seconds, piece.high))
        return total

    def kept_s(self, context_seconds: float) -> float:
        """The time ``T`` that memory allows which holds ``context_seconds`` of contexts per turn a second."""
        total = self.knots[0][0]
        if context_seconds <= total:
            return max(0.0, context_seconds)
        for piece in self._pieces():
            whole = piece.held(piece.high)
            if total + whole > context_seconds:
                return piece.reaching(context_seconds - total)
            total += whole
        return self.knots[-1][0]

    def _pieces(self) -> Iterator[_Piece]:
        for (low, at_low), (high, at_high) in zip(self.knots, self.knots[1:], strict=False):
            yield _Piece(low, high, 1 - at_low, (at_high - at_low) / log(high / low))


@dataclass(frozen=True, slots=True)
class _Piece:
    """Between two quantiles: the share that waits falls from ``waiting`` with the logarithm of time."""

    low: float
    high: float
    waiting: float
    slope: float

    def held(self, end: float) -> float:
        """The integral of the share that waits, from ``low`` to ``end``."""
        return (end - self.low) * (self.waiting + self.slope) - self.slope * end * log(end / self.low)

    def reaching(self, held: float) -> float:
        """Where that integral is ``held``; it grows ever more slowly, so Newton's steps never pass it."""
        at = self.low
        for _ in range(_STEPS):
            step = (held - self.held(at)) / max(self.waiting - self.slope * log(at / self.low), _LEAST)
            at = min(self.high, at + max(0.0, step))
            if step <= at * _CLOSE:
                break
        return at


@dataclass(frozen=True, slots=True)
class Memory:
    """What one replica has below its HBM."""

    dram_gb: float = 0.0
    ssd_gb: float = 0.0
    admission: str = "selective"
    """What goes to disk: ``selective``, new tokens that outlive DRAM; ``everything``, all that is new."""


@dataclass(frozen=True, slots=True)
class Steady:
    """One replica in the steady state. Dollars are per hour of one replica."""

    serving: Serving
    turns_per_s: float
    hit_share: float
    """Of prompt tokens."""
    from_ssd_share: float
    written_gb_per_s: float
    tpot_ms: float
    binds: str
    usd_hour: Mapping[str, Decimal]

    @property
    def usd_per_turn(self) -> Decimal:
        return sum(self.usd_hour.values(), Decimal(0)) / Decimal(self.turns_per_s * 3600)


@dataclass(frozen=True, slots=True)
class Case:
    """What is asked of a replica, and what things cost."""

    workload: Entry
    serving: Serving
    constants: tuple[float, ...]
    target_tpot_ms: float
    usd_chip_hour: Decimal
    dram: Entry
    ssd: Entry


def steady(case: Case, memory: Memory) -> Steady:
    """Faster turns leave less time in memory and fewer hits: the two are found together, by halving."""
    reusable = case.workload.number("reusable_share")
    low, high = 0.0, reusable
    for _ in range(_HALVINGS):
        middle = (low + high) / 2
        low, high = (middle, high) if _at(case, memory, middle).hit_share >= middle else (low, middle)
    return _at(case, memory, low)


def _at(case: Case, memory: Memory, assumed_hit: float) -> Steady:
    """The rate that ``assumed_hit`` allows, and the hit share that this rate leaves."""
    s = replace(case.serving, cached_tokens=case.serving.input_tokens * assumed_hit)
    full = largest_batch(s, case.constants, case.target_tpot_ms)
    rate = requests_per_s(full, case.constants)
    context = kv_bytes(s.model, s.input_tokens + s.output_tokens, s.kv_value_bytes)
    spare_hbm = max(0.0, kv_room_bytes(s) - full.batch * context)
    gaps, reusable = Gaps.of(case.workload), case.workload.number("reusable_share")
    fast = gaps.kept_s((spare_hbm + memory.dram_gb * 1e9) / (rate * context))
    whole = gaps.kept_s((spare_hbm + (memory.dram_gb + memory.ssd_gb) * 1e9) / (rate * context))
    near, all_kept = gaps.shorter(fast), gaps.shorter(whole) if memory.ssd_gb else gaps.shorter(fast)
    read_limit = _ssd_turns_per_s(case, memory, context)
    from_ssd = max(0.0, all_kept - near)
    if from_ssd * rate > read_limit:
        from_ssd = read_limit / rate
    new_bytes = context * (1 - reusable * (near + from_ssd))
    share = 1.0 if memory.admission == "everything" else 1 - near
    written = rate * new_bytes * share if memory.ssd_gb else 0.0
    costs = _costs(case, memory, s.chips, written)
    hit = reusable * (near + from_ssd)
    return Steady(
        full, rate, hit, reusable * from_ssd, written / 1e9, tpot_ms(full, case.constants),
        binding(full, case.constants), costs,
    )  # fmt: skip


def drives(memory: Memory, ssd: Entry) -> float:
    return memory.ssd_gb / 1000 / ssd.number("drive_tb", 1.0)


def _ssd_turns_per_s(case: Case, memory: Memory, context: float) -> float:
    """Contexts that the disks can read a second, with half of their bandwidth to spare for bursts."""
    return drives(memory, case.ssd) * case.ssd.number("read_gb_s") * 1e9 * 0.5 / context


def usd_per_gb_written(ssd: Entry) -> Decimal:
    """Price of a byte's share of a drive's life: price / (writes a day x 365 x years)."""
    return ssd.get("usd_gb") / (ssd.get("dwpd") * 365 * ssd.get("life_years"))


def _costs(case: Case, memory: Memory, chips: int, written: float) -> dict[str, Decimal]:
    """Disks cost their age or their wear, whichever is more."""
    hours = Decimal(8760)
    dram = Decimal(memory.dram_gb) * case.dram.get("usd_gb") / (case.dram.get("life_years") * hours)
    age = Decimal(memory.ssd_gb) * case.ssd.get("usd_gb") / (case.ssd.get("life_years") * hours)
    wear = Decimal(written * 3600 / 1e9) * usd_per_gb_written(case.ssd)
    return {"accelerators": case.usd_chip_hour * chips, "dram": dram, "ssd": max(age, wear)}


def prefill_usd(case: Case, tokens: float) -> Decimal:
    """Computing a prompt of ``tokens`` from nothing, on a full replica."""
    s = replace(case.serving, input_tokens=tokens, cached_tokens=0.0, batch=1, output_tokens=1.0)
    seconds = tpot_ms(s, case.constants) * prefill_share(s, case.constants) / 1e3
    return case.usd_chip_hour * s.chips * Decimal(seconds / 3600)


def ssd_write_usd(case: Case, tokens: float) -> Decimal:
    """The wear of writing the same context once."""
    size = kv_bytes(case.serving.model, tokens, case.serving.kv_value_bytes)
    return Decimal(size / 1e9) * usd_per_gb_written(case.ssd)
