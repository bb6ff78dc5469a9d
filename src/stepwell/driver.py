"""The one loop: events in, a plan out, the plan carried out.

The only file that knows policy, engine and tiers at once. It decides nothing: what to run, move,
keep or refuse is in the plan; here bytes move, the batch runs, and what happened becomes events.
"""

from __future__ import annotations

import logging
import threading
from collections import OrderedDict, deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from stepwell.clock import Clock, MonotonicClock
from stepwell.engines.base import BatchItem, Engine, EngineError, Sampled, TextModel
from stepwell.policy.chain import TokenChain, root_hash
from stepwell.policy.machine import Policy
from stepwell.policy.types import (
    Action,
    BlockId,
    Close,
    Computed,
    DemoteIdle,
    Draining,
    Drop,
    Event,
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
    RequestArrived,
    RequestCancelled,
    RequestId,
    Seal,
    StepFailed,
)
from stepwell.recording import Recorder
from stepwell.requests import Admitted, Delta, Finished, Generation, Preempted, Rejected, Sink, TokenInfo
from stepwell.textstream import TextStream
from stepwell.tiers.base import Tiers, TierUsage

log = logging.getLogger("stepwell.driver")

_IDLE_CHECK_S = 0.5
_FLUSH_S = 20.0
_TRANSFER_S = 30.0
_MESSAGES = {
    "rate_limit_exceeded": "The queue is full; try again shortly.",
    "server_overloaded": "The server is shutting down and takes no new requests.",
    "context_length_exceeded": "The prompt leaves no room for an answer in this model's context.",
}


@dataclass(frozen=True, slots=True)
class AgentView:
    """Where one agent's KV lies now; what the live screens and ``/admin`` show."""

    tenant: str
    service_tier: str
    session: str
    agent: str
    parent_agent: str | None
    state: str
    """``waiting`` (queued), ``loading``, ``running``, ``preempted`` or ``idle`` (between turns)."""
    tokens: int
    """Length of the agent's context at its last turn."""
    kv_tokens: dict[KvTier, int]
    """Each token counted once, in the fastest KV tier that holds it."""
    turns: int
    last_ttft_us: int | None


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A picture of the whole server at one moment, for screens and metrics. Cheap to take."""

    now_us: int
    running: int
    waiting: int
    usage: dict[KvTier, TierUsage]
    agents: Sequence[AgentView]
    counters: dict[str, int]
    """Monotonic counters. Keys: ``prompt_tokens_{computed,device,host,disk}``,
    ``generation_tokens``, ``recomputed_tokens``, ``computed_tokens``, ``preemptions``, ``steps``,
    ``evictions_{device_host,device_gone,host_disk,host_gone,disk_gone}``,
    ``moved_bytes_{device_host,host_device,host_disk,disk_host}``,
    ``moved_us_{device_host,host_device,host_disk,disk_host}``, ``step_us``, ``engine_us``,
    ``failed_loads``, ``failed_steps``, ``requests_{finished,cancelled,rejected}``."""


@dataclass(slots=True)
class _Live:
    """A request that has not ended yet."""

    request: RequestId
    generation: Generation
    sink: Sink
    chain: TokenChain
    stream: TextStream
    submitted_us: int
    admitted: bool = False
    first_token_us: int | None = None
    generated: int = 0
    preemptions: int = 0
    recomputed: int = 0
    ended: bool = False


def _counters() -> dict[str, int]:
    names = [f"prompt_tokens_{source}" for source in ("computed", "device", "host", "disk")]
    names += ["generation_tokens", "computed_tokens", "steps", "step_us", "engine_us"]
    names += ["failed_loads", "failed_steps"]
    names += [f"requests_{end}" for end in ("finished", "cancelled", "rejected")]
    for route in ("device_host", "host_device", "host_disk", "disk_host"):
        names += [f"moved_bytes_{route}", f"moved_us_{route}"]
    return dict.fromkeys(names, 0)


@dataclass(slots=True)
class _Inbox:
    """Events from other threads, and the bell that wakes the loop."""

    events: deque[Event] = field(default_factory=deque)
    bell: threading.Condition = field(default_factory=threading.Condition)
    rung: bool = False

    def put(self, event: Event) -> None:
        with self.bell:
            self.events.append(event)
            self._ring()

    def ring(self) -> None:
        with self.bell:
            self._ring()

    def _ring(self) -> None:
        self.rung = True
        self.bell.notify()

    def drain(self) -> list[Event]:
        with self.bell:
            self.rung = False
            taken = list(self.events)
            self.events.clear()
            return taken

    def wait(self, timeout_s: float | None) -> bool:
        with self.bell:
            return self.rung or self.bell.wait(timeout_s)


class Driver:
    """Runs the loop in a thread of its own between ``start`` and ``stop``.

    Without ``start`` whoever owns it calls ``step`` (tests, benchmarks, simulation).
    """

    def __init__(
        self,
        engine: Engine,
        text: TextModel,
        tiers: Tiers,
        policy: Policy,
        *,
        clock: Clock | None = None,
        recorder: Recorder | None = None,
        salt: Callable[[str], str] = str,
        strict: bool = False,
    ) -> None:
        """``salt`` maps a tenant to what separates its KV; ``strict`` checks every invariant after
        every step and lets unexpected errors through."""
        self.engine, self.text, self.tiers, self.policy = engine, text, tiers, policy
        self.clock = clock or MonotonicClock()
        self._recorder = recorder
        self._salt = salt
        self._strict = strict
        self._lock = threading.Lock()
        self._inbox = _Inbox()
        self._results: list[Event] = []
        self._live: dict[RequestId, _Live] = {}
        self._roots: dict[str, bytes] = {}
        self._next_request = 0
        self._ttft_us: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._counters = _counters()
        self._thread: threading.Thread | None = None
        self._stop_at_us: int | None = None
        self._stopped = False
        self._demoted = threading.Event()
        self._failed_loads: set[BlockId] = set()
        self._failed_opens: set[RequestId] = set()
        tiers.on_ready(self._inbox.ring)
        recovered = tuple(tiers.recovered())
        if recovered:
            self._inbox.put(Recovered(recovered))

    # --- from other threads -------------------------------------------------------------------

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        """Queue a turn. Thread-safe. Raises nothing: what is wrong arrives as ``Rejected``."""
        chain = TokenChain(self._root(generation.tenant), self.policy.config.unit_tokens, generation.prompt)
        stream = TextStream(self.text.detokenizer(), generation.stop)
        with self._inbox.bell:
            self._next_request += 1
            request = self._next_request
            live = _Live(request, generation, sink, chain, stream, self.clock.now_us())
            closed = self._stopped
            if not closed:
                self._live[request] = live
                self._inbox.put(self._arrival(live))
        if closed:
            self._reject(live, "server_overloaded", 1_000)
        return request

    def _root(self, tenant: str) -> bytes:
        root = self._roots.get(tenant)
        if root is None:
            root = self._roots[tenant] = root_hash(self.engine.info.fingerprint, self._salt(tenant))
        return root

    def _arrival(self, live: _Live) -> RequestArrived:
        generation = live.generation
        return RequestArrived(
            request=live.request,
            tenant=generation.tenant,
            service_tier=generation.service_tier,
            session=generation.session,
            agent=generation.agent,
            parent_agent=generation.parent_agent,
            prompt_tokens=len(generation.prompt),
            max_new_tokens=generation.max_new_tokens,
            units=tuple(live.chain.units),
        )

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
            memory = self.policy.memory
            config = self.policy.config
            device = TierUsage(
                memory.device_used * config.block_bytes,
                config.device_blocks * config.block_bytes,
                memory.device_used,
            )
            usage = {KvTier.DEVICE: device}
            usage |= {tier: self.tiers.usage(tier) for tier in (KvTier.HOST, KvTier.DISK)}
            return Snapshot(
                now_us=self.clock.now_us(),
                running=len(self.policy.board.running),
                waiting=len(self.policy.board.waiting),
                usage=usage,
                agents=self._agent_views(),
                counters=self._all_counters(),
            )

    def _agent_views(self) -> list[AgentView]:
        views = []
        for (tenant, name), record in self.policy.agents.records.items():
            tokens, kv_tokens = self.policy.agents.where(record)
            views.append(
                AgentView(
                    tenant,
                    record.service_tier,
                    record.session,
                    name,
                    record.parent_agent,
                    self.policy.agents.state_of(record),
                    tokens,
                    kv_tokens,
                    record.turns,
                    self._ttft_us.get((tenant, name)),
                )
            )
        return views

    def _all_counters(self) -> dict[str, int]:
        counters = dict(self._counters)
        counters["recomputed_tokens"] = self.policy.recomputed_tokens
        counters["preemptions"] = self.policy.board.preemptions
        for name, count in self.policy.memory.evictions.items():
            counters[f"evictions_{name}"] = count
        return counters

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
        self._stopped = True
        for live in list(self._live.values()):
            self._reject(live, "server_overloaded", 1_000)
        self.tiers.close()
        self.engine.close_engine()
        if self._recorder is not None:
            self._recorder.close()

    # --- the loop -----------------------------------------------------------------------------

    def _loop(self) -> None:
        while not self._is_over():
            try:
                wake_at_us = self.step()
            except Exception:
                log.exception("a step of the loop failed")
                if self._strict:
                    raise
                self.clock.sleep_us(50_000)  # whatever it is, do not burn a core on it
                continue
            if wake_at_us is None or wake_at_us > self.clock.now_us():
                self._wait(wake_at_us)

    def _is_over(self) -> bool:
        if self._stop_at_us is None:
            return False
        late_us = self.clock.now_us() - self._stop_at_us
        if late_us > 0 and self._live:
            for live in list(self._live.values()):
                self._reject(live, "server_overloaded", 1_000)
                self._inbox.put(RequestCancelled(live.request))
        return self.policy.drained or late_us > _FLUSH_S * 1e6

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
            if self.policy.memory.writes_in_flight or self.policy.memory.reads_in_flight:
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
            plan = self.policy.step(now_us, events)
        self._note(now_us, events, plan)
        self._execute(plan)
        self._settle(events)
        self._counters["steps"] += bool(plan.batch)
        self._counters["step_us"] += self.clock.now_us() - now_us if plan.batch else 0
        if self._strict:
            self.check()
        return self.clock.now_us() if plan.actions or plan.batch or self._results else plan.wake_at_us

    def _note(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        for event in events:
            if isinstance(event, Moved) and event.ok and event.source.value != "device":
                self._count_move(event)
        if self._recorder is not None and (events or plan.actions or plan.batch):
            self._recorder.step(now_us, events, plan)

    def _count_move(self, event: Moved) -> None:
        route = f"{event.source.value}_{event.target.value}"
        self._counters[f"moved_bytes_{route}"] += event.size_bytes
        self._counters[f"moved_us_{route}"] += event.duration_us

    def check(self) -> None:
        """Assert every invariant of policy, engine and tiers. Runs when the server is idle."""
        with self._lock:
            self.policy.check()
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
            live.preemptions += 1
            live.sink(Preempted())

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
        self._count_move(moved)
        self._results.append(moved)

    def _load(self, action: Move) -> None:
        block, start_us = action.block, self.clock.now_us()
        data = None if block.parent in self._failed_loads else self.tiers.get_host(block.id)
        ok = data is not None
        if data is not None:
            try:
                self.engine.load(block, data)
            except EngineError as error:
                log.warning("a block did not load and will be computed again: %s", error)
                ok = False
        duration_us = self.clock.now_us() - start_us
        if not ok:
            self._failed_loads.add(block.id)
            self._counters["failed_loads"] += 1
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
        live.recomputed += action.recomputed_tokens
        if not live.admitted:
            live.admitted = True
            self._admitted(live, action)

    def _admitted(self, live: _Live, action: Open) -> None:
        counts = (action.from_device_tokens, action.from_host_tokens, action.from_disk_tokens)
        for name, tokens in zip(("device", "host", "disk"), counts, strict=True):
            self._counters[f"prompt_tokens_{name}"] += tokens
        self._counters["prompt_tokens_computed"] += len(live.generation.prompt) - action.cached_tokens
        live.sink(Admitted(live.request, *counts, self.clock.now_us() - live.submitted_us))

    def _refuse(self, request: RequestId, code: str, retry_after_ms: int) -> None:
        live = self._live.get(request)
        if live is not None:
            self._reject(live, code, retry_after_ms or None)

    def _reject(self, live: _Live, code: str, retry_after_ms: int | None, message: str | None = None) -> None:
        self._live.pop(live.request, None)
        if not live.ended:
            live.ended = True
            self._counters["requests_rejected"] += 1
            live.sink(Rejected(code, message or _MESSAGES.get(code, code), retry_after_ms))

    # --- the batch ----------------------------------------------------------------------------

    def _run(self, pieces: Sequence[Piece]) -> None:
        items = [self._item(piece) for piece in pieces]
        start_us = self.clock.now_us()
        try:
            sampled = {s.request: s for s in self.engine.run(items)}
        except EngineError as error:
            self._step_failed(error, items)
            return
        duration_us = self.clock.now_us() - start_us
        self._counters["engine_us"] += duration_us
        self._measure(items, duration_us)
        for item in items:
            self._progress(item, sampled.get(item.request))

    def _item(self, piece: Piece) -> BatchItem:
        tokens = self._live[piece.request].chain.tokens
        end = piece.start + piece.count
        return BatchItem(piece.request, piece.start, tokens[piece.start : end], end == len(tokens))

    def _measure(self, items: Sequence[BatchItem], duration_us: int) -> None:
        prefill = sum(len(i.tokens) for i in items if len(i.tokens) > 1)
        decode = sum(1 for i in items if len(i.tokens) == 1)
        depth = sum(len(i.tokens) * (2 * i.start + len(i.tokens)) // 2 for i in items)
        self._counters["computed_tokens"] += prefill + decode
        self._results.append(Computed(prefill, decode, depth, duration_us))

    def _step_failed(self, error: EngineError, items: Sequence[BatchItem]) -> None:
        """The requests named by the engine fail; the others are as they were and are tried again."""
        lost = tuple(error.requests) or tuple(item.request for item in items)
        log.error("an engine step failed for %d of %d requests: %s", len(lost), len(items), error)
        self._counters["failed_steps"] += 1
        self._results.append(StepFailed(lost))
        for request in lost:
            self.engine.forget(request)
            self._reject(self._live[request], "server_error", None, "The engine failed on this request.")

    def _progress(self, item: BatchItem, sampled: Sampled | None) -> None:
        live = self._live[item.request]
        computed = item.start + len(item.tokens)
        units: tuple[bytes, ...] = ()
        reason = None
        if sampled is not None:
            units = live.chain.extend((sampled.token,))
            reason = self._emit(live, sampled)
        self._results.append(
            Progressed(
                live.request, computed, len(live.chain.tokens), units, live.chain.name(computed), reason
            )
        )

    def _emit(self, live: _Live, sampled: Sampled) -> str | None:
        """Hand the token on; the finish reason if it was the last."""
        live.generated += 1
        self._counters["generation_tokens"] += 1
        if live.first_token_us is None:
            self._first_token(live)
        info = TokenInfo(
            sampled.token,
            sampled.logprob.logprob if sampled.logprob else None,
            tuple((top.token, top.logprob) for top in sampled.top_logprobs),
        )
        if self.text.is_end(sampled.token) and not live.generation.sampling.ignore_eos:
            return self._finish(live, "stop", info=None)
        piece = live.stream.add(sampled.token)
        live.sink(Delta(piece.text, (info,)))
        if piece.stopped_by is not None:
            return self._finish(live, "stop", stopped_by=piece.stopped_by)
        full = len(live.chain.tokens) >= self.policy.config.context_tokens
        if full or live.generated >= live.generation.max_new_tokens:
            return self._finish(live, "length")
        return None

    def _first_token(self, live: _Live) -> None:
        live.first_token_us = self.clock.now_us() - live.submitted_us
        self._ttft_us[live.generation.tenant, live.generation.agent] = live.first_token_us
        while len(self._ttft_us) > self.policy.config.max_agents:
            self._ttft_us.popitem(last=False)

    def _finish(
        self, live: _Live, reason: str, *, stopped_by: str | None = None, info: TokenInfo | None = None
    ) -> str:
        if stopped_by is None:
            rest = live.stream.finish()
            stopped_by = rest.stopped_by
            reason = "stop" if stopped_by is not None else reason
            if rest.text or info is not None:
                live.sink(Delta(rest.text, (info,) if info else ()))
        self._end(live, reason, stopped_by)
        return reason

    def _end(self, live: _Live, reason: str, stopped_by: str | None) -> None:
        if live.ended:
            return
        live.ended = True
        self._counters["requests_cancelled" if reason == "cancelled" else "requests_finished"] += 1
        live.sink(
            Finished(
                reason,
                stopped_by,
                prompt_tokens=len(live.generation.prompt),
                generated_tokens=live.generated,
                recomputed_tokens=live.recomputed,
                ttft_us=live.first_token_us or 0,
                e2e_us=self.clock.now_us() - live.submitted_us,
                preemptions=live.preemptions,
            )
        )

    def _settle(self, events: Sequence[Event]) -> None:
        """Forget requests whose end the policy has now seen."""
        for event in events:
            if isinstance(event, RequestCancelled):
                live = self._live.get(event.request)
                if live is not None:
                    self._end(live, "cancelled", None)
                self._forget(event.request)
            elif isinstance(event, Progressed) and event.finished is not None:
                self._forget(event.request)
        with self._inbox.bell:
            if self.policy.demoting is None and not self._inbox.events:
                self._demoted.set()

    def _forget(self, request: RequestId) -> None:
        self._live.pop(request, None)
        self.engine.forget(request)
