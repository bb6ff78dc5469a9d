"""The application: routes, and what becomes of errors."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Scope

from stepwell.engines.base import TextModel
from stepwell.loop.port import LoopPort
from stepwell.policy.contracts import DEFAULT_CONTRACTS, Contract
from stepwell.server.admin import views
from stepwell.server.admin.budgets import list_budgets, set_budget
from stepwell.server.admin.keys import list_keys, reload_keys
from stepwell.server.admin.margin import get_margin
from stepwell.server.admin.organization import costs, usage_completions
from stepwell.server.admin.why import why
from stepwell.server.agents.routes import get_agent, hint_agent, list_agents
from stepwell.server.agents.sessions import get_session, list_sessions, update_session
from stepwell.server.anthropic.errors import is_anthropic
from stepwell.server.anthropic.errors import response as anthropic_error
from stepwell.server.anthropic.routes import count_tokens, messages
from stepwell.server.backends.books import Books
from stepwell.server.backends.bridge import Bridge
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.backends.vectors import ServedEmbeddings
from stepwell.server.batches.messages import (
    cancel_message_batch,
    create_message_batch,
    delete_message_batch,
    get_message_batch,
    list_message_batches,
    message_batch_results,
)
from stepwell.server.batches.routes import cancel_batch, create_batch, get_batch, list_batches
from stepwell.server.batches.runner import ServedBatches
from stepwell.server.callers.key_reload import KeyReload
from stepwell.server.callers.keys import KeyRing
from stepwell.server.callers.named_paths import NamedPaths
from stepwell.server.chat.completions import completions
from stepwell.server.chat.routes import chat_completions
from stepwell.server.chat.tokens import detokenize, tokenize
from stepwell.server.embeddings.routes import embeddings, rerank
from stepwell.server.errors import ApiError, clip
from stepwell.server.files.prewarm import prewarm_file
from stepwell.server.files.routes import create_file, delete_file, file_content, get_file, list_files
from stepwell.server.files.search import search_files
from stepwell.server.files.vector_stores.routes import vector_store_routes
from stepwell.server.gemini.errors import is_gemini
from stepwell.server.gemini.errors import response as gemini_error
from stepwell.server.gemini.routes import gemini_routes
from stepwell.server.limits.bodies import Bodies
from stepwell.server.limits.gate import Gate
from stepwell.server.middleware import Ended, RequestMiddleware, request_id_of
from stepwell.server.openapi.routes import docs, openapi
from stepwell.server.page.routes import enter_key, leave, page, page_slash
from stepwell.server.responses.conversations import (
    create_conversation,
    create_conversation_items,
    delete_conversation,
    delete_conversation_item,
    get_conversation,
    get_conversation_item,
    list_conversation_items,
    update_conversation,
)
from stepwell.server.responses.routes import (
    cancel_response,
    create_response,
    delete_response,
    get_response,
    list_input_items,
    stop,
)
from stepwell.server.service import OfferedModel, Service
from stepwell.server.settings import ServerSettings
from stepwell.server.stores.conversations import ConversationStore
from stepwell.server.stores.responses import ResponseStore
from stepwell.server.telemetry.access import access_of
from stepwell.server.telemetry.metrics import OTHER, Metrics
from stepwell.server.telemetry.otel import Telemetry
from stepwell.server.watch.hub import Hub
from stepwell.server.watch.routes import watch
from stepwell.server.watch.ticker import Refusals
from stepwell.telemetry.logs import write_access, writes_access

CONVERSATION_ITEM = "/v1/conversations/{conversation_id}/items/{item_id}"
ROUTES = (
    Route("/", views.home, methods=["GET"]),
    Route("/openapi.json", openapi, methods=["GET"]),
    Route("/docs", docs, methods=["GET"]),
    Route("/health", views.health, methods=["GET"]),
    Route("/metrics", views.metrics, methods=["GET"]),
    Route("/admin/agents", views.agents, methods=["GET"]),
    Route("/admin/snapshot", views.snapshot, methods=["GET"]),
    Route("/admin/why", why, methods=["GET"]),
    Route("/page", page, methods=["GET"]),
    Route("/page/", page_slash, methods=["GET"]),
    Route("/page/key", enter_key, methods=["POST"]),
    Route("/page/leave", leave, methods=["POST"]),
    Route("/page/{path:path}", page, methods=["GET"]),
    Route("/admin/margin", get_margin, methods=["GET"]),
    Route("/admin/keys", list_keys, methods=["GET"]),
    Route("/admin/keys/reload", reload_keys, methods=["POST"]),
    Route("/admin/budgets", list_budgets, methods=["GET"]),
    Route("/admin/budgets", set_budget, methods=["POST"]),
    Route("/tokenize", tokenize, methods=["POST"]),
    Route("/detokenize", detokenize, methods=["POST"]),
    Route("/v1/models", views.list_models, methods=["GET"]),
    Route("/v1/models/{model:path}", views.get_model, methods=["GET"]),
    Route("/v1/agents", list_agents, methods=["GET"]),
    Route("/v1/agents/{agent_id:path}/hint", hint_agent, methods=["POST"]),
    Route("/v1/agents/{agent_id:path}", get_agent, methods=["GET"]),
    Route("/v1/watch", watch, methods=["GET"]),
    Route("/v1/sessions", list_sessions, methods=["GET"]),
    Route("/v1/sessions/{session_id:path}", get_session, methods=["GET"]),
    Route("/v1/sessions/{session_id:path}", update_session, methods=["POST"]),
    Route("/v1/organization/usage/completions", usage_completions, methods=["GET"]),
    Route("/v1/organization/costs", costs, methods=["GET"]),
    Route("/v1/batches", list_batches, methods=["GET"]),
    Route("/v1/batches", create_batch, methods=["POST"]),
    Route("/v1/batches/{batch_id}", get_batch, methods=["GET"]),
    Route("/v1/batches/{batch_id}/cancel", cancel_batch, methods=["POST"]),
    Route("/v1/messages/batches", list_message_batches, methods=["GET"]),
    Route("/v1/messages/batches", create_message_batch, methods=["POST"]),
    Route("/v1/messages/batches/{batch_id}", get_message_batch, methods=["GET"]),
    Route("/v1/messages/batches/{batch_id}", delete_message_batch, methods=["DELETE"]),
    Route("/v1/messages/batches/{batch_id}/cancel", cancel_message_batch, methods=["POST"]),
    Route("/v1/messages/batches/{batch_id}/results", message_batch_results, methods=["GET"]),
    Route("/v1/files", list_files, methods=["GET"]),
    Route("/v1/files", create_file, methods=["POST"]),
    Route("/v1/files/search", search_files, methods=["POST"]),
    Route("/v1/files/{file_id}", get_file, methods=["GET"]),
    Route("/v1/files/{file_id}", delete_file, methods=["DELETE"]),
    Route("/v1/files/{file_id}/content", file_content, methods=["GET"]),
    Route("/v1/files/{file_id}/prewarm", prewarm_file, methods=["POST"]),
    Route("/v1/chat/completions", chat_completions, methods=["POST"]),
    Route("/v1/messages", messages, methods=["POST"]),
    Route("/v1/messages/count_tokens", count_tokens, methods=["POST"]),
    *gemini_routes(),
    *vector_store_routes(),
    Route("/v1/completions", completions, methods=["POST"]),
    Route("/v1/embeddings", embeddings, methods=["POST"]),
    Route("/v1/rerank", rerank, methods=["POST"]),
    Route("/v1/responses", create_response, methods=["POST"]),
    Route("/v1/responses/{response_id}", get_response, methods=["GET"]),
    Route("/v1/responses/{response_id}", delete_response, methods=["DELETE"]),
    Route("/v1/responses/{response_id}/cancel", cancel_response, methods=["POST"]),
    Route("/v1/responses/{response_id}/input_items", list_input_items, methods=["GET"]),
    Route("/v1/conversations", create_conversation, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}", get_conversation, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}", update_conversation, methods=["POST"]),
    Route("/v1/conversations/{conversation_id}", delete_conversation, methods=["DELETE"]),
    Route("/v1/conversations/{conversation_id}/items", list_conversation_items, methods=["GET"]),
    Route("/v1/conversations/{conversation_id}/items", create_conversation_items, methods=["POST"]),
    Route(CONVERSATION_ITEM, get_conversation_item, methods=["GET"]),
    Route(CONVERSATION_ITEM, delete_conversation_item, methods=["DELETE"]),
)


CORS_HEADERS = (
    "anthropic-version",
    "openai-organization",
    "openai-project",
    "x-agent-id",
    "x-agent-name",
    "x-agent-next",
    "x-parent-agent-id",
    "x-session-id",
    "x-stainless-retry-count",
)
"""What a page may say of its agents. Not the header by which the server's own page is known."""


def create_app(
    driver: LoopPort,
    text_model: TextModel,
    settings: ServerSettings | None = None,
    keys: KeyRing | None = None,
    books: Books | None = None,
    library: ServedLibrary | None = None,
    contracts: Sequence[Contract] = DEFAULT_CONTRACTS,
    reload_keys: KeyReload | None = None,
    *,
    batches: ServedBatches | None = None,
    vectors: ServedEmbeddings | None = None,
    telemetry: Telemetry | None = None,
    routes: Sequence[Route] = ROUTES,
    offered: Sequence[OfferedModel] = (),
) -> Starlette:
    """The ASGI application. ``driver`` is running and stays the caller's to stop. ``routes``: those of a
    front end whose turns go elsewhere. ``offered``: all models, where there are several.

    ``app.state.service`` is the ``Service``: set its ``draining`` to refuse new requests.
    """
    settings, keys = settings or ServerSettings(), keys or KeyRing()
    beside = () if vectors is None else vectors.models
    metrics = Metrics(driver, keys.service_tiers, None if books is None else books.ledger, beside)
    refusals = Refusals()
    service = Service(
        driver=driver,
        text_model=text_model,
        settings=settings,
        keys=keys,
        bridge=Bridge(driver, refusals.beside(metrics.observe)),
        gate=Gate(settings, contracts),
        bodies=Bodies(settings),
        metrics=metrics,
        store=ResponseStore(settings),
        conversations=ConversationStore(settings),
        books=books,
        library=library,
        reload_keys=reload_keys,
        embeddings=vectors,
        offered=offered,
    )
    app = Starlette(
        routes=routes,
        middleware=[
            *_cors(settings),
            Middleware(NamedPaths),
            Middleware(RequestMiddleware, ended=_counted(metrics, routes, telemetry, text_model.name)),
        ],
        exception_handlers={ApiError: _api_error, HTTPException: _http_error},
        lifespan=_lifespan,
    )
    app.router.redirect_slashes = False
    app.state.service = service
    app.state.watch = Hub(service, refusals)
    app.state.batches = batches
    return app


def _cors(settings: ServerSettings) -> list[Middleware]:
    """For pages of the origins that the settings name. Never with cookies: those are our own page's."""
    if not settings.cors_origins:
        return []
    return [
        Middleware(
            CORSMiddleware,
            allow_origins=settings.cors_origins,
            allow_methods=["GET", "POST", "PATCH", "DELETE"],
            allow_headers=["authorization", "content-type", "x-api-key", "x-goog-api-key", *CORS_HEADERS],
            expose_headers=["x-request-id", "retry-after-ms", "retry-after"],
        )
    ]


@asynccontextmanager
async def _lifespan(app: Starlette) -> AsyncIterator[None]:
    batches: ServedBatches | None = app.state.batches
    if batches is not None:
        batches.start(app, app.state.service)
    yield
    if batches is not None:
        await batches.stop()
    app.state.watch.close()
    # Background responses live in memory: no client can fetch them any more.
    for record in app.state.service.store.all_running():
        await stop(record)


def _counted(metrics: Metrics, routes: Sequence[Route], telemetry: Telemetry | None, model: str) -> Ended:
    """Counts requests per route, writes the access log and tells ``telemetry``; paths that are no route share
    one label."""
    templates: Mapping[object, str] = {route.endpoint: route.path for route in routes}

    def ended(scope: Scope, status: int) -> None:
        route = templates.get(scope.get("endpoint"), OTHER)
        metrics.request_ended(route, status)
        if not writes_access() and telemetry is None:
            return
        access = access_of(scope)

        def write() -> None:
            fields = access.fields(scope, request_id_of(scope), route, status)
            if writes_access():
                write_access(fields)
            if telemetry is not None:
                telemetry.ended(scope, access, fields, model)

        if access.goes_on:
            access.write = write
        else:
            write()

    return ended


async def _api_error(request: Request, error: Exception) -> Response:
    assert isinstance(error, ApiError)
    access_of(request.scope).error = error.code or ""
    return _in_its_dialect(request, error)


def _in_its_dialect(request: Request, error: ApiError) -> Response:
    if is_anthropic(request.url.path):
        return anthropic_error(error, request_id_of(request.scope))
    if is_gemini(request.url.path, request.method):
        return gemini_error(error)
    return error.response()


async def _http_error(request: Request, error: Exception) -> Response:
    """Starlette's own 404 and 405, in OpenAI's shape."""
    assert isinstance(error, HTTPException)
    what = f"{request.method} {clip(request.url.path)}"
    message = {404: f"Unknown request URL: {what}.", 405: f"Not allowed to {what}."}.get(
        error.status_code, str(error.detail)
    )
    code = {404: "unknown_url", 405: "method_not_supported"}.get(error.status_code)
    return _in_its_dialect(request, ApiError(error.status_code, message, code=code, headers=error.headers))
