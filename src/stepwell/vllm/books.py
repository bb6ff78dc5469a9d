"""The books of an engine that counts by itself: Stepwell's ledger behind what vLLM says of its requests.

The same keeper and meter as of Stepwell's own loop are told of arrivals, first tokens and ends, by a thread
that stands in the loop's place. What differs, because vLLM's steps are not seen from here:

tokens      vLLM's own counts, per request. What its counters show beyond the sum of them (a client left
            before anything was said) is entered under ``unattributed`` when nothing is under way, so that the
            spend log comes to what the engine has counted.
time and    as the engine's parts tell every second (``engine_meter.py``): steps by the tokens of each
memory      request, byte-seconds of each KV tier by holder, bytes that moved by request. An
            engine that tells nothing has its time split evenly, and no memory.
"""

from __future__ import annotations

import logging
import queue
import threading
from collections.abc import Callable
from dataclasses import dataclass, replace

from stepwell.basics.clock import Clock
from stepwell.ledger.bookkeeper import Refusal
from stepwell.ledger.budgets.lessee import Lessee
from stepwell.ledger.keeper import Keeper
from stepwell.ledger.metering.told import EngineReport
from stepwell.ledger.types import UNATTRIBUTED, Usage
from stepwell.policy.types import (
    Close,
    Computed,
    Embedded,
    Event,
    Open,
    Piece,
    Plan,
    Progressed,
    RequestArrived,
    RequestCancelled,
    RequestId,
    Taken,
)
from stepwell.vllm.usage import Used

log = logging.getLogger("stepwell.vllm")
TICK_S = 1.0
CLOSE_S = 15.0
ENDED_WELL = ("stop", "length")


@dataclass(frozen=True, slots=True)
class Count:
    """Tokens, in and out."""

    prompt_tokens: int = 0
    generated_tokens: int = 0

    def __add__(self, other: Count) -> Count:
        return Count(self.prompt_tokens + other.prompt_tokens, self.generated_tokens + other.generated_tokens)

    def __sub__(self, other: Count) -> Count:
        return Count(self.prompt_tokens - other.prompt_tokens, self.generated_tokens - other.generated_tokens)


class EngineBooks:
    """``begin`` may be called from any thread; the rest of a request from one."""

    def __init__(self, keeper: Keeper, clock: Clock, model: str) -> None:
        self._keeper, self._clock, self._model = keeper, clock, model
        self._work: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._live: dict[RequestId, RequestArrived] = {}
        self._open: set[RequestId] = set()
        self._then_us = clock.now_us()
        self._told = False
        """The engine says itself what it has done."""
        self.entered = Count()
        """What requests have come to, those without an owner included; of this engine's life."""
        self.unattributed = Count()
        """Of ``entered``: without an owner."""
        self._thread = threading.Thread(target=self._run, name="stepwell-books", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        """What is under way is given back its holds, and the books of this run are closed."""
        self._work.put(None)
        self._thread.join(CLOSE_S)

    # --- a request ---------------------------------------------------------------------------------

    @property
    def lessee(self) -> Lessee | None:
        """See ``RunningBooks``."""
        return self._keeper.lessee

    def needed(self, arrival: RequestArrived) -> int:
        """The most that it may come to, in micro-dollars."""
        return self._keeper.needed([arrival])

    def begin(self, arrival: RequestArrived) -> Refusal | None:
        """Hold the most that it may come to (``prompt_tokens`` is a bound), or say why it is not taken."""
        refused = self._keeper.reserve(arrival)
        if refused is None:
            self._work.put(lambda: self._arrived(arrival))
        return refused

    def first_token(self, request: RequestId, used: Used) -> None:
        """How long its prompt is, and how much of it was cached, is known by now."""
        prompt, cached = used.prompt_tokens, used.cached_tokens
        self._work.put(lambda: self._opened(request, prompt, cached))

    def end(self, request: RequestId, used: Used, reason: str) -> None:
        """``reason``: its finish reason, ``cancelled``, or a code of an error, for which nothing is
        charged."""
        count = Count(used.prompt_tokens, used.generated_tokens)
        cached = used.cached_tokens
        self._work.put(lambda: self._ended(request, count, cached, reason))

    def embedded(self, event: Embedded) -> None:
        self._work.put(lambda: self._embedded(event))

    def heard(self, report: EngineReport) -> None:
        """From the engine's own parts."""
        self._work.put(lambda: self._heard(report))

    def reconcile(self, counted: Count) -> None:
        """``counted``: by the engine since it was started. Nothing is under way."""
        self._work.put(lambda: self._reconcile(counted))

    def engine_started(self) -> None:
        """Its counters begin at zero."""
        self._work.put(self._forget_engine)

    # --- the thread --------------------------------------------------------------------------------

    def _run(self) -> None:
        while True:
            try:
                work = self._work.get(timeout=TICK_S)
            except queue.Empty:
                self._step([], Plan())
                continue
            if work is None:
                break
            work()
        self._step([], Plan())
        self._keeper.close(self._clock.now_us())

    def _step(self, events: list[Event], plan: Plan) -> None:
        now_us = self._clock.now_us()
        passed_us, self._then_us = now_us - self._then_us, now_us
        if self._live and passed_us > 0 and not self._told:
            pieces = [Piece(request, 0, 1) for request in self._live]
            self._keeper.ran(Computed(0, 0, 0, passed_us), pieces)
        self._keeper.decided(now_us, events, plan)

    def _heard(self, report: EngineReport) -> None:
        self._step([], Plan())
        self._told = True
        self._keeper.told(report)
        self._step([], Plan())

    def _arrived(self, arrival: RequestArrived) -> None:
        self._step([arrival], Plan(taken=(Taken(arrival.request, arrival.caller),)))
        self._live[arrival.request] = arrival

    def _opened(self, request: RequestId, prompt_tokens: int, cached_tokens: int) -> None:
        if request not in self._live or request in self._open:
            return
        self._open.add(request)
        if (metered := self._keeper.meter.requests.get(request)) is not None:
            metered.arrival = replace(metered.arrival, prompt_tokens=prompt_tokens)
        action = Open(request, (), min(cached_tokens, prompt_tokens), cached_tokens, 0, 0, 0)
        self._step([], Plan((action,)))
        self._step([Progressed(request, prompt_tokens, prompt_tokens + 1, (), b"")], Plan())

    def _ended(self, request: RequestId, count: Count, cached_tokens: int, reason: str) -> None:
        if count.prompt_tokens:
            self._opened(request, count.prompt_tokens, cached_tokens)
        self._open.discard(request)
        if self._live.pop(request, None) is None:
            return
        if (metered := self._keeper.meter.requests.get(request)) is not None and count.prompt_tokens:
            metered.arrival = replace(metered.arrival, prompt_tokens=count.prompt_tokens)
            metered.cached_tokens = min(cached_tokens, count.prompt_tokens)
            self.entered += count
        total = count.prompt_tokens + count.generated_tokens
        progressed = Progressed(request, total, total, (), b"", reason if reason in ENDED_WELL else None)
        events: list[Event] = [progressed] if count.prompt_tokens else []
        if reason not in ENDED_WELL:
            events.append(RequestCancelled(request, reason))
        self._step(events, Plan((Close(request),)))

    def _embedded(self, event: Embedded) -> None:
        self.entered += Count(event.tokens)
        self._step([event], Plan())

    def _reconcile(self, counted: Count) -> None:
        if self._live:
            return
        missing = counted - self.entered
        if missing == Count():
            return
        if min(missing.prompt_tokens, missing.generated_tokens) < 0:
            log.warning("the engine has counted fewer tokens than requests were charged for: %s", missing)
        row = Usage(
            0,
            UNATTRIBUTED,
            self._model,
            "unattributed",
            0,
            requests=0,
            input_tokens=missing.prompt_tokens,
            visible_tokens=missing.generated_tokens,
        )
        self._keeper.correct(row)
        self.entered += missing
        self.unattributed += missing
        self._step([], Plan())

    def _forget_engine(self) -> None:
        self.entered = Count()
