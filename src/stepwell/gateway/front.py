"""The routes of the front end, by kind of request."""

from __future__ import annotations

import asyncio
from collections.abc import Iterable
from contextlib import ExitStack
from typing import Any
from urllib.parse import quote

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from stepwell.fleet.rendezvous import first
from stepwell.fleet.types import NodeState
from stepwell.gateway.answer import RelayedAnswer
from stepwell.gateway.merge import is_page, merged_models, merged_page
from stepwell.gateway.nodes import Nodes
from stepwell.gateway.peek import peek
from stepwell.gateway.relay import STREAM, RelayedCall, pinned, unavailable
from stepwell.gateway.routes import RouteKind, kind_of, named_in
from stepwell.gateway.upstream import NodeLost, for_client, for_node
from stepwell.loop.requests import Rejected
from stepwell.server.callers.identity import identify
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import ApiError, draining, model_not_found
from stepwell.server.limits.bodies import Bodies, Body
from stepwell.server.middleware import request_id_of
from stepwell.server.service import headers_of, require_local
from stepwell.server.settings import ServerSettings
from stepwell.server.telemetry.access import access_of
from stepwell.server.wire.body import ClientGone, read_body, too_slow
from stepwell.server.wire.paging import page_limit
from stepwell.server.wire.sse import or_gone

SCOPE_KEY = "stepwell.gateway"
SENDS = frozenset({"POST", "PUT", "PATCH"})
JSON = msgspec.json.Decoder()
VIA = ("via", "1.1 stepwell")
MOST_ID_CHARS = 256
"""No response has a longer one."""


class Front:
    """An ASGI application: everything but the front end's own routes goes to nodes."""

    def __init__(self, nodes: Nodes, settings: ServerSettings) -> None:
        """``settings``: the limits of nodes, which hold here too."""
        self.nodes = nodes
        self._settings = settings
        self.bodies = Bodies(settings)
        """Of turns that have no node yet, and of what goes to all nodes."""
        self.draining = False
        self.live = 0
        """Requests under way."""
        self.bridge = self
        """``GracefulServer`` asks here what is under way, and says when it takes too long."""

    def abort_all(self, rejected: Rejected) -> None:
        """What is under way ends now; streams with an error that says: try again."""
        self.nodes.relay.closing = True
        for node in self.nodes.watches:
            self.nodes.upstream.lose(node)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        request = Request(scope, receive)
        kind = kind_of(request.method, request.url.path)
        note: dict[str, Any] = {"kind": kind, "call": None}
        scope[SCOPE_KEY] = note
        if not self.nodes.keys.required:
            require_local(request)
        if self.draining:
            raise draining()
        self.live += 1
        try:
            if kind is RouteKind.TURN:
                with ExitStack() as room:
                    call = note["call"] = await self._turn(request, room)
                    answer = RelayedAnswer(send, call.path)
                    await or_gone(receive, self.nodes.relay.serve(call, answer))
            elif kind in (RouteKind.LIST, RouteKind.EVERY) or (
                kind is RouteKind.SESSION and request.method == "POST"
            ):
                asked = self._list(request) if kind is RouteKind.LIST else self._every(request, kind)
                await (await asked)(scope, receive, send)
            else:
                through = self._through(await self._node_of(request, kind), request, send)
                # While a body comes in, the request to the node reads it, and sees a client that leaves.
                await (through if request.method in SENDS else or_gone(receive, through))
        finally:
            self.live -= 1

    # --- turns -------------------------------------------------------------------------------------

    async def _turn(self, request: Request, room: ExitStack) -> RelayedCall:
        """``room``: what its body takes of the room for bodies, until it has a node."""
        key = self.key(request)
        body = await self._body(request, room.enter_context(self.bodies.of(key.tenant)))
        peeked = peek(headers_of(request), body, key, self.nodes.fleet.places)
        turn = peeked.turn
        access = access_of(request.scope)
        access.tenant, access.session, access.agent = turn.tenant, turn.session, turn.agent
        access.service_tier = turn.service_tier
        if peeked.previous_response is not None:
            turn = pinned(turn, await self._node_of_response(request, peeked.previous_response))
        elif peeked.has_files or (peeked.conversation and request.url.path == "/v1/responses"):
            turn = pinned(turn, self._home(turn.tenant))
        serves = self._serving(peeked.model)
        return RelayedCall(
            *("POST", _target(request), request.url.path, self._headers(request), body, turn, serves),
            placed=room.close,
        )

    def _serving(self, model: str | None) -> frozenset[str]:
        """Nodes that have the model. One that no node names is refused by those that there are."""
        watches = self.nodes.watches
        found = frozenset(name for name, watch in watches.items() if model in watch.models)
        if found or model is None:
            return found or frozenset(watches)
        if all(watch.models for watch in watches.values()):
            raise model_not_found(model)
        return frozenset(watches)

    async def _body(self, request: Request, room: Body) -> bytes:
        """Raises ``ApiError`` for one that is too large, too slow, or one too many."""
        try:
            async with asyncio.timeout(self._settings.body_timeout_s):
                return await read_body(request, self._settings.max_body_bytes, room)
        except TimeoutError:
            raise too_slow(self._settings.body_timeout_s) from None

    # --- which node --------------------------------------------------------------------------------

    def key(self, request: Request) -> ApiKey:
        """The caller's key, as every node finds it too. Raises a 401 ``ApiError``."""
        own = request.headers.get("x-api-key") or request.headers.get("x-goog-api-key")
        key = self.nodes.keys.find(request.headers.get("authorization") or (f"Bearer {own}" if own else None))
        access_of(request.scope).is_from(key)
        return key

    def _tenant(self, request: Request) -> str:
        return identify(headers_of(request), {}, self.key(request)).tenant

    def _home(self, tenant: str) -> str:
        """Where a tenant's documents and batches lie: the same node as long as the fleet is the same, whether
        it is there at the moment or not."""
        home = first(f"home\0{tenant}", self.nodes.watches)
        assert home is not None
        return home

    def _ready(self) -> list[str]:
        ready = [name for name, node in self.nodes.fleet.nodes.items() if node.state is NodeState.READY]
        if not ready:
            raise unavailable(is_pinned=False)
        return ready

    async def _node_of(self, request: Request, kind: RouteKind) -> str:
        path = request.url.path
        match kind:
            case RouteKind.HOME:
                return self._home(self._tenant(request))
            case RouteKind.RESPONSE:
                return await self._node_of_response(request, named_in(path).split("/")[0])
            case RouteKind.AGENT:
                return self._node_of_agent(request, named_in(path))
            case RouteKind.SESSION:
                held = self.nodes.fleet.places.of_session(self._tenant(request), named_in(path))
                ready = self._ready()
                return max(ready, key=lambda node: held.get(node, 0))
            case _:
                found = first(kind.value, self._ready())
                assert found is not None
                return found

    def _node_of_agent(self, request: Request, agent: str) -> str:
        key = self.key(request)
        tenant = request.query_params.get("tenant") if key.operator else None
        place = self.nodes.fleet.places.find((tenant or self._tenant(request), agent))
        ready = self._ready()
        if place is None or not place.held:
            return ready[0]
        return max(ready, key=lambda node: sum(place.held[node]) if node in place.held else -1)

    async def _node_of_response(self, request: Request, response: str) -> str:
        """Where it was made; after a restart of this front end every node is asked, with the client's key."""
        known = self.nodes.relay.responses.get(response)
        if known is not None and known in self.nodes.watches:
            return known
        if len(response) > MOST_ID_CHARS:
            return self._ready()[0]
        name = quote(response, safe="", errors="replace")  # a client may name anything
        answers = await self._ask(request, self._ready(), f"/v1/responses/{name}")
        found = next((node for node, (status, _) in answers.items() if status == 200), None)
        if found is None:
            return self._ready()[0]  # which says that there is none, in its own words
        self.nodes.relay.responses[response] = found
        return found

    # --- asking several ----------------------------------------------------------------------------

    async def _list(self, request: Request) -> Response:
        answers = await self._ask(request, self._ready(), _target(request))
        bad = next(((status, said) for status, said in answers.values() if status != 200), None)
        if bad is not None:
            return JSONResponse(bad[1], bad[0])
        pages = {node: said for node, (_, said) in answers.items() if is_page(said)} or _nobody()
        if request.url.path == "/v1/models":
            return JSONResponse(merged_models(list(pages.values())))
        operator = self.key(request).operator
        return JSONResponse(merged_page(pages, page_limit(request), operator=operator))

    async def _every(self, request: Request, kind: RouteKind) -> Response:
        """All nodes, also those that take no turns. A session's budget is answered as one node does; what
        operators ask is answered by node."""
        if kind is RouteKind.EVERY and not self.key(request).operator:
            raise ApiError(403, "This needs an operator's API key.", code="operator_key_required")
        if request.url.path == "/admin/keys/reload":
            await asyncio.to_thread(self.nodes.reload_keys)
        with self.bodies.of(self.key(request).tenant) as room:
            body = await self._body(request, room)
            answers = await self._ask(request, list(self.nodes.watches), _target(request), body)
        if kind is RouteKind.SESSION:
            answered = [(status, said) for status, said in answers.values() if said is not None]
            if not answered:
                raise unavailable(is_pinned=False)
            status, said = max(answered, key=lambda one: one[0])
            return JSONResponse(said, status)
        return JSONResponse(
            {
                "object": "fleet",
                "nodes": {n: {"status": status, "answer": said} for n, (status, said) in answers.items()},
            }
        )

    async def _ask(
        self, request: Request, nodes: Iterable[str], target: str, body: bytes | None = None
    ) -> dict[str, tuple[int, Any]]:
        """The same of several nodes at once, with the client's own key; 0 where there was no answer."""
        headers = self._headers(request)
        method = "GET" if body is None else request.method

        async def one(node: str) -> tuple[str, tuple[int, Any]]:
            try:
                async with self.nodes.upstream.open(node, method, target, headers, body or None) as response:
                    data = await response.aread()
                    status = response.status_code
            except NodeLost:
                return node, (0, None)
            try:
                return node, (status, JSON.decode(data))
            except ValueError:
                return node, (status, None)

        found = dict(await asyncio.gather(*(one(node) for node in nodes)))
        return found if body is not None else {n: a for n, a in found.items() if a[0]} or _nobody()

    # --- one node ----------------------------------------------------------------------------------

    async def _through(self, node: str, request: Request, send: Send) -> None:
        """A request that is sent once, and whatever comes back, neither held in memory here: uploads,
        downloads, the page and what it watches."""
        sends = request.method in SENDS
        content = request.stream() if sends else None
        headers = self._headers(request)
        if sends and (length := request.headers.get("content-length")):
            headers.append(("content-length", length))
        answer, streams = RelayedAnswer(send, request.url.path), False
        try:
            opened = self.nodes.upstream.open(node, request.method, _target(request), headers, content)
            async with opened as response:
                streams = response.headers.get("content-type", "").startswith(STREAM)
                await answer.start(response.status_code, for_client(response.headers))
                async for chunk in response.aiter_raw():
                    await answer.body(chunk)
                await answer.end()
        except NodeLost:
            if not answer.started:
                raise unavailable(is_pinned=True) from None
            if not streams:
                raise  # cut short, as the client has to see
            await answer.end()  # watchers connect again by themselves
        except ClientDisconnect:
            raise ClientGone from None

    def _headers(self, request: Request) -> list[tuple[str, str]]:
        """With keys, a node that has none must not take a client of ours for a program on its own machine."""
        headers = for_node(request.scope["headers"], request_id_of(request.scope))
        return [*headers, VIA] if self.nodes.keys.required else headers


def _nobody() -> dict[str, Any]:
    raise unavailable(is_pinned=False)


def _target(request: Request) -> str:
    raw: bytes = request.scope.get("raw_path") or request.url.path.encode()
    query: bytes = request.scope.get("query_string", b"")
    target = raw + (b"?" + query if query else b"")
    return target.decode("latin-1")
