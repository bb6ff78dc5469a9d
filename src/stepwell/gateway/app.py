"""The application of the front end, and running it until SIGTERM."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response
from starlette.routing import Route
from starlette.types import Scope

from stepwell.fleet.types import NodeState
from stepwell.gateway.front import SCOPE_KEY, Front
from stepwell.gateway.nodes import Nodes
from stepwell.gateway.routes import RouteKind
from stepwell.server.anthropic.errors import is_anthropic
from stepwell.server.anthropic.errors import response as anthropic_error
from stepwell.server.callers.named_paths import NamedPaths
from stepwell.server.errors import ApiError, bad_request, clip, not_found
from stepwell.server.middleware import Ended, RequestMiddleware, request_id_of
from stepwell.server.run import GracefulServer, base_url, listen, require_keys_beyond_loopback
from stepwell.server.service import require_local
from stepwell.server.settings import ServerSettings
from stepwell.server.telemetry.access import access_of
from stepwell.server.telemetry.metrics import CONTENT_TYPE
from stepwell.telemetry.logs import write_access, writes_access

METHODS = ["GET", "HEAD", "POST", "DELETE", "PUT", "PATCH", "OPTIONS"]
HOME = """A fleet of Stepwell nodes behind one address: point a client at {base}v1.

  GET {base}health    GET {base}metrics    GET {base}admin/fleet    GET {base}v1/models
"""


def create_app(
    nodes: Nodes, settings: ServerSettings, *, manage: bool = True, stop_nodes: bool = True
) -> Starlette:
    """The ASGI application. ``manage``: it starts the nodes and stops them; else they are the caller's."""
    front = Front(nodes, settings)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        if manage:
            await nodes.start()
        try:
            yield
        finally:
            if manage:
                await nodes.stop(stop_nodes=stop_nodes)

    app = Starlette(
        routes=[
            Route("/", _home, methods=["GET"]),
            Route("/health", _health, methods=["GET"]),
            Route("/metrics", _metrics, methods=["GET"]),
            Route("/admin/fleet", _fleet, methods=["GET"]),
            Route("/admin/fleet/restart", _restart, methods=["POST"]),
            Route("/admin/fleet/{node}/{verb}", _hold, methods=["POST"]),
            Route("/{path:path}", front, methods=METHODS),
        ],
        middleware=[Middleware(NamedPaths), Middleware(RequestMiddleware, ended=_counted(nodes))],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},
        lifespan=lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = front
    return app


def _front(request: Request) -> Front:
    front = request.app.state.service
    assert isinstance(front, Front)
    return front


def _operator(request: Request) -> Front:
    front = _front(request)
    if not front.nodes.keys.required:
        require_local(request)
    if not front.key(request).operator:
        raise ApiError(403, "This needs an operator's API key.", code="operator_key_required")
    return front


async def _home(request: Request) -> Response:
    return PlainTextResponse(HOME.format(base=request.base_url))


async def _health(request: Request) -> Response:
    """200 while any node takes turns."""
    front = _front(request)
    counted = {state.value: 0 for state in NodeState}
    for node in front.nodes.fleet.nodes.values():
        counted[node.state.value] += 1
    if front.draining:
        return JSONResponse({"status": "draining", "nodes": counted}, 503)
    well = counted[NodeState.READY.value] > 0
    return JSONResponse({"status": "ok" if well else "no_node", "nodes": counted}, 200 if well else 503)


async def _metrics(request: Request) -> Response:
    return Response(_operator(request).nodes.metrics.text(), media_type=CONTENT_TYPE)


async def _fleet(request: Request) -> Response:
    return JSONResponse(_operator(request).nodes.view())


async def _restart(request: Request) -> Response:
    """A rolling restart of the nodes that were started here. ``GET /admin/fleet`` shows how far it is."""
    nodes = _operator(request).nodes
    if not nodes.supervisors:
        raise bad_request("No node of this fleet was started here: restart attached ones where they run.")
    return JSONResponse({"object": "fleet.restart", "begun": nodes.roll()}, 202)


async def _hold(request: Request) -> Response:
    """``drain`` keeps a node from new turns, ``resume`` lets it have them again."""
    nodes, name, verb = _operator(request).nodes, request.path_params["node"], request.path_params["verb"]
    if name not in nodes.watches or verb not in ("drain", "resume"):
        raise not_found(f"No node '{clip(name, 64)}', or no such verb: there is drain and resume.")
    nodes.hold(name, held=verb == "drain")
    return JSONResponse({"object": "fleet.node", "id": name, **nodes.view()["nodes"][name]})


def _counted(nodes: Nodes) -> Ended:
    """Counts requests by kind, and writes the access log: which node, after how many tries, and why."""

    def ended(scope: Scope, status: int) -> None:
        note = scope.get(SCOPE_KEY, {"kind": RouteKind.OWN, "call": None})
        nodes.metrics.requests.labels(note["kind"].value, str(status)).inc()
        if not writes_access():
            return
        fields = access_of(scope).fields(scope, request_id_of(scope), note["kind"].value, status)
        call = note["call"]
        if call is not None:
            fields |= {"node": call.nodes[-1] if call.nodes else None, "tries": len(call.nodes)}
            fields |= {"chosen_by": call.reason or None}
        write_access(fields)

    return ended


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    access_of(request.scope).error = error.code or ""
    if is_anthropic(request.url.path):
        return anthropic_error(error, request_id_of(request.scope))
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    what = f"{request.method} {clip(request.url.path)}"
    return await _api_error(
        request, ApiError(error.status_code, f"Not served here: {what}.", code="unknown_url")
    )


def serve(
    nodes: Nodes,
    settings: ServerSettings,
    *,
    stop_nodes: bool = True,
    on_ready: Callable[[str], None] = lambda url: None,
) -> None:
    """Serve until SIGTERM or Ctrl-C, then drain. Raises ``BadInput`` and ``StepwellError``."""
    require_keys_beyond_loopback(settings.host, nodes.keys)
    listener = listen(settings.host, settings.port)
    server = GracefulServer(create_app(nodes, settings, stop_nodes=stop_nodes), settings)
    server.on_ready = lambda: on_ready(base_url(listener))
    server.run(sockets=[listener])
