"""What one run cost: the machine tells the meter what happened, the report reads it out.

*Computed again* counts tokens of prompts, in whole units, that some turn had computed before; its seconds are
what the machine model says those tokens cost at their depth. The last token that a turn knows is computed for
the sake of the next one, wherever it is stored: its unit is never a miss.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.policy.types import BlockId, KvTier, Moved, Open, RequestArrived, RequestId
from stepwell.simulate.hardware import StepCosts

ROUTES = ("device_host", "host_device", "host_disk", "disk_host")


@dataclass(slots=True, eq=False)
class TurnTimes:
    """One turn, in microseconds from its arrival; None: it did not come so far."""

    service_tier: str
    session: str
    arrived_us: int
    prompt_tokens: int
    ttft_us: int | None = None
    done_us: int | None = None
    reason: str = ""
    new_tokens: int = 0
    """Generated."""

    @property
    def tpot_us(self) -> float | None:
        """Microseconds per token after the first; None: there was no second one."""
        if self.ttft_us is None or self.done_us is None or self.new_tokens < 2:
            return None
        return (self.done_us - self.ttft_us) / (self.new_tokens - 1)


@dataclass(slots=True, eq=False)
class SimulatedMeter:
    """Counters of one run. All times are microseconds of the modelled machine."""

    model: StepCosts
    unit_tokens: int
    turns: dict[RequestId, TurnTimes] = field(default_factory=dict)
    loading: int = 0
    """Turns that wait for blocks from disk now; kept by the machine."""
    disk_wait_us: int = 0
    """Summed over turns: time spent waiting for blocks from disk."""
    busy_us: int = 0
    """Batches, without copies."""
    prefill_us: int = 0
    again_us: int = 0
    prefill_tokens: int = 0
    decode_tokens: int = 0
    again_tokens: int = 0
    copy_in_us: int = 0
    copy_out_us: int = 0
    bytes_moved: dict[str, int] = field(default_factory=lambda: dict.fromkeys(ROUTES, 0))
    tokens_from: dict[KvTier, int] = field(default_factory=lambda: dict.fromkeys(KvTier, 0))
    """Of the prompts: tokens found in each KV tier when the turn was first admitted."""
    useful_read_bytes: int = 0
    """Of the bytes read from disk: those of blocks that a turn was then admitted with."""
    preemptions: int = 0
    _read: dict[BlockId, int] = field(default_factory=dict)
    """Blocks that came up from disk and have not been used since, with their sizes."""
    _opened: set[RequestId] = field(default_factory=set)
    _seen: set[bytes] = field(default_factory=set)

    def passed(self, duration_us: int) -> None:
        """The clock went on."""
        self.disk_wait_us += self.loading * duration_us

    def arrived(self, arrival: RequestArrived, at_us: int) -> None:
        self.turns[arrival.request] = TurnTimes(
            arrival.caller.service_tier, arrival.caller.session, at_us, arrival.prompt_tokens
        )

    def opened(self, action: Open) -> None:
        for block in action.blocks:
            self.useful_read_bytes += self._read.pop(block, 0)
        if action.request in self._opened:
            return  # back after a preemption: counted where it was admitted first
        self._opened.add(action.request)
        self.tokens_from[KvTier.DEVICE] += action.from_device_tokens
        self.tokens_from[KvTier.HOST] += action.from_host_tokens
        self.tokens_from[KvTier.DISK] += action.from_disk_tokens

    def first_token(self, request: RequestId, now_us: int) -> None:
        turn = self.turns[request]
        turn.ttft_us = now_us - turn.arrived_us

    def ended(self, request: RequestId, now_us: int, reason: str, new_tokens: int = 0) -> None:
        turn = self.turns[request]
        turn.new_tokens = new_tokens
        turn.done_us, turn.reason = now_us - turn.arrived_us, reason

    def moved(self, moved: Moved) -> None:
        self.bytes_moved[f"{moved.source.value}_{moved.target.value}"] += moved.size_bytes
        if moved.source is KvTier.DISK:
            self._read[moved.block] = moved.size_bytes
        if moved.target is KvTier.DEVICE:
            self.copy_in_us += moved.duration_us
        elif moved.source is KvTier.DEVICE:
            self.copy_out_us += moved.duration_us

    def ran(self, prefill: int, decode: int, duration_us: int) -> None:
        """One batch has run."""
        self.busy_us += duration_us
        self.prefill_tokens += prefill
        self.decode_tokens += decode

    def computed(self, units: list[bytes], start: int, stop: int, total: int, *, prefilled: bool) -> None:
        """Tokens ``[start, stop)`` of one turn were computed, of ``total`` that were known; ``units`` names
        all that it will have."""
        first, last = start // self.unit_tokens, stop // self.unit_tokens
        known = first
        while known < last and units[known] in self._seen:
            known += 1
        self._seen.update(units[known:last])
        if not prefilled:
            return
        self.prefill_us += self.model.prefill_us(start, stop)
        known = min(known, (total - 1) // self.unit_tokens)
        if known > first:
            again = known * self.unit_tokens
            self.again_tokens += again - start
            self.again_us += self.model.prefill_us(start, again)
