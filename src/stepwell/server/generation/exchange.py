"""The way of a generating request: a place, a prompt, the driver, the answer. Chat and completions
differ in what goes in and how it is written down, not in this."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import replace
from typing import Any, Protocol

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.ledger.pricing.bills import FOR_OTHERS
from stepwell.loop.requests import Generation, Preempted, Rejected
from stepwell.policy.types import Wait
from stepwell.server.backends.bridge import Arrival, Generations
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import ApiError, from_rejected, internal_error
from stepwell.server.generation.call import Call
from stepwell.server.generation.turns import Ask, Progress, collect
from stepwell.server.limits.pauses import REFUSED
from stepwell.server.limits.preparing import Prepare
from stepwell.server.limits.shared_budgets import room_ahead
from stepwell.server.middleware import request_id_of
from stepwell.server.service import Service
from stepwell.server.telemetry.access import access_of
from stepwell.server.wire.sse import COMMENTS, DONE, Comment, EventStream, event, while_connected

log = logging.getLogger("stepwell.server")

Event = dict[str, Any]
"""An event of a stream before it is framed."""


class WireShape(Protocol):
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

    def waits_for(self) -> Wait:
        """What the agent waits for after this answer, as far as the answer shows."""

    def called(self) -> str:
        """Of an answer that ends in calls: which tool, as the policy tells tools apart (``tool_kinds``)."""

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

    def called(self) -> str:
        return ""

    frame = staticmethod(event)


async def exchange(
    call: Call[Any],
    ask: Ask,
    prepare: Prepare,
    shape: WireShape,
    *,
    stream: bool,
    turns: int = 1,
    holding: AbstractContextManager[object] | None = None,
) -> Response:
    """Answer one request for ``turns`` answers, ``holding`` something from before its prompt is made until
    the answer has ended. Raises ``ApiError``, or ``ClientGone`` when the client has left."""
    service, request = call.service, call.request
    with ExitStack() as stack:
        stack.enter_context(holding or nullcontext())
        batch, limits = await admitted(stack, service, request, call.key, ask.service_tier, prepare, turns)
        if not stream:
            progress = await while_connected(request, collect(batch))
            answer = shape.whole(progress)
            note_what_it_waits_for(service, batch, shape)
            return JSONResponse(answer, headers=limits)
        # The status line is written at the first sign of life: a refusal is then still a real 429 or 503.
        first = await while_connected(request, batch.next(service.settings.keep_alive_s))
        if first is not None and isinstance(first.output, Rejected):
            raise from_rejected(first.output)
        frames = stream_frames(service, request_id_of(request.scope), batch, shape, first)
        return EventStream(frames, stack.pop_all().close, service.settings.send_timeout_s, limits)
    raise AssertionError("an exit stack swallows nothing")


async def admitted(
    stack: ExitStack,
    service: Service,
    request: Request,
    key: ApiKey,
    service_tier: str,
    prepare: Prepare,
    turns: int = 1,
) -> tuple[Generations, dict[str, str]]:
    """Past the limits of the key and on to the driver; leaving ``stack`` gives everything back. The headers
    say what is left. Raises ``ApiError`` when there is no place or it is gone again, and for what the driver
    refuses at once: a spent budget, a ledger that cannot be written, a server that goes down. Raises
    ``ClientGone``."""
    place = stack.enter_context(service.gate.enter(key, service_tier, turns))
    place.limits |= service.rates.request(key)
    weight = service.gate.weight(service_tier)
    making = service.preparing.generations(weight, prepare, service.driver.validate)
    generations = await while_connected(request, making)
    place.limits |= service.rates.tokens(key, generations)
    async with room_ahead(service.ledger, generations):
        turn, refusal = generations[0], place.displaced or no_room(service, generations)
        if refusal is not None:
            raise await refused(service, turn, refusal)
        batch = stack.enter_context(service.bridge.open(generations))
        if (refusal := batch.refused) is not None:
            batch.cancel()
            raise await refused(service, turn, refusal)
    place.hold(batch)
    service.pauses.over(turn.caller.tenant, turn.caller.session)
    stack.callback(service.rates.give_back, key, batch)
    noted(service, request, batch)
    return batch, place.limits


async def refused(service: Service, turn: Generation, refusal: Rejected) -> ApiError:
    """What the client is told. A session that was refused for want of its budget pauses first."""
    if refusal.code == REFUSED:
        await service.pauses.refused(turn)
    return from_rejected(refusal)


def noted(service: Service, request: Request, batch: Generations) -> None:
    """The access log and ``stepwell why`` know the generations by the id of the HTTP request."""
    name = request_id_of(request.scope)
    access_of(request.scope).generates(batch)
    service.driver.named(batch.requests, name)
    log.info("request %s is queued as %s", name, batch.requests)


def no_room(service: Service, generations: Sequence[Generation]) -> Rejected | None:
    """Why a budget has no room for several generations together; one alone is the driver's to refuse."""
    if len(generations) == 1 or service.ledger is None:
        return None
    refusal = service.ledger.room_for([one.arrival() for one in generations])
    return None if refusal is None else Rejected(*refusal)


def note_what_it_waits_for(service: Service, batch: Generations, shape: WireShape) -> None:
    """Tell the policy what the answer shows, where the client has not said it: once per answer, and
    before the client can see its end, or the agent's next turn could come first. The ledger must hear of
    every choice that was not for a person: it charges each by itself."""
    turn, wait = batch.generations[-1], shape.waits_for()
    if turn.hint.wait is Wait.UNKNOWN and wait is not Wait.UNKNOWN and not turn.prewarm:
        hint = replace(turn.hint, wait=wait, tool=turn.hint.tool or shape.called())
        for request in batch.requests if wait in FOR_OTHERS else batch.requests[-1:]:
            service.driver.hint(request, turn.caller.tenant, turn.caller.agent, hint)


async def stream_frames(
    service: Service, request_id: str, batch: Generations, shape: WireShape, first: Arrival | None
) -> AsyncIterator[bytes]:
    """The stream as bytes."""
    async for data in stream_events(service, request_id, batch, shape, first):
        yield COMMENTS[data] if isinstance(data, Comment) else shape.frame(data)
    if shape.done:
        yield shape.done


async def stream_events(
    service: Service, request_id: str, batch: Generations, shape: WireShape, first: Arrival | None = None
) -> AsyncIterator[Event | Comment]:
    """The events of a whole answer, and comments: for every ``keep_alive_s`` of silence, and when the
    request is preempted. Raises nothing: whatever goes wrong on the way is the last event."""
    try:
        for data in shape.begin():
            yield data
        arrival = first
        while True:
            events = shape.take(arrival) if arrival is not None else []
            over = batch.over
            if over:
                note_what_it_waits_for(service, batch, shape)
            for data in events:
                yield data
            if over:
                break
            if arrival is not None and isinstance(arrival.output, Preempted):
                yield Comment.PREEMPTED
            arrival = await batch.next(service.settings.keep_alive_s)
            if arrival is None:
                yield Comment.KEEP_ALIVE
        for data in shape.end():
            yield data
    except Exception as error:
        if not isinstance(error, ApiError):
            log.exception("request %s failed in its stream", request_id)
            error = internal_error(request_id)
        for data in shape.failed(error):
            yield data
