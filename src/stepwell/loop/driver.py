"""The one loop: events in, a plan out, the plan carried out.

The only file that knows policy, engine and tiers at once. It decides nothing: what to run, move,
keep or refuse is in the plan; here bytes move, the batch runs, and what happened becomes events.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence

from stepwell.clock import Clock, MonotonicClock
from stepwell.engines.base import BatchItem, Engine, EngineError, Sampled, TextModel
from stepwell.ledger.keeper import Keeper
from stepwell.ledger.metered import Use
from stepwell.loop.inbox import Inbox
from stepwell.loop.live import LiveRequest
from stepwell.loop.rarely import Rarely
from stepwell.loop.requests import Generation, Rejected, Sink
from stepwell.loop.snapshot import AgentView, Snapshot, take, take_one
from stepwell.loop.tally import Tally
from stepwell.policy.chain import TokenChain, root_hash
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import (
    Action,
    BlockId,
    Close,
    Computed,
    DemoteIdle,
    Draining,
    Drop,
    Event,
    Hint,
    Hinted,
    KvTier,
    Move,
    Moved,
    Open,
    OpenFailed,
    Piece,
    Plan,
    Progressed,
    Recovered,
    Refuse,
    RequestCancelled,
    RequestId,
    Seal,
    StepFailed,
)
from stepwell.recording import Recorder
from stepwell.tiers.base import Tiers

log = logging.getLogger("stepwell.loop")

_IDLE_CHECK_S = 0.5
_FLUSH_S = 20.0
_TRANSFER_S = 30.0
_MOST_FAILURES = 5  # steps in a row
_BROKEN = "The server has lost its footing and must be started again; nothing that was kept is lost."
_MESSAGES = {
    "rate_limit_exceeded": "The queue is full; try again shortly.",
    "server_overloaded": "The server is shutting down and takes no new requests.",
    "context_length_exceeded": "The prompt leaves no room for an answer in this model's context.",
}


class Driver:
    """Runs the loop in a thread between ``start`` and ``stop``; else its owner calls ``step``."""

    def __init__(
        self,
        engine: Engine,
        text: TextModel,
        tiers: Tiers,
        scheduler: Scheduler,
        *,
        clock: Clock | None = None,
        recorder: Recorder | None = None,
        keeper: Keeper | None = None,
        salt: Callable[[str], str] = str,
        strict: bool = False,
    ) -> None:
        """``salt`` maps a tenant to what separates its KV; ``strict`` checks every invariant after
        every step and lets unexpected errors through."""
        self.engine, self.text, self.tiers, self.scheduler = engine, text, tiers, scheduler
        self.clock = clock or MonotonicClock()
        self._recorder = recorder
        self._keeper = keeper
        self._salt = salt
        self._strict = strict
        self._lock = threading.Lock()
        self._inbox = Inbox()
        self._results: list[Event] = []
        self._live: dict[RequestId, LiveRequest] = {}
        self._roots: dict[str, bytes] = {}
        self._next_request = 0
        self._tally = Tally(scheduler.config.max_agents)
        self._thread: threading.Thread | None = None
        self._stop_at_us: int | None = None
        self._stopped = False
        self._broken = False
        self._demoted = threading.Event()
        self._load_log = Rarely(log)
        self._failed_loads: set[BlockId] = set()
        self._failed_opens: set[RequestId] = set()
        tiers.on_ready(self._inbox.ring)
        recovered = tuple(tiers.recovered())
        if recovered:
            self._inbox.put(Recovered(recovered))

    # --- from other threads -------------------------------------------------------------------

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        """Queue a turn. Thread-safe. Raises nothing: what is wrong arrives as ``Rejected``."""
        unit_tokens = self.scheduler.config.unit_tokens
        chain = TokenChain(self._root(generation.tenant), unit_tokens, generation.prompt)
        with self._inbox.bell:
            self._next_request += 1
            live = LiveRequest(
                self._next_request, generation, sink, chain, self.text, self.clock.now_us(), self._use_of
            )
            closed = self._stopped or self._broken
            arrival = live.arrival()
            refusal = None if closed or self._keeper is None else self._keeper.reserve(arrival)
            if not closed and refusal is None:
                self._live[live.request] = live
                self._inbox.put(arrival)
        if self._broken:
            self._reject(live, "server_error", None, _BROKEN)
        elif closed:
            self._reject(live, "server_overloaded", 1_000)
        elif refusal is not None:
            self._reject(live, refusal.code, refusal.retry_after_ms, refusal.message)
        return live.request

    def _use_of(self, request: RequestId, now_us: int) -> Use | None:
        return None if self._keeper is None else self._keeper.use_of(request, now_us)

    def _root(self, tenant: str) -> bytes:
        root = self._roots.get(tenant)
        if root is None:
            root = self._roots[tenant] = root_hash(self.engine.info.fingerprint, self._salt(tenant))
        return root

    def validate(self, generation: Generation) -> None:
        """Raise ``ValueError`` with one sentence when a turn cannot be honoured: a token that the model
        does not have, a grammar that does not compile. Thread-safe; a grammar may take a while."""
        size = self.engine.info.vocab_size
        if (token := max(generation.prompt)) >= size or min(generation.prompt) < 0:
            raise ValueError(f"token {token} does not exist: this model has {size} tokens")
        self.engine.validate(generation.sampling)

    def cancel(self, request: RequestId) -> None:
        """Stop a turn within a step. Thread-safe; unknown or ended requests are ignored."""
        if request in self._live:
            self._inbox.put(RequestCancelled(request))

    def hint(self, request: RequestId, tenant: str, agent: str, hint: Hint) -> None:
        """More is known about what an agent waits for. Thread-safe; unknown agents are ignored.

        ``request`` is the turn that the hint follows, 0 when it was said between turns."""
        self._inbox.put(Hinted(request, tenant, agent, hint))

    def demote_idle(self, tier: KvTier) -> None:
        """Push every idle block down to ``tier`` (host or disk) now, and wait for it. For benchmarks
        and operators; thread-safe."""
        with self._inbox.bell:
            self._demoted.clear()
            self._inbox.put(DemoteIdle(tier))
        if self._thread is None:
            self.run_until_idle()
        else:
            self._demoted.wait()

    def snapshot(self) -> Snapshot:
        """A consistent picture of this moment. Thread-safe."""
        with self._lock:
            return take(
                self.scheduler, self.tiers, self._tally.counters, self._tally.ttft_us, self.clock.now_us()
            )

    def agent(self, tenant: str, agent: str) -> AgentView | None:
        """One agent as it is now; None: not known. Thread-safe, and cheap however many there are."""
        with self._lock:
            return take_one(self.scheduler, (tenant, agent), self._tally.ttft_us, self.clock.now_us())

    @property
    def serves(self) -> bool:
        """Whether requests are taken at all; False after ``stop``, or when the loop could not go on."""
        return not (self._stopped or self._broken)

    def start(self) -> None:
        """Start the loop's thread."""
        assert self._thread is None, "the driver runs already"
        self._thread = threading.Thread(target=self._loop, name="stepwell-driver", daemon=True)
        self._thread.start()

    def stop(self, drain_s: float = 30.0) -> None:
        """Let running requests finish for up to ``drain_s``, put blocks worth keeping on disk, end.

        Requests still running then are told (``Rejected``). Closes engine, tiers and recording.
        """
        if self._stopped:
            return
        self._stop_at_us = self.clock.now_us() + int(drain_s * 1e6)
        self._inbox.put(Draining())
        if self._thread is None:
            self.run_until_idle()
        else:
            self._thread.join(drain_s + _FLUSH_S + 10)
        with self._inbox.bell:  # whoever submits now is either told below or sees that it is over
            self._stopped = True
        for live in list(self._live.values()):
            self._reject(live, "server_overloaded", 1_000)
        if self._keeper is not None:
            self._keeper.close(self.clock.now_us())
        self.tiers.close()
        self.engine.close_engine()
        if self._recorder is not None:
            self._recorder.close()

    # --- the loop -----------------------------------------------------------------------------

    def _loop(self) -> None:
        failures = 0
        while not self._is_over():
            try:
                wake_at_us = self.step()
                failures = 0
            except Exception:
                log.exception("a step of the loop failed")
                if self._strict:
                    raise
                failures += 1
                if failures >= _MOST_FAILURES:
                    self._give_up()
                    return
                self.clock.sleep_us(50_000)  # whatever it is, do not burn a core on it
                continue
            if wake_at_us is None or wake_at_us > self.clock.now_us():
                self._wait(wake_at_us)

    def _give_up(self) -> None:
        """One step after the other fails: policy and engine no longer agree on what lies where. Whoever
        waits is told, and so is whoever comes; what is on disk is safe for the next start."""
        log.critical("%d steps failed one after the other: this server serves no more", _MOST_FAILURES)
        self._broken = True
        for live in list(self._live.values()):
            self._reject(live, "server_error", None, _BROKEN)
        self._demoted.set()

    def _is_over(self) -> bool:
        if self._stop_at_us is None:
            return False
        late_us = self.clock.now_us() - self._stop_at_us
        if late_us > 0 and self._live:
            for live in list(self._live.values()):
                self._reject(live, "server_overloaded", 1_000)
                self._inbox.put(RequestCancelled(live.request, "server_overloaded"))
        return self.scheduler.drained or late_us > _FLUSH_S * 1e6

    def _wait(self, wake_at_us: int | None) -> None:
        left_s = None if wake_at_us is None else max(0.0, (wake_at_us - self.clock.now_us()) / 1e6)
        if self._stop_at_us is not None:
            left_s = min(left_s or 0.1, 0.1)
        patience_s = _IDLE_CHECK_S if left_s is None else min(left_s, _IDLE_CHECK_S)
        if not self._inbox.wait(patience_s) and not self._live:
            self.check()
            self._inbox.wait(left_s)

    def run_until_idle(self, max_steps: int = 100_000) -> None:
        """Step until nothing is left to do. For drivers without a thread."""
        for _ in range(max_steps):
            wake_at_us = self.step()
            if wake_at_us is not None and wake_at_us <= self.clock.now_us():
                continue
            if self.scheduler.block_manager.transfers_in_flight:
                if not self._inbox.wait(_TRANSFER_S):
                    raise RuntimeError("a transfer between host and disk does not end")
            elif not self._inbox.rung:
                return
        raise RuntimeError("the driver does not come to rest")

    def step(self) -> int | None:
        """One turn of the loop. Returns when it wants to be called again: now, later, or on an event."""
        now_us = self.clock.now_us()
        with self._lock:
            # What the last step did comes first: a cancel must find the request as it really is.
            events = [*self._results, *self.tiers.poll(), *self._inbox.drain()]
            self._results = []
            plan = self.scheduler.step(now_us, events)
        self._note(now_us, events, plan)
        if self._keeper is not None:
            self._keeper.step(now_us, events, plan, self.scheduler)
        self._execute(plan)
        self._settle(events)
        if plan.batch:
            self._tally.step(self.clock.now_us() - now_us)
        if self._strict:
            self.check()
            if self._keeper is not None:
                self._keeper.check(self.scheduler)
        return self.clock.now_us() if plan.actions or plan.batch or self._results else self._wake_at_us(plan)

    def _wake_at_us(self, plan: Plan) -> int | None:
        """When somebody wants to be called again although nothing happens."""
        times = [plan.wake_at_us, None if self._keeper is None else self._keeper.due_us()]
        return min((time_us for time_us in times if time_us is not None), default=None)

    def _note(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        for event in events:
            if isinstance(event, Moved) and event.ok and event.source.value != "device":
                self._tally.moved(event)
        # A step in which only time passed is posted as well.
        says_something = events or plan.actions or plan.batch or self._keeper is not None
        if self._recorder is not None and says_something:
            self._recorder.step(now_us, events, plan)

    def check(self) -> None:
        """Assert every invariant of policy, engine and tiers. Runs when the server is idle."""
        with self._lock:
            self.scheduler.check()
            self.engine.check()
            self.tiers.check()

    # --- carrying a plan out ------------------------------------------------------------------

    def _execute(self, plan: Plan) -> None:
        self._failed_loads.clear()
        self._failed_opens.clear()
        for action in plan.actions:
            self._carry_out(action)
        pieces = [piece for piece in plan.batch if piece.request not in self._failed_opens]
        if pieces:
            self._run(pieces)

    def _carry_out(self, action: Action) -> None:
        match action:
            case Seal(request, block):
                self.engine.seal(request, block)
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
                self._refuse(request, code, retry_after_ms)

    def _move(self, action: Move) -> None:
        if action.source is KvTier.DEVICE:
            self._store(action)
        elif action.target is KvTier.DEVICE:
            self._load(action)
        else:
            self.tiers.start(action.block, action.source, action.target)

    def _close(self, action: Close) -> None:
        self.engine.close(action.request)
        live = self._live.get(action.request)
        if action.preempted and live is not None:
            live.preempted()

    def _store(self, action: Move) -> None:
        start_us = self.clock.now_us()
        if action.block.id in self._failed_loads:  # it was to come and go in one step, and never came
            self._results.append(Moved(action.block.id, action.source, action.target, False, 0, 0))
            return
        data = self.engine.store(action.block.id)
        ok = self.tiers.put_host(action.block, data)
        moved = Moved(
            action.block.id, action.source, action.target, ok, len(data), self.clock.now_us() - start_us
        )
        self._tally.moved(moved)
        self._results.append(moved)

    def _load(self, action: Move) -> None:
        block, start_us = action.block, self.clock.now_us()
        data = None if block.parent in self._failed_loads else self.tiers.get_host(block.id)
        ok = data is not None
        if data is not None:
            try:
                self.engine.load(block, data)
            except EngineError as error:
                self._load_log.warning(start_us, "a block did not load and may be computed again", error)
                ok = False
        duration_us = self.clock.now_us() - start_us
        if not ok:
            self._failed_loads.add(block.id)
            self._tally.add("failed_loads")
        gone = not ok and block.parent not in self._failed_loads
        self._results.append(
            Moved(block.id, action.source, action.target, ok, block.size_bytes, duration_us, gone)
        )

    def _open(self, action: Open) -> None:
        live = self._live.get(action.request)
        if live is None or self._failed_loads.intersection(action.blocks):
            self._failed_opens.add(action.request)
            self._results.insert(0, OpenFailed(action.request))  # before the loads that failed
            return
        self.engine.open(action.request, action.blocks, action.cached_tokens, live.generation.sampling)
        if live.opened(action, self.clock.now_us()):
            self._tally.admitted(action, len(live.generation.prompt))

    def _refuse(self, request: RequestId, code: str, retry_after_ms: int) -> None:
        live = self._live.get(request)
        if live is not None:
            self._reject(live, code, retry_after_ms or None)

    def _reject(
        self, live: LiveRequest, code: str, retry_after_ms: int | None, message: str | None = None
    ) -> None:
        self._live.pop(live.request, None)
        if self._keeper is not None:
            self._keeper.refused(live.request)
        if not live.ended:
            self._tally.add("requests_rejected")
            live.tell(Rejected(code, message or _MESSAGES.get(code, code), retry_after_ms))

    # --- the batch ----------------------------------------------------------------------------

    def _run(self, pieces: Sequence[Piece]) -> None:
        items = [self._live[piece.request].item(piece) for piece in pieces]
        start_us = self.clock.now_us()
        try:
            sampled = {s.request: s for s in self.engine.run(items)}
        except EngineError as error:
            self._step_failed(error, items)
            return
        duration_us = self.clock.now_us() - start_us
        self._ran(self._tally.ran(items, duration_us), pieces)
        for item in items:
            self._progress(item, sampled.get(item.request))

    def _ran(self, computed: Computed, pieces: Sequence[Piece]) -> None:
        self._results.append(computed)
        if self._keeper is not None:
            self._keeper.ran(computed, pieces, self.scheduler.block_manager.costs.prefill)

    def _step_failed(self, error: EngineError, items: Sequence[BatchItem]) -> None:
        """The requests named by the engine fail; the others are as they were and are tried again."""
        lost = tuple(error.requests) or tuple(item.request for item in items)
        log.error("an engine step failed for %d of %d requests: %s", len(lost), len(items), error)
        self._tally.add("failed_steps")
        self._results.append(StepFailed(lost))
        for request in lost:
            self.engine.forget(request)
            if (live := self._live.get(request)) is not None:
                self._reject(live, "server_error", None, "The engine failed on this request.")

    def _progress(self, item: BatchItem, sampled: Sampled | None) -> None:
        live = self._live[item.request]
        computed = item.start + len(item.tokens)
        units: tuple[bytes, ...] = ()
        reason = None
        if sampled is not None:
            units = live.chain.extend((sampled.token,))
            reason = self._take(live, sampled)
        self._results.append(
            Progressed(
                live.request, computed, len(live.chain.tokens), units, live.chain.name(computed), reason
            )
        )

    def _take(self, live: LiveRequest, sampled: Sampled) -> str | None:
        reason = live.take(sampled, self.scheduler.config.context_tokens, self.clock.now_us())
        self._tally.token(live, finished=reason is not None)
        return reason

    def _settle(self, events: Sequence[Event]) -> None:
        """Forget requests whose end the policy has now seen."""
        for event in events:
            if isinstance(event, RequestCancelled):
                self._cancelled(event.request)
            elif isinstance(event, Progressed) and event.finished is not None:
                self._forget(event.request)
        with self._inbox.bell:
            if self.scheduler.demoting is None and not self._inbox.events:
                self._demoted.set()

    def _cancelled(self, request: RequestId) -> None:
        live = self._live.get(request)
        if live is not None and not live.ended:
            self._tally.add("requests_cancelled")
            live.finish("cancelled", self.clock.now_us())
        self._forget(request)

    def _forget(self, request: RequestId) -> None:
        self._live.pop(request, None)
        self.engine.forget(request)
