"""Server-sent events: framing, keep-alive comments, and noticing that the client has left."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Mapping
from enum import Enum
from functools import partial
from typing import Any, TypeVar

from starlette.requests import Request
from starlette.responses import StreamingResponse
from starlette.types import Message, Receive, Scope, Send

from stepwell.server.wire.body import ClientGone


class Comment(Enum):
    """Lines that clients pass over and proxies count as life."""

    KEEP_ALIVE = "keep-alive"
    PREEMPTED = "preempted"


COMMENTS = {comment: f": {comment.value}\n\n".encode() for comment in Comment}
DONE = b"data: [DONE]\n\n"
HEADERS = {"cache-control": "no-cache", "x-accel-buffering": "no"}
"""nginx must not collect a stream."""

Result = TypeVar("Result")


def event(data: dict[str, Any], name: str | None = None) -> bytes:
    """One event. JSON without newlines, so that one ``data:`` line holds it."""
    text = json.dumps(data, ensure_ascii=False, separators=(",", ":"))
    head = f"event: {name}\n" if name is not None else ""
    return f"{head}data: {text}\n\n".encode()


class AtOnce:
    """Work that mostly ends without waiting: begun at once, and awaited only where it is not ``over``. So a
    timer around it is needed only for clients that are slow."""

    __slots__ = ("_steps", "_wanted", "over")

    def __init__(self, work: Awaitable[None]) -> None:
        self._steps = work.__await__()
        self._wanted: Any = None
        """What it waits for."""
        try:
            self._wanted = self._steps.send(None)
            self.over = False
        except StopIteration:
            self.over = True

    def __await__(self) -> Generator[Any, Any, None]:
        while not self.over:
            try:
                got = yield self._wanted
            except BaseException as error:  # noqa: BLE001 (handed on, cancellation included)
                self._go_on(partial(self._steps.throw, error))
            else:
                self._go_on(partial(self._steps.send, got))

    def _go_on(self, step: Callable[[], Any]) -> None:
        try:
            self._wanted = step()
        except StopIteration:
            self.over = True


class EventStream(StreamingResponse):
    """A stream of frames; ``closed`` runs when it ends, however it ends.

    A client that leaves, or that reads nothing for ``send_timeout_s``, ends it: what holds a place
    without reading takes it from the others.
    """

    def __init__(
        self,
        frames: AsyncIterator[bytes],
        closed: Callable[[], None],
        send_timeout_s: float,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(frames, media_type="text/event-stream", headers={**HEADERS, **(headers or {})})
        self._frames = frames
        self._closed = closed
        self._send_timeout_s = send_timeout_s

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def send_in_time(message: Message) -> None:
            sending = AtOnce(send(message))
            if not sending.over:
                async with asyncio.timeout(self._send_timeout_s):
                    await sending

        try:
            await or_gone(receive, self.stream_response(send_in_time))
        except (ClientGone, OSError, TimeoutError):
            return
        finally:
            await _close(self._frames)
            self._closed()


async def _close(frames: AsyncIterator[bytes]) -> None:
    # A generator that was never started has no finally to run; one that was needs it run now.
    aclose: Callable[[], Awaitable[None]] | None = getattr(frames, "aclose", None)
    if aclose is not None:
        await aclose()


async def while_connected(request: Request, work: Coroutine[Any, Any, Result]) -> Result:
    """Do the work unless the client leaves first: then cancel it and raise ``ClientGone``."""
    return await or_gone(request.receive, work)


async def or_gone(receive: Receive, work: Coroutine[Any, Any, Result]) -> Result:
    task = asyncio.ensure_future(work)
    watch = asyncio.ensure_future(_gone(receive))
    try:
        await asyncio.wait((task, watch), return_when=asyncio.FIRST_COMPLETED)
        if task.done():
            return task.result()
        raise ClientGone
    finally:
        for other in (task, watch):
            other.cancel()
        await asyncio.gather(task, watch, return_exceptions=True)


async def _gone(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
