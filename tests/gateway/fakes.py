"""Nodes that are scripts, behind a real front end: no socket, no process, no waiting."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from typing import Any

import httpx2

from stepwell.fleet.types import NodeState
from stepwell.gateway.app import create_app
from stepwell.gateway.deployment import Deployment, EngineTable, FrontTable
from stepwell.gateway.nodes import Nodes
from stepwell.server.callers.keys import KeyEntry, KeyRing
from stepwell.server.settings import ServerSettings

Handler = Callable[[httpx2.Request], Awaitable[httpx2.Response]]
KEYS = (
    KeyEntry("acme", key="sk-acme"),
    KeyEntry("blue", key="sk-blue"),
    KeyEntry("ops", key="sk-ops", operator=True),
)
WEIGHTS = {"priority": 16, "default": 4, "flex": 1}


class Stream(httpx2.AsyncByteStream):
    """Chunks; an exception among them is raised, an event is waited for."""

    def __init__(self, *parts: bytes | Exception | asyncio.Event) -> None:
        self._parts = parts

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for part in self._parts:
            if isinstance(part, asyncio.Event):
                await part.wait()
            elif isinstance(part, Exception):
                raise part
            else:
                yield part


def sse(*parts: bytes | Exception | asyncio.Event) -> httpx2.Response:
    return httpx2.Response(200, headers={"content-type": "text/event-stream"}, stream=Stream(*parts))


def answer(node: str, **more: Any) -> httpx2.Response:
    usage = {"prompt_tokens": 40, "completion_tokens": 2, "prompt_tokens_details": {"cached_tokens": 30}}
    return httpx2.Response(200, json={"id": "chatcmpl-1", "node": node, "usage": usage, **more})


@dataclass
class FakeNodes(httpx2.AsyncBaseTransport):
    """Answers every request by the host's name. What is not scripted is answered well."""

    scripts: dict[str, list[Handler]] = field(default_factory=dict)
    seen: list[tuple[str, httpx2.Request]] = field(default_factory=list)

    def then(self, node: str, *given: httpx2.Response | Exception | Handler) -> None:
        """The next requests of that node are answered so."""
        for one in given:
            self.scripts.setdefault(node, []).append(one if callable(one) else _always(one))

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        node = request.url.host
        await request.aread()
        self.seen.append((node, request))
        script = self.scripts.get(node)
        return _from_the_wire(await script.pop(0)(request) if script else answer(node))

    @property
    def asked(self) -> list[str]:
        return [node for node, _ in self.seen]


def _from_the_wire(given: httpx2.Response) -> httpx2.Response:
    """As a real transport gives it: nothing of the body has been read."""
    if isinstance(given.stream, Stream):
        return given
    return httpx2.Response(given.status_code, headers=given.headers, stream=Stream(given.content))


def _always(given: httpx2.Response | Exception) -> Handler:
    async def handle(request: httpx2.Request) -> httpx2.Response:
        if isinstance(given, Exception):
            raise given
        return given

    return handle


@dataclass
class World:
    """A front end with nodes ``a``, ``b`` and ``c``, all well."""

    fakes: FakeNodes
    nodes: Nodes
    client: httpx2.AsyncClient

    async def chat(self, agent: str = "1", key: str = "sk-acme", **body: Any) -> httpx2.Response:
        headers = {"authorization": f"Bearer {key}", "x-session-id": "s", "x-agent-id": agent}
        said = {"model": "m", "messages": [{"role": "user", "content": "hello"}], **body}
        return await self.client.post("/v1/chat/completions", json=said, headers=headers)


@asynccontextmanager
async def world(
    *names: str, keys: tuple[KeyEntry, ...] = KEYS, limits: ServerSettings | None = None, **front: Any
) -> AsyncIterator[World]:
    engines = tuple(EngineTable(name, urls=(f"http://{name}:1",)) for name in names or ("a", "b", "c"))
    front = {"operator_key": "sk-ops", "patience_s": 0.05, **front}
    fakes = FakeNodes()
    nodes = Nodes(Deployment(engines, FrontTable(**front)), KeyRing(keys), WEIGHTS, transport=fakes)
    for name, watch in nodes.watches.items():
        watch.models = frozenset({"m"})
        nodes.fleet.state(name, NodeState.READY)
    app = create_app(nodes, limits or ServerSettings(), manage=False)
    transport = httpx2.ASGITransport(app, raise_app_exceptions=False)
    async with httpx2.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
        yield World(fakes, nodes, client)
    await nodes.upstream.close()


def body_of(request: httpx2.Request) -> Any:
    return json.loads(request.content)
