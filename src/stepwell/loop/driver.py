"""The loop in its thread, and the ways into it from other threads.

``step.py`` has the loop itself, ``executor.py`` carries plans out on engine and KV tiers.
"""

from __future__ import annotations

import logging
import secrets
import threading
from collections.abc import Callable, Sequence
from typing import Any

from stepwell.basics.clock import Clock, MonotonicClock
from stepwell.engines.base import Engine, EngineInfo, TextModel
from stepwell.ledger.bookkeeper import Bookkeeper
from stepwell.loop.collector import Collector
from stepwell.loop.executor import EngineExecutor
from stepwell.loop.explainer import Explainer
from stepwell.loop.inbox import Inbox
from stepwell.loop.live import LiveRequest
from stepwell.loop.live_table import LiveTable
from stepwell.loop.requests import Generation, Sink
from stepwell.loop.snapshot import AgentView, Snapshot, take, take_one
from stepwell.loop.step import Loop, Observer
from stepwell.loop.tally import Tally
from stepwell.policy.chain import TokenChain, root_hash
from stepwell.policy.elsewhere import blocks_of_prompt
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import (
    BlockMeta,
    DemoteIdle,
    Draining,
    Embedded,
    Hint,
    Hinted,
    KvTier,
    Recovered,
    RequestArrived,
    RequestCancelled,
    RequestId,
)
from stepwell.tiers.base import Tiers
from stepwell.tiers.objects.offers import Offers

log = logging.getLogger("stepwell.loop")

_IDLE_CHECK_S = 0.5
_FLUSH_S = 20.0
_TRANSFER_S = 30.0
_MOST_FAILURES = 5  # steps in a row
_BROKEN = "The server cannot go on after repeated failures and must be restarted; stored data is safe."


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
        observers: Sequence[Observer] = (),
        books: Bookkeeper | None = None,
        salt: Callable[[str], str] = str,
        strict: bool = False,
        ids: tuple[int, int] = (1, 1),
        bell: threading.Condition | None = None,
        offers: Offers | None = None,
    ) -> None:
        """``observers`` see each step before the books do. ``salt`` maps a tenant to what separates its KV;
        ``strict`` checks every invariant after every step and lets unexpected errors through. ``ids``: the
        number of the first request, and the step to the next; ``bell``: rung for this loop and others;
        ``offers``: asked, before the loop sees a turn, what other nodes have of its prompt."""
        self.engine, self.text, self.tiers, self.scheduler = engine, text, tiers, scheduler
        self.clock = clock or MonotonicClock()
        self._books = books or Bookkeeper()
        self._salt = salt
        self._strict = strict
        self._inbox = Inbox() if bell is None else Inbox(bell=bell)
        self._tally = Tally(scheduler.config.max_agents)
        self._live = LiveTable(self._books, self._tally)
        self.executor = EngineExecutor(
            engine, tiers, self._inbox, self._live, self._tally, self._books, self.clock
        )
        self.collector = Collector()
        self.explainer = Explainer()
        """Why requests took as long as they did. Thread-safe."""
        watching = [*observers, self._tally, self._books, self.explainer]
        self.loop = Loop(scheduler, self.executor, self.clock.now_us, watching)
        self._roots: dict[tuple[str, str], bytes] = {}
        self._next_request, self._id_step = ids[0] - ids[1], ids[1]
        self._thread: threading.Thread | None = None
        self._stop_at_us: int | None = None
        self._stopped = False
        self._broken = False
        self._failures = 0
        self._demoted = threading.Event()
        self._offers = offers
        self._parked: dict[RequestId, RequestArrived] = {}
        """Requests that wait for an answer of ``offers``. Under the bell."""
        tiers.on_ready(self._inbox.ring)
        recovered = tuple(tiers.recovered())
        if recovered:
            self._inbox.put(Recovered(recovered))

    # --- from other threads -------------------------------------------------------------------

    def submit(self, generation: Generation, sink: Sink) -> RequestId:
        """Queue a turn. Thread-safe. Raises nothing: what is wrong arrives as ``Rejected``."""
        unit_tokens = self.scheduler.config.unit_tokens
        root = self._root(generation.caller.tenant, generation.sampling.adapter)
        if generation.sampling.prompt_logprobs is not None:
            root = secrets.token_bytes(len(root))  # no prefix is cached under it: all tokens get logits
        chain = TokenChain(root, unit_tokens, generation.prompt)
        with self._inbox.bell:
            self._next_request += self._id_step
            live = LiveRequest(
                self._next_request,
                generation,
                sink,
                chain,
                self.text,
                self.clock.now_us(),
                self._books.use_of,
                self.explainer.ended,
                self.scheduler.config.draft_tokens,
            )
            closed = self._stopped or self._broken
            arrival = live.arrival()
            refusal = None if closed else self._books.reserve(arrival)
            if not closed and refusal is None:
                self._live.add(live)
                self.explainer.submitted(arrival, live.submitted_us)
                if self._offers is None:
                    self._inbox.put(arrival)
                else:
                    self._parked[arrival.request] = arrival
        if self._offers is not None:
            self._ask_others(arrival, self._offers)
        if self._broken:
            self._live.reject(live, "server_error", None, _BROKEN)
        elif closed:
            self._live.reject(live, "server_overloaded", 1_000)
        elif refusal is not None:
            self._live.reject(live, refusal.code, refusal.retry_after_ms, refusal.message)
        return live.request

    def _ask_others(self, arrival: RequestArrived, offers: Offers) -> None:
        """Let the loop see a request that was parked, once it is known what other nodes have of it. Not
        under the bell: a long prompt has thousands of blocks, and the loop would wait meanwhile."""
        if arrival.request not in self._parked:
            return
        metas = blocks_of_prompt(arrival, self.scheduler.config)
        keys = [meta.id for meta in metas]
        if keys:
            offers.ask(keys, lambda there: self._offered(arrival.request, metas, there))
        else:
            self._offered(arrival.request, (), ())

    def _offered(self, request: RequestId, metas: Sequence[BlockMeta], there: Sequence[bool]) -> None:
        with self._inbox.bell:
            arrival = self._parked.pop(request, None)
            if arrival is None:
                return  # cancelled meanwhile
            found = tuple(meta for meta, is_there in zip(metas, there, strict=True) if is_there)
            if found:
                self._inbox.put(Recovered(found, elsewhere=True))
            self._inbox.put(arrival)

    def _root(self, tenant: str, adapter: str) -> bytes:
        root = self._roots.get((tenant, adapter))
        if root is None:
            root = root_hash(self.engine.info.kv_of(adapter), self._salt(tenant))
            self._roots[tenant, adapter] = root
        return root

    def validate(self, generation: Generation) -> None:
        """Raise ``ValueError`` with one sentence when a turn cannot be honoured: a token that the model
        does not have, a grammar that does not compile. Thread-safe; a grammar may take a while."""
        size = self.engine.info.vocab_size
        if (token := max(generation.prompt)) >= size or min(generation.prompt) < 0:
            raise ValueError(f"token {token} does not exist: this model has {size} tokens")
        self.engine.validate(generation.sampling)

    def cancel(self, request: RequestId, reason: str = "cancelled") -> None:
        """Stop a turn within a step. Thread-safe; unknown or ended requests are ignored."""
        with self._inbox.bell:
            if (arrival := self._parked.pop(request, None)) is not None:
                self._inbox.put(arrival)
            if request in self._live:
                self._inbox.put(RequestCancelled(request, reason))

    def hint(
        self, request: RequestId, tenant: str, agent: str, hint: Hint, *, paid_only: bool = False
    ) -> None:
        """More is known about what an agent waits for. Thread-safe; unknown agents are ignored.

        ``request`` is the turn that the hint follows, 0 when it was said between turns."""
        self._inbox.put(Hinted(request, tenant, agent, hint, paid_only))

    def embedded(self, event: Embedded) -> None:
        self._inbox.put(event)

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

    def named(self, requests: Sequence[RequestId], name: str) -> None:
        self.explainer.named(requests, name)

    def why(self, what: str) -> list[dict[str, Any]]:
        return self.explainer.find(what, self.clock.now_us())

    def snapshot(self) -> Snapshot:
        """A consistent picture of this moment. Thread-safe."""
        with self.loop.lock:
            counters = {**self._tally.counters, "steps": self.loop.steps, "step_us": self.loop.step_us}
            return take(self.scheduler, self.tiers, counters, self._tally.ttft_us, self.clock.now_us())

    def agent(self, tenant: str, agent: str) -> AgentView | None:
        """One agent as it is now; None: not known. Thread-safe, and cheap however many there are."""
        with self.loop.lock:
            return take_one(self.scheduler, (tenant, agent), self._tally.ttft_us, self.clock.now_us())

    @property
    def info(self) -> EngineInfo:
        """The model and what it runs on."""
        return self.engine.info

    def now_us(self) -> int:
        """The time by which a snapshot's times are given."""
        return self.clock.now_us()

    @property
    def serves(self) -> bool:
        """Whether requests are taken at all; False after ``stop``, or when the loop could not go on."""
        return not (self._stopped or self._broken)

    def start(self) -> None:
        """Start the loop's thread."""
        assert self._thread is None, "the driver runs already"
        self._thread = threading.Thread(target=self._run, name="stepwell-driver", daemon=True)
        self._thread.start()

    def stop(self, drain_s: float = 30.0) -> None:
        """Let running requests finish for up to ``drain_s``, put blocks worth keeping on disk, end.

        Requests still running then are told (``Rejected``). Closes engine, tiers and recording.
        """
        if self._stopped:
            return
        self.begin_stop(drain_s)
        if self._thread is None:
            self.run_until_idle()
        else:
            self._thread.join(drain_s + _FLUSH_S + 10)
        self.end()

    def begin_stop(self, drain_s: float) -> None:
        """The first half of ``stop``, for an owner that calls ``turn``: go on until ``is_over``."""
        self._stop_at_us = self.clock.now_us() + int(drain_s * 1e6)
        self._inbox.put(Draining())

    def end(self) -> None:
        """The second half: requests that still wait are told, everything is closed."""
        with self._inbox.bell:  # a caller that submits now is either told below or sees that it is over
            self._stopped = True
        for live in self._live:
            self._live.reject(live, "server_overloaded", 1_000)
        self.loop.close()
        if self._offers is not None:
            self._offers.close()
        self.tiers.close()
        self.engine.close_engine()

    # --- for an owner of several ----------------------------------------------------------------

    @property
    def inbox(self) -> Inbox:
        return self._inbox

    @property
    def busy(self) -> bool:
        """Whether a turn or a transfer is under way."""
        memory = self.scheduler.block_manager
        return bool(self.scheduler.table.turns or memory.transfers_in_flight or self.executor.has_results)

    @property
    def broken(self) -> bool:
        return self._broken

    def refuse_held(self, code: str, message: str) -> None:
        """Requests that the inbox holds are told that they are not served."""
        for request in self._inbox.take_held():
            if (live := self._live.get(request)) is not None:
                self._live.reject(live, code, None, message)

    # --- the loop -----------------------------------------------------------------------------

    def _run(self) -> None:
        while not (self.is_over() or self._broken):
            wake_at_us = self.turn()
            if wake_at_us is None or wake_at_us > self.clock.now_us():
                self._wait(wake_at_us)

    def turn(self) -> int | None:
        """A step whose failure ends nothing, until one too many has failed. When the next one is due."""
        try:
            wake_at_us = self.step()
            self.collector.between_steps()
            self._failures = 0
            return wake_at_us
        except Exception:
            log.exception("a step of the loop failed")
            if self._strict:
                raise
        self._failures += 1
        if self._failures >= _MOST_FAILURES:
            log.critical("%d steps failed one after the other", _MOST_FAILURES)
            self.give_up()
            return None
        self.clock.sleep_us(50_000)  # whatever it is, do not burn a core on it
        return self.clock.now_us()

    def give_up(self) -> None:
        """One step after the other fails: policy and engine no longer agree on what lies where. Requests
        that wait are told, and so are those that come; what is on disk is safe for the next start."""
        log.critical("this server serves no more")
        self._broken = True
        for live in self._live:
            self._live.reject(live, "server_error", None, _BROKEN)
        self._demoted.set()

    def is_over(self) -> bool:
        """Whether ``stop`` has nothing more to wait for."""
        if self._stop_at_us is None:
            return False
        late_us = self.clock.now_us() - self._stop_at_us
        if late_us > 0 and self._live:
            for live in self._live:
                self._live.reject(live, "server_overloaded", 1_000)
                self._inbox.put(RequestCancelled(live.request, "server_overloaded"))
        return self.scheduler.drained or late_us > _FLUSH_S * 1e6

    def _wait(self, wake_at_us: int | None) -> None:
        left_s = None if wake_at_us is None else max(0.0, (wake_at_us - self.clock.now_us()) / 1e6)
        if self._stop_at_us is not None:
            left_s = min(left_s or 0.1, 0.1)
        patience_s = _IDLE_CHECK_S if left_s is None else min(left_s, _IDLE_CHECK_S)
        if not self._inbox.wait(patience_s) and not self._live:
            self.check()
            self.collector.idle()
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
        due_us = self.loop.step()
        with self._inbox.bell:
            if self.scheduler.demoting is None and not self._inbox.events:
                self._demoted.set()
        if self._strict:
            self.check()
            self._books.check(self.scheduler.booked_bytes())
        times_us = [time_us for time_us in (due_us, self._books.due_us()) if time_us is not None]
        return min(times_us, default=None)

    def check(self) -> None:
        """Assert every invariant of policy, engine and tiers. Runs when the server is idle."""
        with self.loop.lock:
            self.scheduler.check()
            self.engine.check()
            self.tiers.check()
