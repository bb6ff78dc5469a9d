"""Requests over plain HTTP/1.1 to nodes, with connections that are kept: what a front end needs of a client.

Each streamed answer passes through here piece by piece, and of the front end's time for one two fifths went
into the general client: its pools, its timeouts for each read, its layers of iterators. This is ``h11`` on a
socket of asyncio. All that has come by the time it is read is one piece.
"""

from __future__ import annotations

import asyncio
import re
import time
from collections import deque
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field
from typing import cast
from urllib.parse import SplitResult, urlsplit

import h11
import httpx2

MOST_UNREAD_BYTES = 1 << 20
"""What a node may be ahead of a client before it is made to wait."""
MOST_HEAD_BYTES = 100 << 10
MOST_IDLE = 512
IDLE_S = 4.0
"""Less than a node keeps an idle connection (``server.keep_alive_s``)."""
TARGET = re.compile(r"[!-~]+", re.ASCII)
"""A path and query as they may stand in a request."""
RawHeaders = Sequence[tuple[bytes, bytes]]


class LinkLost(Exception):
    """The connection ended, or what came over it is no HTTP. ``connected`` False: there never was one."""

    def __init__(self, why: str, *, connected: bool = True) -> None:
        super().__init__(why)
        self.connected = connected


class _Socket(asyncio.Protocol):
    """What has come over one connection and was not read yet."""

    def __init__(self) -> None:
        self.unread: deque[bytes] = deque()
        self.unread_bytes = 0
        self.ended = False
        self.transport: asyncio.Transport | None = None
        self._waiter: asyncio.Future[None] | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self.transport = cast("asyncio.Transport", transport)  # uvloop's is none by its class

    def data_received(self, data: bytes) -> None:
        self.unread.append(data)
        self.unread_bytes += len(data)
        if self.unread_bytes > MOST_UNREAD_BYTES and self.transport is not None:
            self.transport.pause_reading()
        self._wake()

    def connection_lost(self, exc: Exception | None) -> None:
        self.ended = True
        self._wake()

    def eof_received(self) -> bool:
        self.ended = True
        self._wake()
        return False

    def _wake(self) -> None:
        if self._waiter is not None and not self._waiter.done():
            self._waiter.set_result(None)

    async def read(self, timeout_s: float | None) -> bytes:
        """All that has come; empty: nothing more does. Raises ``LinkLost`` for silence."""
        if not self.unread and not self.ended:
            loop = asyncio.get_running_loop()
            self._waiter = waiter = loop.create_future()
            timer = None if timeout_s is None else loop.call_later(timeout_s, self._silent, waiter)
            try:
                await waiter
            finally:
                self._waiter = None
                if timer is not None:
                    timer.cancel()
        data = b"".join(self.unread)
        self.unread.clear()
        if self.unread_bytes > MOST_UNREAD_BYTES and self.transport is not None:
            self.transport.resume_reading()
        self.unread_bytes = 0
        return data

    @staticmethod
    def _silent(waiter: asyncio.Future[None]) -> None:
        if not waiter.done():
            waiter.set_exception(LinkLost("ReadTimeout"))

    def close(self) -> None:
        if self.transport is not None:
            self.transport.abort()


@dataclass(slots=True)
class _Link:
    socket: _Socket
    http: h11.Connection = field(default_factory=lambda: h11.Connection(h11.CLIENT, MOST_HEAD_BYTES))
    idle_since_s: float = 0.0

    @property
    def is_good(self) -> bool:
        """As far as one can see. Bytes that were not asked for are no answer to the next request."""
        fresh = time.monotonic() - self.idle_since_s < IDLE_S
        return fresh and not self.socket.ended and not self.socket.unread


class NodeResponse:
    """An answer whose head is there."""

    def __init__(
        self, links: NodeLinks, at: str, link: _Link, head: h11.Response, timeout_s: float | None
    ) -> None:
        self._links, self._at, self._link, self._timeout_s = links, at, link, timeout_s
        self.status_code = head.status_code
        self.headers = httpx2.Headers(head.headers.raw_items())

    async def aiter_raw(self) -> AsyncIterator[bytes]:
        """The body as it comes. Raises ``LinkLost``."""
        over = False
        while not over:
            pieces, over = self._ready()
            if pieces:
                yield b"".join(pieces)
            elif not over:
                await _feed(self._link, self._timeout_s)

    async def aread(self) -> bytes:
        """The body. Raises ``LinkLost``."""
        return b"".join([piece async for piece in self.aiter_raw()])

    def _ready(self) -> tuple[list[bytes], bool]:
        pieces: list[bytes] = []
        while True:
            event = _event(self._link)
            if isinstance(event, h11.Data):
                pieces.append(bytes(event.data))
            elif isinstance(event, h11.EndOfMessage):
                return pieces, True
            else:
                return pieces, False

    async def aclose(self) -> None:
        self._links.give_back(self._at, self._link)


class NodeLinks:
    """Connections to nodes. Lives in one event loop."""

    def __init__(self, connect_s: float) -> None:
        self._connect_s = connect_s
        self._idle: dict[str, deque[_Link]] = {}
        self._idle_count = 0

    @staticmethod
    def takes(url: str, target: str) -> bool:
        """Whether a request can go this way: not encrypted, and written as it goes on the wire."""
        return url.startswith("http://") and TARGET.fullmatch(target) is not None

    async def request(
        self, url: str, method: str, target: str, headers: RawHeaders, body: bytes, timeout_s: float | None
    ) -> NodeResponse:
        """Send a request and wait for the head of its answer. Raises ``LinkLost``."""
        to = urlsplit(url)
        at = to.netloc
        link = self._take(at) or await self._connect(to)
        try:
            length = [(b"content-length", str(len(body)).encode())] if body or method != "GET" else []
            request = h11.Request(
                method=method.encode("ascii"),
                target=(to.path + target).encode("ascii"),
                headers=[(b"host", at.encode("ascii")), *headers, *length],
            )
            data = [link.http.send(request)]
            if body:
                data.append(link.http.send(h11.Data(data=body)))
            data.append(link.http.send(h11.EndOfMessage()))
            assert link.socket.transport is not None
            link.socket.transport.writelines([one for one in data if one])
            return NodeResponse(self, at, link, await self._head(link, timeout_s), timeout_s)
        except h11.LocalProtocolError as error:
            link.socket.close()
            raise LinkLost(f"the request cannot be sent ({error})") from error
        except BaseException:
            link.socket.close()
            raise

    @staticmethod
    async def _head(link: _Link, timeout_s: float | None) -> h11.Response:
        while True:
            event = _event(link)
            if isinstance(event, h11.Response):
                return event
            if event is h11.NEED_DATA:
                await _feed(link, timeout_s)
            elif not isinstance(event, h11.InformationalResponse):
                raise LinkLost("it ended the connection without an answer")

    def _take(self, at: str) -> _Link | None:
        idle = self._idle.get(at)
        while idle:
            link = idle.pop()
            self._idle_count -= 1
            if link.is_good:
                return link
            link.socket.close()
        return None

    async def _connect(self, to: SplitResult) -> _Link:
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._connect_s):
                _, socket = await loop.create_connection(_Socket, to.hostname or "", to.port or 80)
        except (OSError, TimeoutError) as error:
            raise LinkLost(type(error).__name__, connected=False) from error
        return _Link(socket)

    def give_back(self, at: str, link: _Link) -> None:
        """For the next request, if this one has come to its end on both sides."""
        over = (link.http.our_state, link.http.their_state) == (h11.DONE, h11.DONE)
        more = link.http.trailing_data[0]  # that was not asked for
        if not over or more or link.socket.ended or self._idle_count >= MOST_IDLE:
            link.socket.close()
            return
        link.http.start_next_cycle()
        link.idle_since_s = time.monotonic()
        self._idle.setdefault(at, deque()).append(link)
        self._idle_count += 1

    def close(self) -> None:
        for idle in self._idle.values():
            for link in idle:
                link.socket.close()
        self._idle.clear()
        self._idle_count = 0


def _event(link: _Link) -> object:
    try:
        return link.http.next_event()
    except h11.RemoteProtocolError as error:
        raise LinkLost(f"RemoteProtocolError ({error})") from error


async def _feed(link: _Link, timeout_s: float | None) -> None:
    """What has come goes to the parser; its end too, which may be the end of the answer."""
    link.http.receive_data(await link.socket.read(timeout_s))
