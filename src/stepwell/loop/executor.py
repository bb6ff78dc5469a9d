"""Carries plans out on an engine and its KV tiers. It decides nothing: bytes move, the batch runs, and what
happened becomes events."""

from __future__ import annotations

import logging
from collections.abc import Sequence

from stepwell.basics.clock import Clock
from stepwell.engines.base import BatchItem, Engine, EngineError, Sampled
from stepwell.ledger.bookkeeper import Bookkeeper
from stepwell.loop.inbox import Inbox
from stepwell.loop.live_table import LiveTable
from stepwell.loop.rarely import Rarely
from stepwell.loop.tally import Tally
from stepwell.policy.types import (
    Action,
    Adopt,
    BlockId,
    BlockMeta,
    Close,
    Drop,
    DropState,
    Event,
    KeepState,
    KvTier,
    LoadState,
    Move,
    Moved,
    Open,
    OpenFailed,
    Piece,
    Plan,
    Progressed,
    Refuse,
    RequestCancelled,
    RequestId,
    Seal,
    StateLost,
    StepFailed,
)
from stepwell.tiers.base import Tiers

log = logging.getLogger("stepwell.loop")


class EngineExecutor:
    """``Executor`` over a real machine. ``engine`` and ``tiers`` may be wrapped before the first step."""

    def __init__(
        self,
        engine: Engine,
        tiers: Tiers,
        inbox: Inbox,
        live: LiveTable,
        tally: Tally,
        books: Bookkeeper,
        clock: Clock,
    ) -> None:
        self.engine, self.tiers = engine, tiers
        self._inbox, self._live, self._tally, self._books = inbox, live, tally, books
        self._clock = clock
        self._context_tokens = engine.info.context_tokens
        self._results: list[Event] = []
        self._failed_loads: set[BlockId] = set()
        self._failed_states: set[BlockId] = set()
        self._failed_opens: set[RequestId] = set()
        self._load_log = Rarely(log)

    @property
    def has_results(self) -> bool:
        return bool(self._results)

    def poll(self) -> list[Event]:
        """What the last step did comes first: a cancel must find the request as it really is."""
        events = [*self._results, *self.tiers.poll(), *self._inbox.drain()]
        self._results = []
        return events

    def execute(self, plan: Plan) -> None:
        self._failed_loads.clear()
        self._failed_states.clear()
        self._failed_opens.clear()
        for action in plan.actions:
            self._carry_out(action)
        pieces = [piece for piece in plan.batch if piece.request not in self._failed_opens]
        if pieces:
            self._run(pieces)

    def settle(self, events: Sequence[Event]) -> None:
        for event in events:
            if isinstance(event, RequestCancelled):
                self._live.cancel(event.request, self._clock.now_us())
                self.engine.forget(event.request)
            elif isinstance(event, Progressed) and event.finished is not None:
                self._live.forget(event.request)
                self.engine.forget(event.request)

    # --- actions ------------------------------------------------------------------------------

    def _carry_out(self, action: Action) -> None:
        match action:
            case Seal(request, block):
                self.engine.seal(request, block)
            case KeepState() | Adopt() | DropState() | LoadState():
                self._mind_state(action)
            case Close():
                self._close(action)
            case Move():
                self._move(action)
            case Drop(block_id, KvTier.DEVICE):
                if block_id not in self._failed_loads:
                    self.engine.drop(block_id)
            case Drop(block_id, tier):
                self.tiers.drop(block_id, tier)
            case Open():
                self._open(action)
            case Refuse(request, code, retry_after_ms):
                if (live := self._live.get(request)) is not None:
                    self._live.reject(live, code, retry_after_ms or None)

    def _mind_state(self, action: KeepState | Adopt | DropState | LoadState) -> None:
        match action:
            case Adopt(request, block):
                self.engine.adopt(request, block)
            case KeepState(request, tokens) if request not in self._failed_opens:
                self.engine.keep_state(request, tokens)
            case DropState(block_id) if block_id not in self._failed_loads:
                self.engine.drop_state(block_id)
            case LoadState(block):
                self._load_state(block)

    def _load_state(self, block: BlockMeta) -> None:
        data = None if block.id in self._failed_loads else self.tiers.get_host(block.id)
        try:
            if data is not None:
                self.engine.load_state(block, data)
                return
        except EngineError as error:
            self._load_log.warning(self._clock.now_us(), "a running state did not load", error)
        self._tally.add("failed_loads")
        self._failed_states.add(block.id)
        self._results.append(StateLost(block.id, gone=block.id not in self._failed_loads))

    def _move(self, action: Move) -> None:
        if action.source is KvTier.DEVICE:
            self._store(action)
        elif action.target is KvTier.DEVICE:
            self._load(action)
        else:
            self.tiers.start(action.block, action.source, action.target)

    def _store(self, action: Move) -> None:
        block, start_us = action.block, self._clock.now_us()
        if block.id in self._failed_loads:  # it was to come and go in one step, and never came
            self._results.append(Moved(block.id, action.source, action.target, False, 0, 0))
            return
        data = self.engine.store(block.id)
        ok = self.tiers.put_host(block, data)
        took_us = self._clock.now_us() - start_us
        self._results.append(Moved(block.id, action.source, action.target, ok, len(data), took_us))

    def _load(self, action: Move) -> None:
        block, start_us = action.block, self._clock.now_us()
        data = None if block.parent in self._failed_loads else self.tiers.get_host(block.id)
        ok = data is not None
        if data is not None:
            try:
                self.engine.load(block, data)
            except EngineError as error:
                self._load_log.warning(start_us, "a block did not load and may be computed again", error)
                ok = False
        took_us = self._clock.now_us() - start_us
        gone = not ok and block.parent not in self._failed_loads
        if not ok:
            self._failed_loads.add(block.id)
            self._tally.add("failed_loads")
        self._results.append(
            Moved(block.id, action.source, action.target, ok, block.size_bytes, took_us, gone)
        )

    def _open(self, action: Open) -> None:
        live = self._live.get(action.request)
        stateless = self._failed_states.intersection(action.blocks[-1:])
        if live is None or stateless or self._failed_loads.intersection(action.blocks):
            self._failed_opens.add(action.request)
            self._results.insert(0, OpenFailed(action.request))  # before the loads that failed
            return
        self.engine.open(action.request, action.blocks, action.cached_tokens, live.generation.sampling)
        if live.opened(action, self._clock.now_us()):
            self._tally.admitted(action, len(live.generation.prompt))

    def _close(self, action: Close) -> None:
        self.engine.close(action.request)
        live = self._live.get(action.request)
        if action.preempted and live is not None:
            live.preempted()

    # --- the batch ----------------------------------------------------------------------------

    def _run(self, pieces: Sequence[Piece]) -> None:
        items = [self._live[piece.request].item(piece) for piece in pieces]
        start_us = self._clock.now_us()
        try:
            sampled: dict[RequestId, list[Sampled]] = {}
            for one in self.engine.run(items):
                sampled.setdefault(one.request, []).append(one)
        except EngineError as error:
            self._step_failed(error, items)
            return
        computed = self._tally.ran(items, self._clock.now_us() - start_us)
        self._results.append(computed)
        self._books.ran(computed, pieces)
        for item in items:
            live, tokens = self._live[item.request], sampled.get(item.request, [])
            progressed, taken = live.advance(item, tokens, self._context_tokens, self._clock.now_us)
            self._tally.took(live, item.draft, taken, finished=progressed.finished is not None)
            if taken < len(tokens):  # the answer ended among the guesses that were right
                self.engine.take_back(item.request, progressed.computed)
            self._results.append(progressed)

    def _step_failed(self, error: EngineError, items: Sequence[BatchItem]) -> None:
        """The requests named by the engine fail; the others are as they were and are tried again."""
        lost = tuple(error.requests) or tuple(item.request for item in items)
        log.error("an engine step failed for %d of %d requests: %s", len(lost), len(items), error)
        self._tally.add("failed_steps")
        self._results.append(StepFailed(lost))
        for request in lost:
            self.engine.forget(request)
            if (live := self._live.get(request)) is not None:
                self._live.reject(live, "server_error", None, "The engine failed on this request.")
