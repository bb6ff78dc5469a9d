"""The machine: carries out the plans of the real policy on modelled hardware and reports what happened.

It is another ``Executor`` of the server's own loop, and decides as little as the engine's. What it does
not have is tokens: contexts of a hundred thousand of them are names of units here. Order and meaning
of the events are the server's; ``tests/simulate/test_drift.py`` holds both to the same decisions.
"""

from __future__ import annotations

import hashlib
import heapq
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol, runtime_checkable

from stepwell.errors import StepwellError
from stepwell.loop.step import Loop
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.turns import TurnState
from stepwell.policy.types import (
    Action,
    BlockId,
    Close,
    Computed,
    Drop,
    Event,
    KvTier,
    Move,
    Moved,
    Open,
    Piece,
    Plan,
    Progressed,
    Recovered,
    Refuse,
    RequestArrived,
    RequestCancelled,
    RequestId,
    Seal,
)
from stepwell.simulate.hardware import MachineModel, depth_of
from stepwell.simulate.meter import Meter
from stepwell.simulate.timeline import Timeline

DEVICE, HOST, DISK = KvTier.DEVICE, KvTier.HOST, KvTier.DISK
_NUDGE_US = 100  # a policy that wants to be called again at once: time passes all the same
_FOREVER = 1 << 62
_IDLE_STEPS = 100_000
"""Steps in a row that run nothing: more than that, and the policy moves the same blocks to and fro."""


class SimulationError(StepwellError):
    """The policy and the machine do not agree, or nothing moves any more."""


@runtime_checkable
class Call(Protocol):
    """A turn that somebody will send."""

    @property
    def new_tokens(self) -> int:
        """How many tokens it will generate."""

    def arrival(self, request: RequestId) -> RequestArrived:
        """What the policy is told."""

    def units(self, unit_tokens: int) -> list[bytes]:
        """Names of all full units of prompt and answer."""

    def tail(self, n_tokens: int) -> bytes | None:
        """The name of exactly the first ``n_tokens`` tokens; None: the machine makes one up."""


Due = tuple[int, "Call | Event"]
"""When something comes from outside, and what."""


class Source(Protocol):
    """Where turns come from."""

    def start(self) -> Iterable[Due]:
        """What comes by itself."""

    def ended(self, call: Call, request: RequestId, now_us: int, reason: str) -> Iterable[Due]:
        """What follows the end of a turn. ``reason``: a finish reason, ``cancelled``, or an error code."""


@dataclass(slots=True, eq=False)
class Live:
    """A turn that has arrived and not ended."""

    request: RequestId
    call: Call
    arrival: RequestArrived
    units: list[bytes]
    total: int
    arrived_us: int
    told: int
    """Units that the policy knows."""
    generated: int = 0

    def name(self, n_tokens: int, unit_tokens: int) -> bytes:
        """The name of the first ``n_tokens`` tokens: the unit's own where one ends there."""
        whole, rest = divmod(n_tokens, unit_tokens)
        if not rest:
            return self.units[whole - 1]
        known = self.call.tail(n_tokens)
        if known is not None:
            return known
        if whole < len(self.units):
            salt = self.units[whole]
        else:
            salt = (self.units[-1] if self.units else b"") + self.request.to_bytes(8, "big")
        return hashlib.blake2b(salt + rest.to_bytes(2, "big"), digest_size=16).digest()


class Machine:
    """One run: ``run`` until nothing is left to do.

    ``strides``: take steps that decide nothing new in one go (``Plan.steady_steps``), with the same outcome.
    ``strict``: check every invariant of the policy after every step.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        model: MachineModel,
        source: Source,
        meter: Meter,
        *,
        strides: bool = True,
        strict: bool = False,
    ) -> None:
        self.scheduler, self.model, self.source, self.meter = scheduler, model, source, meter
        self.timeline = Timeline(scheduler.config.unit_tokens)
        self.loop = Loop(scheduler, self, lambda: self.now_us)
        self.now_us = 0
        self.steps = 0
        self._idle_steps = 0
        self._strides = strides
        self._strict = strict
        self._results: list[Event] = []
        self._live: dict[RequestId, Live] = {}
        self._next_request = 0
        self._order = 0
        self._inbox: list[tuple[int, int, Call | Event]] = []
        self._transfers: list[tuple[int, int, Moved]] = []
        self._free_at_us = {HOST: 0, DISK: 0}
        """When the queue of reads (to the host) and that of writes (to the disk) is done."""
        self._kept: dict[KvTier, set[BlockId]] = {tier: set() for tier in KvTier}
        self._expect(source.start())

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Step until every turn has ended. ``SimulationError`` when the policy lets one wait for ever."""
        while self._idle_steps < _IDLE_STEPS:
            due_us = self.loop.step()
            if self._strict:
                self.scheduler.check()
            if due_us is not None and due_us <= self.now_us:
                continue
            if not self._inbox and not self._live:
                return
            next_us = min(self._next_due_us(), _FOREVER if due_us is None else due_us)
            if next_us == _FOREVER:
                raise SimulationError(f"{len(self._live)} turns wait and nothing will happen any more")
            next_us = max(next_us, self.now_us + _NUDGE_US) if next_us <= self.now_us else next_us
            self._pass_to(next_us)
        raise SimulationError(f"the policy goes round in circles at {self.now_us} us: nothing runs any more")

    # --- as the loop's executor ---------------------------------------------------------------

    @property
    def has_results(self) -> bool:
        return bool(self._results)

    def poll(self) -> list[Event]:
        """What has happened; a turn that was cancelled has ended by now."""
        events = [*self._results, *self._ended_transfers(), *self._arrivals()]
        self._results = []
        for event in events:
            if isinstance(event, RequestCancelled) and event.request in self._live:
                self._end(self._live[event.request], "cancelled")
        return events

    def execute(self, plan: Plan) -> None:
        self.steps += 1
        self.meter.loading = self._loading()
        self._carry_out(plan.actions)
        self._idle_steps = 0 if plan.batch else self._idle_steps + 1
        if plan.batch:
            self._run(plan)

    def settle(self, events: Sequence[Event]) -> None:
        """A turn that ends is forgotten at once: nothing here is shared with other threads."""

    def _loading(self) -> int:
        """Turns that wait for blocks from disk now."""
        if not self.scheduler.block_manager.reads_in_flight:
            return 0
        turns = self.scheduler.table.turns.values()
        return sum(1 for turn in turns if turn.state is TurnState.LOADING)

    def _pass(self, duration_us: int) -> None:
        self._pass_to(self.now_us + duration_us)

    def _pass_to(self, now_us: int) -> None:
        self.meter.passed(now_us - self.now_us)
        self.now_us = now_us

    # --- what comes from outside --------------------------------------------------------------

    def _expect(self, dues: Iterable[Due]) -> None:
        for at_us, what in dues:
            self._order += 1
            heapq.heappush(self._inbox, (at_us, self._order, what))

    def _next_due_us(self) -> int:
        inbox = self._inbox[0][0] if self._inbox else _FOREVER
        return min(inbox, self._transfers[0][0]) if self._transfers else inbox

    def _ended_transfers(self) -> list[Event]:
        ended: list[Event] = []
        while self._transfers and self._transfers[0][0] <= self.now_us:
            moved = heapq.heappop(self._transfers)[2]
            self._kept[moved.target].add(moved.block)
            self.meter.moved(moved)
            ended.append(moved)
        return ended

    def _arrivals(self) -> list[Event]:
        events: list[Event] = []
        while self._inbox and self._inbox[0][0] <= self.now_us:
            at_us, _, what = heapq.heappop(self._inbox)
            events.append(self._arrive(what, at_us) if isinstance(what, Call) else what)
            if isinstance(what, Recovered):
                self._kept[DISK].update(block.id for block in what.blocks)
        return events

    def _arrive(self, call: Call, at_us: int) -> RequestArrived:
        self._next_request += 1
        arrival = call.arrival(self._next_request)
        live = Live(
            self._next_request,
            call,
            arrival,
            call.units(self.scheduler.config.unit_tokens),
            arrival.prompt_tokens,
            at_us,
            len(arrival.units),
        )
        self._live[live.request] = live
        self.meter.arrived(arrival, at_us)
        return arrival

    def _end(self, live: Live, reason: str) -> None:
        del self._live[live.request]
        self.timeline.grew(live.request, live.total)
        self.meter.ended(live.request, self.now_us, reason)
        self._expect(self.source.ended(live.call, live.request, self.now_us, reason))

    # --- carrying a plan out ------------------------------------------------------------------

    def _carry_out(self, actions: Sequence[Action]) -> None:
        for action in actions:
            match action:
                case Seal(_, block):
                    self._kept[DEVICE].add(block.id)
                case Drop(block_id, tier):
                    self._drop(block_id, tier)
                case Move():
                    self._move(action)
                case Open():
                    self._open(action)
                case Close(request, preempted):
                    self.meter.preemptions += preempted
                    if preempted:
                        self.timeline.grew(request, self._live[request].total)
                    self.timeline.closed(request, self.now_us)
                case Refuse(request, code):
                    self._end(self._live[request], code)

    def _drop(self, block: BlockId, tier: KvTier) -> None:
        if block not in self._kept[tier]:
            raise SimulationError(f"the policy drops a block that the {tier} does not hold")
        self._kept[tier].discard(block)

    def _move(self, action: Move) -> None:
        block, source, target = action.block, action.source, action.target
        if block.id not in self._kept[source]:
            raise SimulationError(f"the policy moves a block that the {source} does not hold")
        if DEVICE in (source, target):
            self._kept[target].add(block.id)
            self._pass(self.model.copy_us_per_block)
            moved = Moved(block.id, source, target, True, block.size_bytes, self.model.copy_us_per_block)
            self.meter.moved(moved)
            self._results.append(moved)
        else:
            self._start(action)

    def _start(self, action: Move) -> None:
        """Queue a transfer between host and disk; one of each direction runs at a time. As in the disk
        store, what it reports is the time of the transfer itself, without the wait in the queue."""
        size_bytes, target = action.block.size_bytes, action.target
        duration_us = self.model.read_us(size_bytes) if target is HOST else self.model.write_us(size_bytes)
        ends_us = self.now_us
        if not self.model.instant_disk:
            ends_us = max(self.now_us, self._free_at_us[target]) + duration_us
            self._free_at_us[target] = ends_us
        self._order += 1
        moved = Moved(action.block.id, action.source, target, True, size_bytes, duration_us)
        heapq.heappush(self._transfers, (ends_us, self._order, moved))

    def _open(self, action: Open) -> None:
        if any(block not in self._kept[DEVICE] for block in action.blocks):
            raise SimulationError("the policy opens a turn on blocks that the device does not hold")
        self.meter.opened(action)
        self.timeline.opened(action.request, self._live[action.request].total)

    # --- the batch ----------------------------------------------------------------------------

    def _run(self, plan: Plan) -> None:
        """Run the batch, and again as often as the plan holds and nothing happens."""
        pieces = plan.batch
        prefill = sum(p.count for p in pieces if p.count > 1)
        decode = sum(1 for p in pieces if p.count == 1)
        depth, deeper = depth_of(pieces), sum(p.count * p.count for p in pieces)
        turns = [(self._live[p.request], p) for p in pieces]
        steady = plan.steady_steps if self._strides else 1
        due_us = self._next_due_us()
        finished = False
        for stride in range(1, steady + 1):
            duration_us = self.model.step_us(prefill, decode, depth)
            self._pass(duration_us)
            self._results.append(Computed(prefill, decode, depth, duration_us))
            self.meter.ran(prefill, decode, duration_us)
            depth += deeper
            for live, piece in turns:
                finished |= self._sample(live, piece, stride)
            if finished or self.now_us >= due_us:
                break
        for live, piece in turns:
            self._progress(live, piece, stride)

    def _sample(self, live: Live, piece: Piece, stride: int) -> bool:
        """A token comes out if the piece reached the last one that is known. True: it was the last."""
        if piece.start + piece.count * stride != live.total:
            return False
        self.timeline.ready(live.request, live.units, self.now_us)
        live.total += 1
        live.generated += 1
        if live.generated == 1:
            self.meter.first_token(live.request, self.now_us)
        return self._is_done(live)

    def _is_done(self, live: Live) -> bool:
        """Its answer is complete, or the context is full (as the driver has it)."""
        return live.generated >= live.call.new_tokens or live.total >= self.scheduler.config.context_tokens

    def _progress(self, live: Live, piece: Piece, stride: int) -> None:
        unit_tokens = self.scheduler.config.unit_tokens
        computed = piece.start + piece.count * stride
        self.meter.computed(live.units, piece.start, computed, prefilled=piece.count > 1)
        known = live.total // unit_tokens
        units = tuple(live.units[live.told : known])
        live.told = max(live.told, known)
        reason = "stop" if live.generated and self._is_done(live) else None
        self._results.append(
            Progressed(live.request, computed, live.total, units, live.name(computed, unit_tokens), reason)
        )
        if reason is not None:
            self._end(live, reason)
