"""The way of a generating request: a place, a prompt, the driver, the answer. Chat and completions
differ in what goes in and how it is written down, not in this."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import ExitStack
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.requests import Generation, Rejected
from stepwell.server.bridge import Arrival, Batch
from stepwell.server.errors import ApiError, bad_request, from_rejected, internal_error
from stepwell.server.keys import ApiKey
from stepwell.server.middleware import request_id_of
from stepwell.server.service import Service
from stepwell.server.sse import DONE, KEEP_ALIVE, EventStream, event, while_connected
from stepwell.server.turns import Progress, collect

log = logging.getLogger("stepwell.server")

Prepare = Callable[[], Sequence[Generation]]
Event = dict[str, Any]
"""An event of a stream before it is framed."""


class Shape(Protocol):
    """How a route writes answers down."""

    def whole(self, progress: Sequence[Progress]) -> dict[str, Any]:
        """The response object, when everything has ended."""

    def begin(self) -> list[Event]:
        """Events before the first output."""

    def take(self, arrival: Arrival) -> list[Event]:
        """The events that an output gives rise to. Raises ``ApiError``."""

    def end(self) -> list[Event]:
        """Events after the last output."""

    def failed(self, error: ApiError) -> list[Event]:
        """The events that end a stream which went wrong."""

    def frame(self, data: Event) -> bytes:
        """An event on the wire."""

    done: bytes
    """What follows the last event of every stream."""


class DataFrames:
    """The wire habits of chat and completions: unnamed events, ``[DONE]`` at the end."""

    __slots__ = ()
    done = DONE

    def failed(self, error: ApiError) -> list[Event]:
        return [error.body()]

    def frame(self, data: Event) -> bytes:
        return event(data)


async def exchange(
    service: Service, request: Request, key: ApiKey, prepare: Prepare, shape: Shape, *, stream: bool
) -> Response:
    """Answer one request. Raises ``ApiError``, or ``ClientGone`` when nobody waits any more."""
    with ExitStack() as stack:
        stack.enter_context(service.gate.enter(key))
        generations = await while_connected(request, prepared(service, prepare))
        batch = stack.enter_context(service.bridge.open(generations))
        if not stream:
            progress = await while_connected(request, collect(batch))
            return JSONResponse(shape.whole(progress))
        # The status line is written at the first sign of life: a refusal is then still a real 429 or 503.
        first = await while_connected(request, batch.next(service.settings.keep_alive_s))
        if first is not None and isinstance(first.output, Rejected):
            raise from_rejected(first.output)
        frames = stream_frames(service, request_id_of(request.scope), batch, shape, first)
        return EventStream(frames, stack.pop_all().close, service.settings.send_timeout_s)
    raise AssertionError("an exit stack swallows nothing")


async def prepared(service: Service, prepare: Prepare) -> Sequence[Generation]:
    """Tokenise and check in a thread: a long prompt or a big grammar must not stop the others."""

    def work() -> Sequence[Generation]:
        generations = prepare()
        # The choices of one prompt share prompt and sampling but for the seed.
        for generation in {id(g.prompt): g for g in generations}.values():
            try:
                service.driver.validate(generation)
            except ValueError as error:
                raise bad_request(str(error)) from error
        return generations

    return await asyncio.to_thread(work)


async def stream_frames(
    service: Service, request_id: str, batch: Batch, shape: Shape, first: Arrival | None
) -> AsyncIterator[bytes]:
    """The stream as bytes."""
    async for data in stream_events(service, request_id, batch, shape, first):
        yield KEEP_ALIVE if data is None else shape.frame(data)
    if shape.done:
        yield shape.done


async def stream_events(
    service: Service, request_id: str, batch: Batch, shape: Shape, first: Arrival | None = None
) -> AsyncIterator[Event | None]:
    """The events of a whole answer; None for every ``keep_alive_s`` of silence. Raises nothing:
    whatever goes wrong on the way is the last event."""
    try:
        for data in shape.begin():
            yield data
        arrival = first
        while True:
            for data in shape.take(arrival) if arrival is not None else ():
                yield data
            if batch.over:
                break
            arrival = await batch.next(service.settings.keep_alive_s)
            if arrival is None:
                yield None
        for data in shape.end():
            yield data
    except ApiError as error:
        for data in shape.failed(error):
            yield data
    except Exception:
        log.exception("request %s failed in its stream", request_id)
        for data in shape.failed(internal_error(request_id)):
            yield data
