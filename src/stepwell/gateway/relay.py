"""A turn from its choice to its end: which node, what when that one is lost, and what was learned from it."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from tenacity import AsyncRetrying, RetryError, retry_if_result, stop_after_delay, wait_random_exponential

from stepwell.fleet.routers import Router
from stepwell.fleet.state import Fleet, Ticket
from stepwell.fleet.types import RoutedTurn, RoutingChoice
from stepwell.gateway.answer import RETRY_MS, RelayedAnswer, node_lost
from stepwell.gateway.metrics import GatewayMetrics
from stepwell.gateway.peek import Heard
from stepwell.gateway.upstream import NodeAnswer, NodeLost, Upstream, for_client
from stepwell.server.errors import ApiError

TRY_ELSEWHERE = frozenset({502, 503, 504, 529})
"""A node that goes down, or is full (529: as Anthropic's clients are told)."""
FIRST_WAIT_S, LONGEST_WAIT_S = 0.05, 1.0
MOST_RESPONSES = 100_000
STREAM = "text/event-stream"


def now_us() -> int:
    return time.monotonic_ns() // 1_000


@dataclass(slots=True)
class RelayedCall:
    """One request that may be sent to a node, and sent again."""

    method: str
    target: str
    """Path and query, as the client wrote them."""
    path: str
    headers: Sequence[tuple[str, str]]
    body: bytes
    turn: RoutedTurn
    serves: frozenset[str]
    """Nodes that have the model."""
    nodes: list[str] = field(default_factory=list)
    """Where it was tried."""
    reason: str = ""
    placed: Callable[[], None] = lambda: None
    """Told when it has its first node."""


class _Elsewhere(Exception):
    """The node answered that it takes nothing."""

    def __init__(self, status: int, headers: list[tuple[bytes, bytes]], body: bytes) -> None:
        super().__init__(status)
        self.status, self.headers, self.body = status, headers, body


class Relay:
    """Sends turns to nodes. Lives in the event loop."""

    def __init__(
        self,
        fleet: Fleet,
        router: Router,
        upstream: Upstream,
        metrics: GatewayMetrics,
        *,
        tries: int,
        patience_s: float,
        suspect: Callable[[str], None] = lambda node: None,
    ) -> None:
        """``suspect`` is told which node did not answer."""
        self.fleet, self.router = fleet, router
        self._upstream, self._metrics = upstream, metrics
        self._tries, self._patience_s = tries, patience_s
        self._suspect = suspect
        self.closing = False
        """The front end goes down: what is lost now is not tried again."""
        self.responses: OrderedDict[str, str] = OrderedDict()
        """Stored responses and their nodes, as far as they went through here."""

    async def serve(self, call: RelayedCall, answer: RelayedAnswer) -> None:
        """Answers the client unless it leaves. Raises ``ApiError``, but only while nothing was sent."""
        avoid: set[str] = set()
        last: _Elsewhere | None = None
        for _ in range(self._tries):
            choice = await self._choose(call, avoid)
            call.placed()
            call.nodes.append(choice.node)
            call.reason = choice.reason
            try:
                await self._one(call, choice, answer)
                return
            except NodeLost as error:
                self._metrics.retried("lost")
                self._suspect(error.node)
                if answer.told or self.closing:
                    if not answer.started:
                        raise node_lost() from None
                    self._metrics.broken.inc()
                    await answer.broken()
                    return
            except _Elsewhere as error:
                self._metrics.retried("refused")
                last = error
            avoid.add(choice.node)
        if answer.started:
            self._metrics.broken.inc()
            await answer.broken()
            return
        if last is None:
            raise node_lost()
        await answer.start(last.status, last.headers)
        await answer.end(last.body)

    async def _choose(self, call: RelayedCall, avoid: set[str]) -> RoutingChoice:
        """Waits while no node takes turns, each time a little longer. Raises ``ApiError``."""
        known = frozenset(self.fleet.nodes)

        async def look() -> RoutingChoice | None:
            others = known - call.serves
            for tried in (avoid, frozenset[str]()):
                started = time.perf_counter()
                choice = self.router.choose(self.fleet, call.turn, now_us(), tried | others)
                if choice is not None:
                    self._metrics.decided(choice, time.perf_counter() - started)
                    return choice
            return None

        first = await look()
        if first is not None:
            return first
        retrying = AsyncRetrying(
            retry=retry_if_result(lambda found: found is None),
            wait=wait_random_exponential(multiplier=FIRST_WAIT_S, max=LONGEST_WAIT_S),
            stop=stop_after_delay(self._patience_s),
        )
        try:
            found: RoutingChoice | None = await retrying(look)
        except RetryError:
            found = None
        if found is None:
            raise unavailable(call.turn.pinned is not None)
        return found

    async def _one(self, call: RelayedCall, choice: RoutingChoice, answer: RelayedAnswer) -> None:
        ticket = self.fleet.sent(call.turn, choice, now_us())
        heard, well = Heard(), False
        try:
            content = call.body if call.method != "GET" else None
            opened = self._upstream.open(choice.node, call.method, call.target, call.headers, content)
            async with opened as response:
                well = response.status_code == 200
                await self._pass_on(response, answer, heard)
        except NodeLost:
            self.fleet.failed(ticket, now_us())
            raise
        except BaseException:
            self.fleet.refused(ticket, now_us())
            raise
        self._learn(ticket, heard, well=well)

    async def _pass_on(self, response: NodeAnswer, answer: RelayedAnswer, heard: Heard) -> None:
        headers = for_client(response.headers)
        if response.status_code in TRY_ELSEWHERE:
            raise _Elsewhere(response.status_code, headers, await response.aread())
        if not response.headers.get("content-type", "").startswith(STREAM):
            # Whole before any of it goes on: a node that dies meanwhile is then not noticed by the client.
            data = await response.aread()
            heard.hear(data)
            await answer.start(response.status_code, headers)
            await answer.end(data)
            return
        async for chunk in response.aiter_raw():
            heard.hear(chunk)
            await answer.start(response.status_code, headers)
            await answer.body(chunk)
        await answer.start(response.status_code, headers)
        await answer.end()

    def _learn(self, ticket: Ticket, heard: Heard, *, well: bool) -> None:
        if heard.response is not None:
            self.responses[heard.response] = ticket.node
            self.responses.move_to_end(heard.response)
            while len(self.responses) > MOST_RESPONSES:
                self.responses.popitem(last=False)
        if not well:
            self.fleet.refused(ticket, now_us())
            return
        context, generated, cached = heard.tokens(ticket.turn)
        self.fleet.ended(
            ticket, now_us(), context_tokens=context, generated_tokens=generated, cached_tokens=cached
        )


def pinned(turn: RoutedTurn, node: str) -> RoutedTurn:
    """The turn, for this node alone."""
    return replace(turn, pinned=node)


def unavailable(is_pinned: bool) -> ApiError:
    what = "The node that holds what this request names" if is_pinned else "No node of this fleet"
    return ApiError(
        503,
        f"{what} takes requests at the moment; please try again.",
        code="server_overloaded",
        type="server_error",
        retry_after_ms=RETRY_MS,
    )
