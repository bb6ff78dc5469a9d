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
from stepwell.simulate.books import MachineBooks
from stepwell.simulate.hardware import Depths, StepCosts, depth_apart, depths_of
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.timeline import NoTimeline, Timeline

DEVICE, HOST, DISK = KvTier.DEVICE, KvTier.HOST, KvTier.DISK
_NUDGE_US = 100  # a policy that wants to be called again at once: time passes all the same
_FOREVER = 1 << 62
_IDLE_STEPS = 100_000
"""Steps in a row that run nothing: more than that, and the policy moves the same blocks to and fro."""


class SimulationError(StepwellError):
    """The policy and the machine do not agree, or nothing moves any more."""


@runtime_checkable
class ComingTurn(Protocol):
    """A turn that will be sent."""

    @property
    def new_tokens(self) -> int:
        """How many tokens it will generate."""

    def arrival(self, request: RequestId) -> RequestArrived:
        """What the policy is told."""

    def units(self, unit_tokens: int) -> list[bytes]:
        """Names of all full units of prompt and answer."""

    def tail(self, n_tokens: int) -> bytes | None:
        """The name of exactly the first ``n_tokens`` tokens; None: the machine makes one up."""


Due = tuple[int, "ComingTurn | Event"]
"""When something comes from outside, and what."""


class TurnSource(Protocol):
    """Where turns come from."""

    def start(self) -> Iterable[Due]:
        """What comes by itself."""

    def ended(self, call: ComingTurn, request: RequestId, now_us: int, reason: str) -> Iterable[Due]:
        """What follows the end of a turn. ``reason``: a finish reason, ``cancelled``, or an error code."""


@dataclass(slots=True, eq=False)
class Live:
    """A turn that has arrived and not ended."""

    request: RequestId
    call: ComingTurn
    arrival: RequestArrived
    units: list[bytes]
    total: int
    arrived_us: int
    told: int
    """Units that the policy knows."""
    generated: int = 0
    cached: int = 0
    """Tokens that it was admitted with, found in any KV tier."""

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


@dataclass(slots=True, eq=False)
class Flight:
    """A batch that is under way: the same pieces, each moved on by its count, ``strides`` times."""

    turns: list[tuple[Live, Piece]]
    started_us: int
    most_strides: int
    """No turn ends and nothing new is to decide before so many."""
    prefill: int
    decode: int
    depths: Depths
    deeper: Depths
    """What each stride adds to the depths."""
    first_us: int = 0
    """When the first stride ends."""
    strides: int = 0
    ends_us: int = 0


class Machine:
    """One run: ``run`` until nothing is left to do; or one replica of many, which ``act`` when it is time.

    ``strides``: take steps that decide nothing new in one go (``Plan.steady_steps``), with the same outcome.
    ``strict``: check every invariant of the policy after every step.
    ``bounded``: keep the timeline that the lower bound of ``bound.py`` needs.
    ``books``: the ledger beside it, as in a server.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        model: StepCosts,
        source: TurnSource,
        meter: SimulatedMeter,
        *,
        strides: bool = True,
        strict: bool = False,
        bounded: bool = True,
        books: MachineBooks | None = None,
        now_us: int = 0,
    ) -> None:
        self.scheduler, self.model, self.source, self.meter = scheduler, model, source, meter
        self.timeline = (Timeline if bounded else NoTimeline)(scheduler.config.unit_tokens)
        self.loop = Loop(scheduler, self, lambda: self.now_us, [books] if books else [])
        self.books = books
        self.now_us = now_us
        self.steps = 0
        self._idle_steps = 0
        self._strides = strides
        self._strict = strict
        self._results: list[Event] = []
        self.live: dict[RequestId, Live] = {}
        self.flight: Flight | None = None
        self._wake_us: int | None = now_us
        """When the policy is to be called again; None: at the next event."""
        self._next_request = 0
        self._order = 0
        self._inbox: list[tuple[int, int, ComingTurn | Event, RequestId, int]] = []
        """When it comes, order, what, the number a turn has already, and when it was first sent."""
        self._transfers: list[tuple[int, int, Moved]] = []
        self._free_at_us = {HOST: 0, DISK: 0}
        """When the queue of reads (to the host) and that of writes (to the disk) is done."""
        self._kept: dict[KvTier, set[BlockId]] = {tier: set() for tier in KvTier}
        self._expect(source.start())

    # --- the loop -----------------------------------------------------------------------------

    def run(self) -> None:
        """Step until every turn has ended. ``SimulationError`` when the policy lets one wait for ever."""
        while (next_us := self.next_us()) is not None:
            self.act(next_us)

    def next_us(self) -> int | None:
        """When this machine wants to ``act``; None: nothing is left to do, and nothing is expected."""
        if self.flight is not None:
            return self.flight.ends_us
        if self._wake_us is not None and self._wake_us <= self.now_us:
            return self.now_us
        if not self._inbox and not self.live:
            return None
        next_us = min(self._next_due_us(), _FOREVER if self._wake_us is None else self._wake_us)
        if next_us == _FOREVER:
            raise SimulationError(f"{len(self.live)} turns wait and nothing will happen any more")
        return next_us if next_us > self.now_us else self.now_us + _NUDGE_US

    def act(self, now_us: int) -> None:
        """What is due: the batch under way ends, the policy decides, and the next batch begins."""
        if self._idle_steps >= _IDLE_STEPS:
            raise SimulationError(
                f"the policy goes round in circles at {self.now_us} us: nothing runs any more"
            )
        if self.flight is not None:
            self._land(self.flight)
        elif now_us > self.now_us:
            self._pass_to(now_us)
        self._wake_us = self.loop.step()
        if self._strict:
            self.scheduler.check()

    def deliver(self, now_us: int, what: ComingTurn | Event, since_us: int | None = None) -> RequestId:
        """Something comes from outside now. A batch that is under way is not run again after this moment.
        Returns a turn's number; ``since_us``: when it was sent, if that was before."""
        request = 0
        if isinstance(what, ComingTurn):
            request = self._next_request = self._next_request + 1
        self._order += 1
        entry = (now_us, self._order, what, request, now_us if since_us is None else since_us)
        heapq.heappush(self._inbox, entry)
        if self.flight is not None and self.flight.strides > 1:
            self._plan_flight(self.flight)
        return request

    def unfinished(self) -> list[tuple[ComingTurn, int]]:
        """Turns that have not ended, with the times at which they were sent; this machine forgets them."""
        found = [(live.call, live.arrived_us) for live in self.live.values()]
        for request in self.live:
            del self.meter.turns[request]
        found += [
            (what, since_us)
            for _, _, what, _, since_us in sorted(self._inbox)
            if isinstance(what, ComingTurn)
        ]
        self.live, self._inbox = {}, []
        return found

    # --- as the loop's executor ---------------------------------------------------------------

    @property
    def has_results(self) -> bool:
        return bool(self._results) or self.flight is not None

    def poll(self) -> list[Event]:
        """What has happened; a turn that was cancelled has ended by now."""
        events = [*self._results, *self._ended_transfers(), *self._arrivals()]
        self._results = []
        for event in events:
            if isinstance(event, RequestCancelled) and event.request in self.live:
                self._end(self.live[event.request], "cancelled")
        return events

    def execute(self, plan: Plan) -> None:
        self.steps += 1
        self.meter.loading = self._loading()
        self._carry_out(plan.actions)
        self._idle_steps = 0 if plan.batch else self._idle_steps + 1
        if plan.batch:
            self._start_batch(plan)

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
            heapq.heappush(self._inbox, (at_us, self._order, what, 0, at_us))

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
            _, _, what, request, since_us = heapq.heappop(self._inbox)
            events.append(self._arrive(what, request, since_us) if isinstance(what, ComingTurn) else what)
            if isinstance(what, Recovered):
                self._kept[DISK].update(block.id for block in what.blocks)
        return events

    def _arrive(self, call: ComingTurn, request: RequestId, at_us: int) -> RequestArrived:
        if not request:
            request = self._next_request = self._next_request + 1
        arrival = call.arrival(request)
        live = Live(
            request,
            call,
            arrival,
            call.units(self.scheduler.config.unit_tokens),
            arrival.prompt_tokens,
            at_us,
            len(arrival.units),
        )
        self.live[live.request] = live
        self.meter.arrived(arrival, at_us)
        return arrival

    def _end(self, live: Live, reason: str) -> None:
        self.timeline.grew(live.request, live.total)
        self.meter.ended(live.request, self.now_us, reason, live.generated)
        self._expect(self.source.ended(live.call, live.request, self.now_us, reason))
        del self.live[live.request]

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
                        self.timeline.grew(request, self.live[request].total)
                    self.timeline.closed(request, self.now_us)
                case Refuse(request, code):
                    self._end(self.live[request], code)

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
        live = self.live[action.request]
        live.cached = live.cached or action.cached_tokens
        self.timeline.opened(action.request, self.live[action.request].total)

    # --- the batch ----------------------------------------------------------------------------

    def _start_batch(self, plan: Plan) -> None:
        """Run the batch, and again as often as the plan holds and nothing happens."""
        turns = [(self.live[p.request], p) for p in plan.batch]
        most = plan.steady_steps if self._strides else 1
        if most > 1:
            most = max(1, min(most, *(self._left(live) for live, _ in turns)))
        prefill = sum(p.count for p in plan.batch if p.count > 1)
        flight = Flight(turns, self.now_us, most, prefill, len(turns), depths_of(plan.batch), (0, len(turns)))
        flight.decode = sum(1 for p in plan.batch if p.count == 1)
        self._plan_flight(flight)
        self.flight = flight

    def _left(self, live: Live) -> int:
        """Tokens that it still generates."""
        room = self.scheduler.config.context_tokens - live.total
        return min(live.call.new_tokens - live.generated, room)

    def _plan_flight(self, flight: Flight) -> None:
        """How far it goes: to its last stride, or to the first one that ends after something has come."""
        due_us, model = self._next_due_us(), self.model
        prompt_depth, depth = flight.depths
        if flight.decode and 0 < model.tile_tokens <= flight.prefill + flight.decode:
            depth = self._depth_apart(flight)
        first_us = model.step_us(flight.prefill, flight.decode, prompt_depth, depth)
        flight.first_us = flight.ends_us = flight.started_us + first_us
        flight.strides = 1
        if flight.most_strides < 2 or flight.ends_us >= due_us:
            return
        left_us, decode = due_us - flight.started_us, flight.decode
        low, high = 2, flight.most_strides  # several strides only decode
        if model.strides_us(high, decode, depth) > left_us:
            while low < high:
                middle = (low + high) // 2
                if model.strides_us(middle, decode, depth) >= left_us:
                    high = middle
                else:
                    low = middle + 1
        flight.strides = high
        flight.ends_us = flight.started_us + model.strides_us(high, decode, depth)

    def _depth_apart(self, flight: Flight) -> int:
        unit_tokens = self.scheduler.config.unit_tokens
        ends = [(live.units[: (p.start + p.count) // unit_tokens], p) for live, p in flight.turns]
        prompts = [units for units, piece in ends if piece.count > 1]
        decoding = [(units, piece.start) for units, piece in ends if piece.count == 1]
        return depth_apart(prompts, decoding, unit_tokens)

    def _land(self, flight: Flight) -> None:
        """The batch has run as often as it will: what came of it."""
        self.flight = None
        self._tell_steps(flight)
        self._pass_to(flight.ends_us)
        for live, piece in flight.turns:
            computed = piece.start + piece.count * flight.strides
            self.meter.computed(live.units, piece.start, computed, live.total, prefilled=piece.count > 1)
            if piece.start + piece.count == live.total:
                self._generate(live, flight)
        for live, piece in flight.turns:
            self._progress(live, piece, flight.strides)

    def _tell_steps(self, flight: Flight) -> None:
        """Of several strides, which only decode, one of average length is told: the policy keeps averages."""
        strides, depths = flight.strides, sum(flight.depths)
        duration_us = flight.ends_us - flight.started_us
        depths += flight.deeper[1] * (strides - 1) // 2
        step = Computed(flight.prefill, flight.decode, depths, duration_us // strides)
        self._results.append(step)
        self.meter.ran(flight.prefill * strides, flight.decode * strides, duration_us)
        if self.books is not None:
            whole = Computed(step.prefill_tokens * strides, step.decode_tokens * strides, depths, duration_us)
            self.books.ran(whole, [piece for _, piece in flight.turns])

    def _generate(self, live: Live, flight: Flight) -> None:
        """The piece reached the last token that is known, so each stride gives a further one."""
        self.timeline.ready(live.request, live.units, flight.first_us)
        if not live.generated:
            self.meter.first_token(live.request, flight.first_us)
        live.total += flight.strides
        live.generated += flight.strides

    def _is_done(self, live: Live) -> bool:
        """Its answer is complete, or the context is full (as the driver has it)."""
        return live.generated >= live.call.new_tokens or live.total >= self.scheduler.config.context_tokens

    def _progress(self, live: Live, piece: Piece, stride: int) -> None:
        unit_tokens = self.scheduler.config.unit_tokens
        computed = piece.start + piece.count * stride
        known = live.total // unit_tokens
        units = tuple(live.units[live.told : known])
        live.told = max(live.told, known)
        reason = "stop" if live.generated and self._is_done(live) else None
        self._results.append(
            Progressed(live.request, computed, live.total, units, live.name(computed, unit_tokens), reason)
        )
        if reason is not None:
            self._end(live, reason)
