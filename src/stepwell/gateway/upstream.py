"""Requests to nodes. A node that is lost ends every try at it at once, also those that hear nothing."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager
from typing import Any, Protocol

import httpx2

from stepwell.gateway.node_link import LinkLost, NodeLinks

CONNECT_S = 2.0
HOP_BY_HOP = frozenset(
    {
        "connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer",
        "transfer-encoding", "upgrade", "host", "date", "server",
    }
)  # fmt: skip
NOT_FOR_NODES = HOP_BY_HOP | {"content-length", "expect", "x-request-id"}


class NodeLost(Exception):
    """The node did not answer, or stopped in the middle of an answer. ``connected`` False: it never had the
    request, so that anything may be sent again."""

    def __init__(self, node: str, why: str, *, connected: bool = True) -> None:
        super().__init__(f"{node}: {why}")
        self.node = node
        self.connected = connected


class NodeAnswer(Protocol):
    """An answer whose head is there, whichever client has it."""

    status_code: int
    headers: httpx2.Headers

    def aiter_raw(self) -> AsyncIterator[bytes]: ...

    async def aread(self) -> bytes: ...

    async def aclose(self) -> None: ...


class Upstream:
    """HTTP to all nodes: over links of our own where it is not encrypted, else by a general client."""

    def __init__(self, silence_s: float, *, transport: httpx2.AsyncBaseTransport | None = None) -> None:
        """``transport``: for tests, whose nodes are applications in the same process."""
        logging.getLogger("httpx2").setLevel(logging.WARNING)  # a line for each request is our access log's
        self._client = httpx2.AsyncClient(
            transport=transport,
            timeout=httpx2.Timeout(silence_s, connect=CONNECT_S, pool=None),
            limits=httpx2.Limits(max_connections=None, max_keepalive_connections=512, keepalive_expiry=4.0),
            trust_env=False,
            follow_redirects=False,
        )
        self._links = NodeLinks(CONNECT_S) if transport is None else None
        self._silence_s = silence_s
        self.urls: dict[str, str] = {}
        """Of every node, without a slash at the end."""
        self._tries: dict[str, set[asyncio.Task[Any]]] = {}
        self._lost: set[asyncio.Task[Any]] = set()

    async def close(self) -> None:
        await self._client.aclose()
        if self._links is not None:
            self._links.close()

    def lose(self, node: str) -> None:
        """Requests that wait for the node get ``NodeLost`` now."""
        for task in self._tries.get(node, ()):
            self._lost.add(task)
            task.cancel()

    @asynccontextmanager
    async def open(
        self,
        node: str,
        method: str,
        target: str,
        headers: Iterable[tuple[str, str]] = (),
        content: bytes | AsyncIterator[bytes] | None = None,
        timeout_s: float | None = None,
    ) -> AsyncIterator[NodeAnswer]:
        """An answer whose head is there; read its body inside. Raises ``NodeLost``, also while it is read.
        ``timeout_s``: of silence, where it is not the usual one."""
        task = asyncio.current_task()
        assert task is not None
        tries = self._tries.setdefault(node, set())
        tries.add(task)
        try:
            # As bytes: text has to be ASCII, and a client's headers need not be.
            raw = [(name.encode("latin-1"), value.encode("latin-1")) for name, value in headers]
            response = await self._sent(self.urls[node], method, target, raw, content, timeout_s)
            try:
                yield response
            finally:
                await response.aclose()
        except asyncio.CancelledError:
            if task not in self._lost:
                raise
            task.uncancel()
            raise NodeLost(node, "its process has ended") from None
        except LinkLost as error:
            raise NodeLost(node, str(error), connected=error.connected) from error
        except (httpx2.ConnectError, httpx2.ConnectTimeout) as error:
            raise NodeLost(node, type(error).__name__, connected=False) from error
        except httpx2.TransportError as error:
            raise NodeLost(node, type(error).__name__) from error
        finally:
            tries.discard(task)
            self._lost.discard(task)

    async def _sent(
        self,
        url: str,
        method: str,
        target: str,
        headers: list[tuple[bytes, bytes]],
        content: bytes | AsyncIterator[bytes] | None,
        timeout_s: float | None,
    ) -> NodeAnswer:
        links = self._links
        if links is not None and links.takes(url, target) and not isinstance(content, AsyncIterator):
            silence_s = self._silence_s if timeout_s is None else timeout_s
            return await links.request(url, method, target, headers, content or b"", silence_s)
        timeout = httpx2.USE_CLIENT_DEFAULT if timeout_s is None else httpx2.Timeout(timeout_s)
        request = self._client.build_request(
            method, url + target, headers=headers, content=content, timeout=timeout
        )
        return await self._client.send(request, stream=True)

    async def get_json(
        self, node: str, target: str, headers: Mapping[str, str] | None = None, timeout_s: float | None = None
    ) -> tuple[int, Any]:
        """Status and JSON (None where the answer is none). Raises ``NodeLost``."""
        given = (headers or {}).items()
        async with self.open(node, "GET", target, given, timeout_s=timeout_s) as response:
            data = await response.aread()
        try:
            return response.status_code, httpx2.Response(200, content=data).json()
        except ValueError:
            return response.status_code, None


def for_node(headers: Iterable[tuple[bytes, bytes]], request_id: str) -> list[tuple[str, str]]:
    """The client's headers as they go on: its key and its names stay, what belongs to the connection goes."""
    kept = [
        (name.decode("latin-1"), value.decode("latin-1"))
        for name, value in headers
        if name.decode("latin-1").lower() not in NOT_FOR_NODES
    ]
    return [*kept, ("x-request-id", request_id)]


def for_client(headers: httpx2.Headers) -> list[tuple[bytes, bytes]]:
    return [
        (name.lower(), value)
        for name, value in headers.raw
        if name.decode("latin-1").lower() not in HOP_BY_HOP
    ]
