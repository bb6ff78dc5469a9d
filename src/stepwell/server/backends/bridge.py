"""From the driver's thread to the event loop, and back when the client goes away.

The driver calls a sink per output and must not wait. All sinks append to one queue and wake the
loop once, however many agents got a token in a step: with 200 of them a wake-up each would cost the
driver more than its own work. What one request has not read yet is merged, so a slow client holds
at most one pending delta per choice, never more than its own answer.
"""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import TracebackType

from stepwell.loop.port import LoopPort
from stepwell.loop.requests import Admitted, Delta, Finished, Generation, Output, Preempted, Rejected
from stepwell.policy.types import RequestId
from stepwell.server.backends.enforced import Judge

Observer = Callable[[Generation, Output], None]


@dataclass(slots=True)
class Arrival:
    """An output of the ``index``-th generation of a batch."""

    index: int
    output: Output
    more: list[Delta] = field(default_factory=list)
    """Deltas that came after this one and before it was read. Joined when it is read: joining them
    one by one would copy a long answer once per token."""

    def absorb(self, later: Output) -> bool:
        """Take a later output of the same generation in, if one output can say both."""
        if isinstance(self.output, Delta) and isinstance(later, Delta):
            self.more.append(later)
            return True
        return isinstance(self.output, Preempted) and isinstance(later, Preempted)

    def join(self) -> None:
        if isinstance(self.output, Delta) and self.more:
            deltas = [self.output, *self.more]
            tokens = tuple(info for delta in deltas for info in delta.tokens)
            self.output = Delta("".join(delta.text for delta in deltas), tokens)
            self.more = []


class Bridge:
    """Opens batches of generations on a driver. Lives in one event loop."""

    def __init__(self, driver: LoopPort, observe: Observer = lambda generation, output: None) -> None:
        self._driver = driver
        self.enforces = driver.info.enforces
        """Whether answers obey their constraints at all."""
        self._observe = observe
        self._loop: asyncio.AbstractEventLoop | None = None
        self._queue: deque[tuple[Generations, Arrival]] = deque()
        self._lock = threading.Lock()
        self._woken = False
        self._live: set[Generations] = set()

    @property
    def live(self) -> int:
        """Batches whose generations have not all ended."""
        return len(self._live)

    def open(self, generations: Sequence[Generation]) -> Generations:
        """Submit generations together. Use the batch as a context manager: leaving it cancels."""
        self._loop = asyncio.get_running_loop()
        batch = Generations(self, generations)
        self._live.add(batch)
        try:
            for index, generation in enumerate(generations):
                batch.requests.append(self._driver.submit(generation, partial(self._deliver, batch, index)))
        except BaseException:
            batch.cancel()
            raise
        self._drain()  # what the driver has refused at once is known when this returns
        return batch

    def abort_all(self, reason: Rejected) -> None:
        """Tell every request in flight that it will not be finished."""
        for batch in tuple(self._live):
            batch.abort(reason)

    def cancel(self, request: RequestId, reason: str = "cancelled") -> None:
        self._driver.cancel(request, reason)

    def ended(self, batch: Generations) -> None:
        self._live.discard(batch)

    def _deliver(self, batch: Generations, index: int, output: Output) -> None:
        """The sink of a generation: called in the driver's thread."""
        self._queue.append((batch, Arrival(index, output)))
        with self._lock:
            if self._woken or self._loop is None:
                return
            self._woken = True
        try:
            self._loop.call_soon_threadsafe(self._drain)
        except RuntimeError:
            # The loop has ended before the driver has: there are no readers left.
            self._queue.clear()

    def _drain(self) -> None:
        with self._lock:
            self._woken = False
        while self._queue:
            batch, arrival = self._queue.popleft()
            self._observe(batch.generations[arrival.index], arrival.output)
            batch.put(arrival)


class Generations:
    """The generations of one HTTP request and what they have said so far."""

    def __init__(self, bridge: Bridge, generations: Sequence[Generation]) -> None:
        self.generations = tuple(generations)
        self.requests: list[RequestId] = []
        self.admitted: dict[int, Admitted] = {}
        self.finished: dict[int, Finished] = {}
        self.rejected: Rejected | None = None
        """Of its generations by index, whether or not it has been read yet: for the access log."""
        self._bridge = bridge
        self._open = set(range(len(self.generations)))
        self._begun: set[int] = set()
        self._arrivals: deque[Arrival] = deque()
        self._unread: dict[int, Arrival] = {}
        self._ready = asyncio.Event()
        self._judges = {
            index: Judge(schema)
            for index, one in enumerate(self.generations if bridge.enforces else ())
            if (schema := one.sampling.json_schema) is not None and not one.prewarm
        }

    def __enter__(self) -> Generations:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.cancel()

    @property
    def waiting(self) -> int:
        """Generations that have not begun: nothing was heard of them."""
        return len(self._open - self._begun)

    @property
    def over(self) -> bool:
        """Everything has ended and has been read."""
        return not self._open and not self._arrivals

    @property
    def refused(self) -> Rejected | None:
        """Why some generation was not taken: its first output, still unread. One that was lost
        later has begun."""
        begun: set[int] = set()
        for arrival in self._arrivals:
            if isinstance(arrival.output, Rejected) and arrival.index not in begun:
                return arrival.output
            begun.add(arrival.index)
        return None

    async def next(self, timeout_s: float | None = None) -> Arrival | None:
        """The next output; None when ``timeout_s`` passed in silence. Not to be called when over."""
        if not self._arrivals:
            self._ready.clear()
            try:
                async with asyncio.timeout(timeout_s):
                    await self._ready.wait()
            except TimeoutError:
                return None
        arrival = self._arrivals.popleft()
        if self._unread.get(arrival.index) is arrival:
            del self._unread[arrival.index]
        arrival.join()
        return arrival

    def put(self, arrival: Arrival) -> None:
        """Take an output; adjacent deltas of one generation become one."""
        if arrival.index not in self._open:
            return
        self._begun.add(arrival.index)
        judge = self._judges.get(arrival.index)
        if judge is not None:
            arrival.output = judge.hear(arrival.output)
        self._note(arrival)
        unread = self._unread.get(arrival.index)
        if unread is not None and unread.absorb(arrival.output):
            return
        self._unread[arrival.index] = arrival
        self._arrivals.append(arrival)
        self._ready.set()

    def _note(self, arrival: Arrival) -> None:
        match arrival.output:
            case Admitted() as admitted:
                self.admitted.setdefault(arrival.index, admitted)
            case Finished() as finished:
                self.finished[arrival.index] = finished
                self._end(arrival.index)
            case Rejected() as rejected:
                self.rejected = rejected
                self._end(arrival.index)

    def cancel(self) -> None:
        """Stop whatever still runs. The driver does so within a step; what it says then is not read."""
        for index, request in enumerate(self.requests):
            if index in self._open:
                self._bridge.cancel(request)
        self._open.clear()
        self._bridge.ended(self)

    def abort(self, reason: Rejected) -> None:
        """End what still runs with an error that the client gets to see."""
        for index in sorted(self._open):
            self._bridge.cancel(self.requests[index], reason.code)
            self.put(Arrival(index, reason))

    def _end(self, index: int) -> None:
        self._open.discard(index)
        if not self._open:
            self._bridge.ended(self)
