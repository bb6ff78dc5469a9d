"""The flood of ``bench neighbours`` in virtual time: what paid turns feel of it, and how long it waits.

Three paid agents whose contexts outgrow the device, alone and then beside sixteen flex turns that are always
outstanding. The model's prices are about those of SmolLM2 on two slow cores.
"""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass, field

from stepwell.basics.quantiles import percentile
from stepwell.bench.server.neighbours import CONTRACTS, FLEX, PAID
from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Caller, RequestArrived, RequestId
from stepwell.simulate.accelerator import Accelerator
from stepwell.simulate.machine import ComingTurn, Due, Machine
from stepwell.simulate.meter import SimulatedMeter, TurnTimes

SECOND = 1_000_000
UNIT = 16
COSTS = Accelerator(
    step_ps=20 * 10**9, prompt_token_ps=39 * 10**8, prompt_depth_ps=12 * 10**5, sequence_ps=4 * 10**9,
    depth_ps=18 * 10**6, token_bytes=23_040, copy_us_per_block=150,
)  # fmt: skip
MAX_WAIT_US = next(contract.max_wait_us for contract in CONTRACTS if contract.name == FLEX)
AGENTS, OUTSTANDING, ANSWER, FLEX_ANSWER, MEASURED_S = 3, 16, 48, 16, 180


@dataclass(eq=False)
class Client:
    """One conversation. A flex client begins a new one with every turn."""

    name: str
    service_tier: str
    rng: random.Random
    tokens: int = 0
    turns: int = 0


@dataclass(eq=False)
class Call:
    client: Client
    prompt: int
    new_tokens: int
    phase: str
    opening: bool
    request: RequestId = field(default=0, init=False)

    def arrival(self, request: RequestId) -> RequestArrived:
        self.request = request
        tier, name = self.client.service_tier, self.client.name
        units = tuple(self.units(UNIT)[: self.prompt // UNIT])
        return RequestArrived(request, Caller(tier, tier, name), self.prompt, self.new_tokens, units)

    def units(self, unit_tokens: int) -> list[bytes]:
        count = (self.prompt + self.new_tokens) // unit_tokens
        return [hashlib.blake2b(f"{self.client.name} {n}".encode()).digest()[:16] for n in range(count)]

    def tail(self, n_tokens: int) -> bytes | None:
        return hashlib.blake2b(f"{self.client.name} to {n_tokens}".encode()).digest()[:16]


class Flood:
    """First the paid agents alone, then others beside the flood, which ends when they have."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)
        self.calls: list[Call] = []
        self.phase, self.busy, self.late_us, self.strangers = "alone", 0, 0, 0

    def start(self) -> Iterator[Due]:
        yield from self._open(0)

    def ended(self, call: ComingTurn, request: RequestId, now_us: int, reason: str) -> Iterator[Due]:
        assert isinstance(call, Call)
        client, flooded = call.client, self.phase == "flooded"
        if client.service_tier == FLEX:
            yield from self._strangers(1, now_us) if self.busy else ()
        elif call.opening:
            self.busy += 1
            if self.busy == AGENTS:
                yield from self._strangers(OUTSTANDING, now_us) if flooded else ()
                self.late_us = now_us + MEASURED_S * SECOND
                for one in self.paid:
                    yield self._next(one, now_us + 4 * SECOND * flooded)
        elif now_us < self.late_us:
            yield self._next(client, now_us)
        else:
            self.busy -= 1
            if not self.busy and not flooded:
                self.phase = "flooded"
                yield from self._open(now_us)

    def _open(self, now_us: int) -> Iterator[Due]:
        self.paid = [Client(f"{self.phase} {n}", PAID, self.rng) for n in range(AGENTS)]
        for client in self.paid:
            yield now_us, self._call(client, 640, ANSWER, opening=True)

    def _next(self, client: Client, now_us: int) -> Due:
        at_us = now_us + self.rng.randrange(SECOND // 2, 5 * SECOND // 2)
        return at_us, self._call(client, self.rng.randrange(185, 215), ANSWER)

    def _strangers(self, count: int, now_us: int) -> Iterator[Due]:
        for _ in range(count):
            self.strangers += 1
            client = Client(f"stranger {self.strangers}", FLEX, self.rng)
            at_us = now_us + self.rng.randrange(1, SECOND // 8)
            yield at_us, self._call(client, self.rng.randrange(220, 255), FLEX_ANSWER)

    def _call(self, client: Client, more: int, answer: int, *, opening: bool = False) -> Call:
        call = Call(client, client.tokens + more, answer, self.phase, opening)
        client.tokens = call.prompt + answer
        self.calls.append(call)
        return call


def played(seed: int) -> tuple[list[TurnTimes], list[TurnTimes], list[TurnTimes]]:
    """Measured turns of those who paid, alone and beside the flood, and the flood's."""
    config = PolicyConfig(
        UNIT, UNIT, 384, UNIT * COSTS.token_bytes, COSTS.token_bytes, 1 << 30, 0, contracts=CONTRACTS
    )
    source, meter = Flood(seed), SimulatedMeter(COSTS, UNIT)
    Machine(Scheduler(config), COSTS, source, meter, bounded=False).run()
    measured = [call for call in source.calls if not call.opening]
    paid = [call for call in measured if call.client.service_tier == PAID]
    alone = [meter.turns[call.request] for call in paid if call.phase == "alone"]
    flooded = [meter.turns[call.request] for call in paid if call.phase == "flooded"]
    flood = [meter.turns[call.request] for call in measured if call.client.service_tier == FLEX]
    return alone, flooded, flood


def ttft_us(turns: list[TurnTimes], percent: int) -> float:
    return percentile([turn.ttft_us or 0 for turn in turns], percent)


def tpot_us(turns: list[TurnTimes], percent: int) -> float:
    return percentile([turn.tpot_us or 0 for turn in turns], percent)


def of_promise(flood: list[TurnTimes], run_us: int) -> float:
    """The longest wait over what docs/policy-rules.md ("Bounds") says; 1: just kept."""
    prompt_us = COSTS.step_us(240, 0, 240 * 120, 0)
    answer_us = sum(COSTS.step_us(0, 1, 0, 240 + n) for n in range(FLEX_ANSWER))
    most = 0.0
    for one in flood:
        due_us, wait_us = one.arrived_us + MAX_WAIT_US, one.ttft_us or 0
        earlier = [other for other in flood if other.arrived_us < one.arrived_us]
        before = sum(other.arrived_us + (other.ttft_us or 0) > due_us for other in earlier)
        promised_us = MAX_WAIT_US + run_us + (before + 1) * 6 * (prompt_us + answer_us)
        most = max(most, wait_us / promised_us)
    return most


def test_paid_turns_hardly_feel_a_flood_at_its_bound_and_the_promise_to_the_flood_is_kept() -> None:
    """Medians of five plays: one play's median hangs on when the agents happen to meet. Before one turn at a
    time led: 1.44 at the median of first tokens, and 1.47 of the promise."""
    p50, p99, tokens, promise = [], [], [], []
    for seed in range(5):
        alone, flooded, flood = played(seed)
        run_us = max(turn.done_us or 0 for turn in alone)
        p50.append(ttft_us(flooded, 50) / ttft_us(alone, 50))
        p99.append(ttft_us(flooded, 99) / ttft_us(alone, 99))
        tokens.append(tpot_us(flooded, 99) / tpot_us(alone, 99))
        promise.append(of_promise(flood, run_us))
    assert percentile(p50, 50) <= 1.05
    assert percentile(p99, 50) <= 1.25
    assert percentile(tokens, 50) <= 1.2
    assert max(promise) <= 1
