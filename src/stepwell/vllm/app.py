"""Stepwell's server with vLLM behind it: the same keys, tiers, budgets and books; turns go to vLLM."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from typing import cast

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from stepwell.engines.base import TextModel
from stepwell.errors import StepwellError
from stepwell.policy.contracts import Contract
from stepwell.server.app import ROUTES, create_app
from stepwell.server.backends.books import Books
from stepwell.server.backends.bridge import Bridge
from stepwell.server.callers.key_reload import KeyReload
from stepwell.server.callers.keys import KeyRing
from stepwell.server.service import service_of
from stepwell.server.settings import ServerSettings
from stepwell.vllm.child import EngineProcess
from stepwell.vllm.engine_loop import EngineLoop
from stepwell.vllm.front import EngineFront
from stepwell.vllm.kv_feed import KvFeed
from stepwell.vllm.reports import EngineReports

TURNS = (
    "/v1/chat/completions",
    "/v1/completions",
    "/v1/messages",
    "/v1/messages/count_tokens",
    "/v1/responses",
    "/v1/embeddings",
    "/v1/rerank",
    "/tokenize",
    "/detokenize",
)
OURS = frozenset(
    {
        *("/health", "/metrics", "/admin/snapshot", "/admin/margin", "/admin/keys", "/admin/keys/reload"),
        *("/admin/budgets", "/v1/sessions", "/v1/sessions/{session_id:path}"),
        *("/v1/organization/usage/completions", "/v1/organization/costs"),
    }
)
"""Routes that need no engine of ours. There is no page and no ``why``, and nothing is stored: neither files
nor batches nor responses."""
TOLD = frozenset(
    {
        *("/v1/watch", "/v1/agents", "/v1/agents/{agent_id:path}", "/v1/agents/{agent_id:path}/hint"),
        "/admin/agents",
    }
)
"""Routes for which the engine has to tell where agents' KV lies."""
RECONCILE_S = 10.0
SETTLED_S = 1.0
"""vLLM's counters have caught up with its answers by then."""


class VllmApp:
    """The application, and the engine's life around it. ``failed`` says why it could not start."""

    def __init__(
        self,
        loop: EngineLoop,
        front: EngineFront,
        engine: EngineProcess,
        text_model: TextModel,
        settings: ServerSettings,
        keys: KeyRing,
        books: Books | None,
        contracts: tuple[Contract, ...],
        reload_keys: KeyReload | None,
        reports: EngineReports | None = None,
        kv_feed: KvFeed | None = None,
    ) -> None:
        """``reports``: what the engine's own parts tell; None: it has none, or there are no books.
        ``kv_feed``: its KV events; None: they are followed elsewhere."""
        self._loop, self._front, self._engine, self._reports = loop, front, engine, reports
        self._kv_feed = kv_feed
        loop.places = None if kv_feed is None else kv_feed.places
        self.failed: StepwellError | None = None
        self.app = create_app(
            *(loop, text_model, settings, keys, books, None, contracts, reload_keys), routes=self._routes()
        )
        self.app.state.service.bridge = cast("Bridge", front)  # what a server that goes down waits for
        self._inner = self.app.router.lifespan_context
        self.app.router.lifespan_context = self._lifespan

    def _routes(self) -> list[Route]:
        return [
            *(route for route in ROUTES if route.path in (OURS if self._kv_feed is None else OURS | TOLD)),
            Route("/v1/models", self._models, methods=["GET"]),
            *(Route(path, self._turn_of(path), methods=["POST"]) for path in TURNS),
        ]

    def _turn_of(self, path: str) -> Callable[[Request], Awaitable[Response]]:
        """An endpoint of its own for each path: metrics know routes by their endpoints."""

        async def turn(request: Request) -> Response:
            return await self._front.turn(request)

        turn.__name__ = path.strip("/").replace("/", "_")
        return turn

    async def _models(self, request: Request) -> Response:
        service_of(request).key(request)
        return await self._front.models()

    @asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        try:
            if self._reports is not None:
                self._reports.open()
            if self._kv_feed is not None:
                self._kv_feed.open()
            await self._engine.start()
            await self._front.learn_context()
        except StepwellError as error:
            self.failed = error
            await self._stop_engine()
            raise
        reconciling = asyncio.create_task(self._reconcile())
        try:
            async with self._inner(app):
                yield
        finally:
            reconciling.cancel()
            await asyncio.gather(reconciling, return_exceptions=True)
            await asyncio.sleep(SETTLED_S if self._loop.books is not None else 0)
            await self._look()
            await self._stop_engine()

    async def _stop_engine(self) -> None:
        await self._engine.stop()
        if self._kv_feed is not None:
            await asyncio.to_thread(self._kv_feed.close)
        if self._reports is not None:
            self._reports.close()  # with what the engine has told at its end

    async def _reconcile(self) -> None:
        while True:
            await asyncio.sleep(RECONCILE_S)
            await self._look()

    async def _look(self) -> None:
        """At a moment when nothing is under way, nor has been since the one before."""
        books = self._loop.books
        if books is None or self._front.live or not self._loop.quiet_for_s(SETTLED_S):
            return
        begun = self._loop.begun
        counted = await self._front.counted(self._engine)
        if counted is not None and self._loop.begun == begun:
            books.reconcile(counted)
