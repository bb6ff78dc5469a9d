"""The policy: a pure state machine. Events and the time go in, a plan comes out.

    apply    each event changes the book
    admit    first come, first served: who gets a place on the device, and what is loaded for it
    compose  the batch: one token for everybody who streams, then pieces of prompts
    sink     cold host blocks go to disk before their room is needed

Nothing here reads a clock, does I/O or draws a random number; the order of every loop is fixed.
"""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.policy.admission import Admission
from stepwell.policy.agents import AgentBook
from stepwell.policy.batch import Composer
from stepwell.policy.board import Board
from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import Costs
from stepwell.policy.memory import Memory
from stepwell.policy.placements import Outlook, Placement, make_placement
from stepwell.policy.pushdown import push_down
from stepwell.policy.turns import Turn, TurnState
from stepwell.policy.types import (
    Computed,
    DemoteIdle,
    Draining,
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
    StepFailed,
)

_RETRY_AFTER_MS = 1_000
_WAKE_EVERY_US = 500_000  # an idle machine looks for what to promote this often at most


class Policy:
    """Decides who runs, what lies where, what is loaded and what is dropped."""

    def __init__(self, config: PolicyConfig, placement: Placement | None = None) -> None:
        self.config = config
        self.outlook = Outlook(config, Costs())
        self.memory = Memory(
            config, placement or make_placement(config.placement, self.outlook), self.outlook
        )
        self.board = Board(config, self.memory)
        self.agents = AgentBook(self.board)
        self.draining = False
        self.drained = False
        """After ``Draining``: nothing runs any more and what was worth keeping is on disk."""
        self.demoting: KvTier | None = None
        self.held_down = False
        """What the operator has pushed down stays there until somebody calls."""
        self._admission = Admission(self.board)
        self._composer = Composer(self.board)

    @property
    def recomputed_tokens(self) -> int:
        return self._admission.recomputed_tokens

    def step(self, now_us: int, events: Sequence[Event]) -> Plan:
        """Take in what happened and decide what happens next. Deterministic."""
        self.board.now_us = now_us
        self.outlook.waiting = len(self.board.waiting)
        self.memory.actions = []
        for event in events:
            self._apply(event)
        if self.draining:
            self._turn_away_waiting()
        self.memory.placement.tick(now_us)
        self._admission.admit()
        batch = self._composer.compose()
        self._sink(now_us)
        return Plan(tuple(self.memory.actions), batch, self._steady_steps(batch), self._wake_at_us(now_us))

    def _steady_steps(self, batch: Sequence[Piece]) -> int:
        """How often the same pieces may run, each a token further, before a block is full. Nothing
        else changes meanwhile if everybody who runs streams and nothing was moved or opened."""
        if self.memory.actions or len(batch) != len(self.board.running):
            return 1
        block_tokens = self.config.block_tokens
        left = [block_tokens - p.start % block_tokens for p in batch if not self._turn_of(p).prefilling]
        return min(left) if batch and len(left) == len(batch) else 1

    def _turn_of(self, piece: Piece) -> Turn:
        return self.board.turns[piece.request]

    def _wake_at_us(self, now_us: int) -> int | None:
        times = []
        if self.memory.writes_paused_until_us > now_us:
            times.append(self.memory.writes_paused_until_us)
        changes_at_us = self.memory.placement.wake_at_us()
        if changes_at_us is not None and not self.held_down:
            times.append(max(changes_at_us, now_us + _WAKE_EVERY_US))
        return min(times, default=None)

    # --- apply --------------------------------------------------------------------------------

    def _apply(self, event: Event) -> None:
        match event:
            case Progressed():  # first what there is most of: every case is tried in turn
                self._progressed(event)
            case Moved():
                self.memory.moved(event, self.board.now_us)
            case RequestArrived():
                self._arrived(event)
            case RequestCancelled(request):
                self._end(request)
            case StepFailed(requests):
                for request in requests:
                    self._end(request, trusted=False)
            case OpenFailed(request):
                self._open_failed(request)
            case Hinted():
                self.agents.hinted(event)
            case _:
                self._apply_to_machine(event)

    def _apply_to_machine(self, event: Computed | Recovered | DemoteIdle | Draining) -> None:
        match event:
            case Computed():
                self.memory.costs.saw_step(event)
            case Recovered(blocks):
                self.memory.recovered(blocks, self.board.now_us)
            case DemoteIdle(target):
                self.demoting, self.held_down = target, True
            case Draining():
                self.draining = True

    def _arrived(self, event: RequestArrived) -> None:
        self.held_down = False
        if self.draining:
            self._refuse(event.request, "server_overloaded", _RETRY_AFTER_MS)
        elif len(self.board.waiting) >= self.config.max_waiting:
            self._refuse(event.request, "rate_limit_exceeded", _RETRY_AFTER_MS)
        elif self._too_long(event.prompt_tokens + 1):
            self._refuse(event.request, "context_length_exceeded", 0)
        else:
            contract = self.board.book.of(event.service_tier)
            record = self.agents.record_of(event)
            turn = Turn(event, record, event.prompt_tokens, list(event.units), contract, self.board.now_us)
            self.board.turns[turn.id] = turn
            self.board.waiting.add(turn)
            self.agents.arrived(turn)

    def _too_long(self, tokens: int) -> bool:
        return (
            tokens > self.config.context_tokens or self.config.blocks_for(tokens) > self.config.device_blocks
        )

    def _refuse(self, request: RequestId, code: str, retry_after_ms: int) -> None:
        self.memory.actions.append(Refuse(request, code, retry_after_ms))

    def _progressed(self, event: Progressed) -> None:
        turn = self.board.turns.get(event.request)
        if turn is None or turn.state is not TurnState.RUNNING:
            return
        turn.computed, turn.total, turn.tail = event.computed, event.total, event.tail
        if event.units:
            turn.units.extend(event.units)
        self.board.seal_full_blocks(turn)
        if event.finished is not None:
            self._end(turn.id)

    def _end(self, request: RequestId, *, trusted: bool = True) -> None:
        """The turn is over; what it computed stays as blocks for the agent's next one."""
        turn = self.board.turns.pop(request, None)
        if turn is None:
            return
        if turn.state is TurnState.RUNNING:
            if trusted:
                self.board.seal_tail(turn, self.config.unit_tokens)
            self.board.leave_device(turn, preempted=False)
        else:
            self.board.waiting.remove(turn)
        self.board.unclaim(turn)
        self.agents.ended(turn)

    def _open_failed(self, request: RequestId) -> None:
        """A block did not load: the turn goes back to the head of the queue and is decided anew."""
        turn = self.board.turns.get(request)
        if turn is None or turn.state is not TurnState.RUNNING:
            return
        self.board.give_back(turn)
        turn.state = TurnState.WAITING
        self.board.wait_again(turn)

    def _turn_away_waiting(self) -> None:
        """Draining: who has not been admitted yet is told; who was preempted still finishes."""
        for turn in list(self.board.waiting):
            if turn.state is not TurnState.PREEMPTED:
                self._end(turn.id)
                self._refuse(turn.id, "server_overloaded", _RETRY_AFTER_MS)

    # --- sink ---------------------------------------------------------------------------------

    def _sink(self, now_us: int) -> None:
        idle = not self.board.running and not self.board.waiting
        if self.demoting is None and self.draining and idle and not self.drained:
            self.demoting = KvTier.DISK
        if self.demoting is None:
            self.memory.sink(now_us)
            if not self.held_down:
                self.memory.promote(now_us)
        elif push_down(self.memory, self.demoting, now_us):
            self.demoting = None
            self.drained = self.draining and idle

    def check(self) -> None:
        """Assert what must stay true; after every step in tests, while idle in production."""
        self.board.check()
