"""The scheduler: a pure state machine. Events and the time go in, a plan comes out.

    apply    each event changes the tables
    admit    which waiting turns get a place on the device, and what is loaded for them
    build    the batch: one token for every turn that decodes, then pieces of prompts (prefill)
    demote   cold host blocks are written to disk before their room is needed

Nothing here reads a clock, does I/O or draws a random number; the order of every loop is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from stepwell.policy.admission import Admission
from stepwell.policy.agent_table import AgentTable
from stepwell.policy.batch import BatchBuilder
from stepwell.policy.block_manager import BlockManager
from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import Costs
from stepwell.policy.demotion import demote_idle, give_up_device, keep_depths, shrink
from stepwell.policy.eviction import EvictionContext, make_eviction
from stepwell.policy.promotion import promote
from stepwell.policy.turn_table import TurnTable
from stepwell.policy.turns import RUNNING, Turn, TurnState
from stepwell.policy.types import (
    Caller,
    Computed,
    DemoteIdle,
    Draining,
    Elsewhere,
    Embedded,
    Event,
    Hinted,
    KvTier,
    Moved,
    OpenFailed,
    Piece,
    Plan,
    Progressed,
    Recovered,
    Refuse,
    RequestArrived,
    RequestCancelled,
    RequestId,
    Resized,
    StateLost,
    StepFailed,
    Taken,
    Unloading,
)

_RETRY_AFTER_MS: Final = 1_000
_WAKE_EVERY_US: Final = 500_000  # an idle machine looks for what to promote this often at most


class Scheduler:
    """Decides which turns run, where each block lies, what is loaded and what is dropped."""

    def __init__(self, config: PolicyConfig) -> None:
        self.config = config = replace(config)  # a copy: its bounds may change
        self.context = EvictionContext(config, Costs(always_copy=config.always_load))
        eviction = make_eviction(config.eviction, self.context)
        self.block_manager = BlockManager(config, eviction, self.context)
        self.table = TurnTable(config, self.block_manager)
        self.agents = AgentTable(self.table)
        self.draining = False
        self.drained = False
        """After ``Draining``: nothing runs any more and what was worth keeping is on disk."""
        self.demoting: KvTier | None = None
        self.held_down = False
        """What the operator has pushed down stays there until a turn needs it."""
        self._taken: list[Turn] = []
        self._admission = Admission(self.table)
        self._batch_builder = BatchBuilder(self.table)

    @property
    def recomputed_tokens(self) -> int:
        return self._admission.recomputed_tokens

    def step(self, now_us: int, events: Sequence[Event]) -> Plan:
        """Take in what happened and decide what happens next. Deterministic."""
        self.context.now_us = now_us
        self.context.waiting = len(self.table.waiting)
        self.block_manager.actions = []
        self._taken = []
        for event in events:
            self._apply(event)
        if self.draining:
            self._turn_away_waiting()
        self.block_manager.eviction.tick()
        keep_depths(self.block_manager)
        if self.block_manager.resized:
            shrink(self.block_manager)
        self._admission.admit()
        batch = self._batch_builder.build()
        self._demote()
        actions = tuple(self.block_manager.actions)
        steady, wake_at_us = self._steady_steps(batch), self._wake_at_us()
        return Plan(actions, batch, steady, wake_at_us, self._taken_on(), self._admission.waits(self._taken))

    def _taken_on(self) -> tuple[Taken, ...]:
        """Turns that came in this step and are still there."""
        taken = (turn for turn in self._taken if turn.id in self.table.turns)
        return tuple(Taken(turn.id, self._caller_of(turn)) for turn in taken)

    @staticmethod
    def _caller_of(turn: Turn) -> Caller:
        """As the agent is known: it may have said neither its name nor its role."""
        said, known = turn.arrival.caller, turn.record
        if (said.agent, said.role) == (known.agent, known.role):
            return said
        return replace(said, agent=known.agent, role=known.role)

    def _steady_steps(self, batch: Sequence[Piece]) -> int:
        """How often the same pieces may run, each a token further, before a block is full. Nothing
        else changes meanwhile if every running turn streams and nothing was moved or opened."""
        if self.block_manager.actions or len(batch) != len(self.table.running):
            return 1
        block_tokens = self.config.block_tokens
        left = [block_tokens - p.start % block_tokens for p in batch if not self._turn_of(p).prefilling]
        return min(left) if batch and len(left) == len(batch) else 1

    def _turn_of(self, piece: Piece) -> Turn:
        return self.table.turns[piece.request]

    def _wake_at_us(self) -> int | None:
        now_us = self.table.now_us
        times = []
        if self.block_manager.writes_paused_until_us > now_us:
            times.append(self.block_manager.writes_paused_until_us)
        if self.block_manager.descent.stalls_until_us is not None:
            times.append(max(now_us + 1, self.block_manager.descent.stalls_until_us))
        changes_at_us = self.block_manager.eviction.wake_at_us()
        if changes_at_us is not None and not self.held_down:
            times.append(max(changes_at_us, now_us + _WAKE_EVERY_US))
        return min(times, default=None)

    # --- apply --------------------------------------------------------------------------------

    def _apply(self, event: Event) -> None:
        match event:
            case Progressed():  # first what there is most of: every case is tried in turn
                self._progressed(event)
            case Moved():
                self.block_manager.moved(event)
            case RequestArrived():
                self._arrived(event)
            case RequestCancelled(request, reason):
                self._end(request, served=reason == "cancelled")
            case StepFailed(requests):
                for request in requests:
                    self._end(request, trusted=False, served=False)
            case OpenFailed(request):
                self._open_failed(request)
            case StateLost():
                self.block_manager.states.lost(event)
            case Hinted():
                self.agents.hinted(event)
            case _:
                self._apply_to_machine(event)

    def _apply_to_machine(
        self,
        event: Computed | Recovered | DemoteIdle | Draining | Embedded | Elsewhere | Resized | Unloading,
    ) -> None:
        match event:
            case Computed():
                self.block_manager.costs.saw_step(event)
            case Recovered(blocks, True):
                self.block_manager.elsewhere.offered(blocks)
            case Recovered(blocks):
                self.block_manager.recovered(blocks)
            case DemoteIdle(target):
                self.demoting, self.held_down = target, True
            case Draining():
                self.draining = True
            case Resized(host_bytes, disk_bytes):
                self.config.host_bytes, self.config.disk_bytes = host_bytes, disk_bytes
                self.block_manager.resized = True
            case Unloading():
                self.demoting, self.held_down = None, True
                give_up_device(self.block_manager)

    def _arrived(self, event: RequestArrived) -> None:
        self.held_down = False
        if self.draining:
            self._refuse(event.request, "server_overloaded", _RETRY_AFTER_MS)
        elif len(self.table.waiting) >= self.config.max_waiting and not self._make_way(
            event.caller.service_tier
        ):
            self._refuse(event.request, "rate_limit_exceeded", _RETRY_AFTER_MS)
        elif self._too_long(event.prompt_tokens + 1):
            self._refuse(event.request, "context_length_exceeded", 0)
        else:
            contract = self.table.book.of(event.caller.service_tier)
            record = self.agents.record_of(event)
            turn = Turn(event, record, event.prompt_tokens, list(event.units), contract, self.table.now_us)
            self.table.turns[turn.id] = turn
            self.table.waiting.add(turn)
            self.agents.arrived(turn)
            self._taken.append(turn)

    def _make_way(self, service_tier: str) -> bool:
        """The queue is full: whether a lighter turn in it was turned away for one of this service tier."""
        least = self.table.waiting.least_wanted(self.table.book.of(service_tier).weight)
        if least is None:
            return False
        self._end(least.id)
        self._refuse(least.id, "rate_limit_exceeded", _RETRY_AFTER_MS)
        return True

    def _too_long(self, tokens: int) -> bool:
        return (
            tokens > self.config.context_tokens or self.config.blocks_for(tokens) > self.config.device_blocks
        )

    def _refuse(self, request: RequestId, code: str, retry_after_ms: int) -> None:
        self.block_manager.actions.append(Refuse(request, code, retry_after_ms))

    def _progressed(self, event: Progressed) -> None:
        turn = self.table.turns.get(event.request)
        if turn is None or turn.state is not RUNNING:
            return
        if turn.checked:
            turn.record.drafts.saw(turn.checked, event.total - turn.total - 1)
        turn.computed, turn.total, turn.tail = event.computed, event.total, event.tail
        turn.draft, turn.checked = event.draft, 0
        if event.units:
            turn.units.extend(event.units)
        if (len(turn.path) + 1) * self.config.block_tokens <= turn.computed:
            self.table.seal_full_blocks(turn)
        if event.finished is not None:
            self._end(turn.id)

    def _end(self, request: RequestId, *, trusted: bool = True, served: bool = True) -> None:
        """The turn is over; what it computed stays as blocks for the agent's next one."""
        turn = self.table.turns.pop(request, None)
        if turn is None:
            return
        self.table.waiting.at_bound.ended(turn)
        if turn.state is RUNNING:
            if trusted:
                self.table.seal_tail(turn, self.config.unit_tokens)
            self.table.leave_device(turn, preempted=False)
        else:
            self.table.waiting.remove(turn)
            self.block_manager.descent.gone(turn.id)
        self.table.unclaim(turn)
        self.agents.ended(turn, served=served and turn.opened_at > 0)

    def _open_failed(self, request: RequestId) -> None:
        """A block did not load: the turn goes back to the head of the queue and is decided anew."""
        turn = self.table.turns.get(request)
        if turn is None or turn.state is not RUNNING:
            return
        self.table.give_back(turn)
        turn.state = TurnState.WAITING
        self.table.wait_again(turn)

    def _turn_away_waiting(self) -> None:
        """Draining: a turn that has not been admitted yet is told; one that was preempted still finishes."""
        for turn in list(self.table.waiting):
            if turn.state is not TurnState.PREEMPTED:
                self._end(turn.id)
                self._refuse(turn.id, "server_overloaded", _RETRY_AFTER_MS)

    # --- demote -------------------------------------------------------------------------------

    def _demote(self) -> None:
        idle = not self.table.running and not self.table.waiting
        if self.demoting is None and self.draining and idle and not self.drained:
            self.demoting = KvTier.DISK
        if self.demoting is None:
            self.block_manager.descent.write_behind()
            if not self.held_down:
                promote(self.block_manager)
        elif demote_idle(self.block_manager, self.demoting):
            self.demoting = None
            self.drained = self.draining and idle

    def demanding(self) -> frozenset[str]:
        """The service tiers that have turns which run or wait."""
        return frozenset([turn.contract.name for turn in self.table.turns.values()])

    def booked_bytes(self) -> tuple[int, int, int]:
        """What is booked on device, host and disk."""
        memory = self.block_manager
        return memory.device_used * self.config.block_bytes, memory.host_used, memory.disk_used

    def check(self) -> None:
        """Assert what must stay true; after every step in tests, while idle in production."""
        self.table.check()
