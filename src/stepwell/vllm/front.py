"""A turn on its way to vLLM and back: its owner, what it may cost, what it has come to.

The body goes on as the client wrote it but for what only a front end may say (``rewrite.py``), so that vLLM's
templates, tool and reasoning parsers, structured output and images are as vLLM has them. None of the client's
headers goes on.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from stepwell.gateway.answer import RelayedAnswer, node_lost
from stepwell.gateway.upstream import NodeAnswer, NodeLost, Upstream, for_client
from stepwell.loop.requests import Rejected
from stepwell.policy.types import RequestArrived, Wait
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import from_rejected
from stepwell.server.limits.shared_budgets import amount_ahead
from stepwell.server.middleware import request_id_of
from stepwell.server.service import Service, headers_of, service_of
from stepwell.server.telemetry.access import access_of
from stepwell.server.wire.body import ClientGone, read_object
from stepwell.server.wire.sse import or_gone
from stepwell.vllm.books import Count
from stepwell.vllm.child import ENGINE, EngineProcess
from stepwell.vllm.engine_loop import EngineLoop
from stepwell.vllm.rewrite import Owned, owned
from stepwell.vllm.shape import RequestShape, shape_of
from stepwell.vllm.usage import StreamReader, Used, whole

STREAM = "text/event-stream"
HELD_BACK = frozenset({b"content-length", b"server", b"date", b"connection", b"x-request-id"})


@dataclass(slots=True, eq=False)
class VllmTurn:
    """One request under way. What holds its place (``gate.Held``)."""

    number: int
    owned: Owned
    shape: RequestShape
    used: Used
    began_us: int
    ttft_us: int | None = None
    given_up: Rejected | None = None
    """Why the server ended it before it was answered."""
    task: asyncio.Task[Any] | None = field(default_factory=asyncio.current_task)

    @property
    def waiting(self) -> int:
        return self.shape.answers if self.ttft_us is None else 0

    @property
    def unused_tokens(self) -> int:
        """Of its bounds, once vLLM has said what it came to; until then nothing is given back."""
        if not self.used.prompt_tokens:
            return 0
        bound = self.shape.prompt_tokens + self.shape.new_tokens
        return max(0, bound - self.used.prompt_tokens - self.used.generated_tokens)

    def abort(self, reason: Rejected) -> None:
        self.given_up = reason
        if self.task is not None:
            self.task.cancel()


class EngineFront:
    """Sends turns to one vLLM server. Lives in the event loop."""

    def __init__(
        self, loop: EngineLoop, upstream: Upstream, secret: str, rank: Mapping[str, int], context_tokens: int
    ) -> None:
        """``secret``: the engine's own key. ``rank``: of the service tiers, 0 for the heaviest."""
        self._loop, self._upstream, self._rank = loop, upstream, rank
        self._headers = [("authorization", f"Bearer {secret}"), ("content-type", "application/json")]
        self._context_tokens = context_tokens
        self.turns: set[VllmTurn] = set()

    @property
    def live(self) -> int:
        """Turns under way: what a server that goes down waits for."""
        return len(self.turns)

    def abort_all(self, rejected: Rejected) -> None:
        for turn in list(self.turns):
            turn.abort(rejected)

    async def turn(self, request: Request) -> Response:
        """A route. Raises ``ApiError``."""
        service = service_of(request)
        service.require_open()
        key = service.key(request)
        service.gate.require_room(key)
        body = await read_object(request, service.settings, service.bodies, key.tenant)
        number = self._loop.number()
        mine = owned(body, headers_of(request), key, self._rank, number)
        access = access_of(request.scope)
        access.is_by(mine.identity)
        access.service_tier = mine.caller.service_tier
        shape = shape_of(request.url.path, mine.body, self._context_tokens, service.settings)
        return Relayed(self, service, key, mine, shape, number)

    async def serve(self, relayed: Relayed, scope: Scope, receive: Receive, send: Send) -> None:
        """From its place in the server to its last byte. Raises ``ApiError`` while nothing was sent."""
        service, key, mine, shape = relayed.service, relayed.key, relayed.mine, relayed.shape
        with ExitStack() as stack:
            place = stack.enter_context(service.gate.enter(key, mine.caller.service_tier, shape.answers))
            place.limits |= service.rates.request(key)
            place.limits |= service.rates.counted(key, shape.prompt_tokens + shape.new_tokens)
            turn = await self._begin(relayed.number, mine, shape)
            stack.callback(lambda: service.rates.refund(key, turn.unused_tokens))
            place.hold(turn)
            answer = RelayedAnswer(send, scope["path"])
            sent = self._send(turn, answer, place.limits, request_id_of(scope), scope["path"])
            await self._to_its_end(turn, answer, or_gone(receive, sent))

    async def _to_its_end(self, turn: VllmTurn, answer: RelayedAnswer, sent: Awaitable[str]) -> None:
        reason = "server_error"
        try:
            reason = await sent
        except ClientGone:
            reason = "cancelled"
            raise
        except asyncio.CancelledError:
            if turn.given_up is None or turn.task is None:
                reason = "cancelled"
                raise
            turn.task.uncancel()
            reason = turn.given_up.code
            if not answer.started:
                raise from_rejected(turn.given_up) from None
            await answer.broken()
        except NodeLost:
            if not answer.started:
                raise node_lost() from None
            await answer.broken()
        finally:
            self._end(turn, reason)

    async def _begin(self, number: int, mine: Owned, shape: RequestShape) -> VllmTurn:
        """Raises ``ApiError`` for a budget that is spent and books that cannot be written."""
        now_us = self._loop.now_us()
        if (books := self._loop.books) is not None and shape.generates:
            arrival = RequestArrived(
                number, mine.caller, shape.prompt_tokens, shape.new_tokens, (), mine.hint
            )
            async with amount_ahead(books.lessee, mine.caller, books.needed(arrival)):
                if (refused := books.begin(arrival)) is not None:
                    raise from_rejected(Rejected(*refused))
        self._loop.began(number, mine.caller, mine.hint)
        turn = VllmTurn(number, mine, shape, Used(shape.choices), now_us)
        self.turns.add(turn)
        return turn

    def _end(self, turn: VllmTurn, reason: str) -> None:
        self.turns.discard(turn)
        if self._loop.books is not None and turn.shape.generates:
            self._loop.books.end(turn.number, turn.used, reason)
        self._loop.ended(turn.number, turn.used, reason, turn.ttft_us)
        if reason in ("stop", "length"):
            self._tell_what_it_waits_for(turn)

    def _tell_what_it_waits_for(self, turn: VllmTurn) -> None:
        """What the answer shows, where the client has not said it: as for answers of our own engines."""
        hint, caller, called = turn.owned.hint, turn.owned.caller, turn.used.called
        if hint.wait is Wait.UNKNOWN and called.shows:
            wait = Wait.TOOL if called.calls else Wait.PERSON
            tool = called.kind() if called.calls else ""
            self._loop.hint(turn.number, caller.tenant, caller.agent, replace(hint, wait=wait, tool=tool))

    async def _send(
        self, turn: VllmTurn, answer: RelayedAnswer, limits: Mapping[str, str], request_id: str, path: str
    ) -> str:
        """The finish reason, or a code of what went wrong. Raises ``NodeLost``."""
        headers = [*self._headers, ("x-request-id", request_id)]
        async with self._upstream.open(ENGINE, "POST", path, headers, turn.shape.data) as response:
            kept = [(name, value) for name, value in for_client(response.headers) if name not in HELD_BACK]
            kept += [(name.encode(), value.encode()) for name, value in limits.items()]
            if response.headers.get("content-type", "").startswith(STREAM):
                await answer.start(response.status_code, kept)
                return await self._stream(turn, response, answer)
            data = whole(await response.aread(), turn.used)
            self._hear(turn)
            await answer.start(response.status_code, [*kept, (b"content-length", str(len(data)).encode())])
            await answer.end(data)
            if response.status_code != 200:
                return "server_error" if response.status_code >= 500 else "invalid_request"
            return _reason(turn.used)

    async def _stream(self, turn: VllmTurn, response: NodeAnswer, answer: RelayedAnswer) -> str:
        reader = StreamReader(turn.used, tells_usage=turn.shape.tells_usage)
        async for chunk in response.aiter_raw():
            if events := reader.feed(chunk):
                self._hear(turn)
                await answer.body(events)
        await answer.end(reader.end())
        return "server_error" if reader.failed else _reason(turn.used)

    def _hear(self, turn: VllmTurn) -> None:
        if turn.ttft_us is None and turn.used.prompt_tokens:
            turn.ttft_us = self._loop.now_us() - turn.began_us
            if self._loop.books is not None and turn.shape.generates:
                self._loop.books.first_token(turn.number, turn.used)

    async def counted(self, engine: EngineProcess) -> Count | None:
        return await engine.counted(self._headers)

    async def learn_context(self) -> None:
        """vLLM knows best how long a context may be: what its flags left of what the model could."""
        _, listed = await self._upstream.get_json(ENGINE, "/v1/models", dict(self._headers))
        try:
            self._context_tokens = int(listed["data"][0]["max_model_len"])
        except (LookupError, TypeError, ValueError):
            return

    async def models(self) -> Response:
        """vLLM's list, without the folder that a model lies in: that is not for clients. Raises
        ``ApiError``."""
        try:
            status, listed = await self._upstream.get_json(ENGINE, "/v1/models", dict(self._headers))
        except NodeLost:
            raise node_lost() from None
        for model in listed.get("data", ()) if isinstance(listed, dict) else ():
            model["root"] = model["id"]
        return JSONResponse(listed, status)


class Relayed(Response):
    """The answer to one turn, fetched while it is sent."""

    def __init__(
        self,
        front: EngineFront,
        service: Service,
        key: ApiKey,
        mine: Owned,
        shape: RequestShape,
        number: int,
    ) -> None:
        self.front, self.service, self.key, self.mine, self.shape = front, service, key, mine, shape
        self.number = number

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.front.serve(self, scope, receive, send)


def _reason(used: Used) -> str:
    """In the ledger's words: what came to its end has been served, whatever ended it."""
    return "length" if used.finished in ("length", "max_tokens") else "stop"
