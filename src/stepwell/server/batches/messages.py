"""``/v1/messages/batches``: Anthropic's message batches, on the same engine of work."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Annotated, Any

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse

from stepwell.server.batches.lines import Line, begins, body_error, ordered
from stepwell.server.batches.routes import DAY_S, open_batches, own_batch, page_of, require_room
from stepwell.server.batches.runner import ServedBatches
from stepwell.server.batches.store import CANCELLED, DONE, EXPIRED, Answered, Batch
from stepwell.server.errors import bad_request
from stepwell.server.service import who_asks
from stepwell.server.wire.body import parse, read_object
from stepwell.server.wire.schema import Schema

ENDPOINT = "/v1/messages"
FACE = "anthropic"


class MessageRequest(Schema):
    """One of them."""

    custom_id: Annotated[str, Field(min_length=1, max_length=64, pattern=r"^[a-zA-Z0-9_-]+$")]
    params: dict[str, Any]


class MessageBatchRequest(Schema):
    """All of them, in one body."""

    requests: Annotated[list[MessageRequest], Field(min_length=1, max_length=100_000)]


async def create_message_batch(request: Request) -> Response:
    """Checked at once, run from now on."""
    service, served = open_batches(request)
    key, tenant = who_asks(service, request)
    body = await read_object(request, service.settings, service.bodies, tenant)
    wanted = parse(MessageBatchRequest, body)
    lines = _lines(wanted, sorted(service.models))
    require_room(served, tenant, FACE)
    batch = served.store.add(
        tenant=tenant,
        key=key.id,
        face=FACE,
        endpoint=ENDPOINT,
        now_s=int(service.now_s()),
        window_s=DAY_S,
        window="24h",
    )
    served.store.put_lines(batch.id, lines, ordered(lines, by_prefix=served.by_prefix))
    served.wake()
    return JSONResponse(_shown(request, served, served.store.get(tenant, batch.id) or batch))


def _lines(wanted: MessageBatchRequest, models: list[str]) -> list[Line]:
    """Raises a 400 ``ApiError`` about the first that cannot be."""
    lines: list[Line] = []
    seen: set[str] = set()
    for number, one in enumerate(wanted.requests, 1):
        where = f"requests[{number - 1}]"
        if one.custom_id in seen:
            raise bad_request(f"The custom_id {one.custom_id!r} is there twice.", param=f"{where}.custom_id")
        if (wrong := body_error(one.params, models, set())) is not None:
            field = (wrong[2] or "").replace("body", "params")
            raise bad_request(wrong[1], param=f"{where}.{field}", code=wrong[0])
        seen.add(one.custom_id)
        lines.append(Line(number, one.custom_id, json.dumps(one.params), begins(one.params)))
    return lines


async def get_message_batch(request: Request) -> Response:
    """How far a batch has come."""
    _, served, batch = own_batch(request, FACE)
    return JSONResponse(_shown(request, served, batch))


async def list_message_batches(request: Request) -> Response:
    """The newest first: ``limit``, ``after_id``."""
    service, served = open_batches(request, reading=True)
    _, tenant = who_asks(service, request)
    page, more = page_of(served.store.all(tenant, FACE), request, "after_id")
    data = [_shown(request, served, batch) for batch in page]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return JSONResponse({"data": data, "has_more": more, **ends})


async def cancel_message_batch(request: Request) -> Response:
    """Requests under way end, no further one begins."""
    service, served, batch = own_batch(request, FACE)
    if not batch.ended:
        served.cancel(batch, int(service.now_s()))
    return JSONResponse(_shown(request, served, served.store.get(batch.tenant, batch.id) or batch))


async def delete_message_batch(request: Request) -> Response:
    """A batch that has ended goes, with its answers."""
    _, served, batch = own_batch(request, FACE)
    if not batch.ended:
        raise bad_request(
            "A batch can be deleted once it has ended; cancel it first.", param="message_batch_id"
        )
    served.store.delete(batch.id)
    return JSONResponse({"id": batch.id, "type": "message_batch_deleted"})


async def message_batch_results(request: Request) -> Response:
    """JSON lines, once it has ended."""
    _, served, batch = own_batch(request, FACE)
    if not batch.ended:
        raise bad_request("This batch has no results yet.", param="message_batch_id")

    def rows() -> Iterator[bytes]:
        for one in served.store.every_answer(batch.id):
            yield json.dumps({"custom_id": one.custom_id, "result": _result(one)}).encode() + b"\n"

    return StreamingResponse(rows(), media_type="application/x-jsonl")


def _result(one: Answered) -> dict[str, Any]:
    if one.state == DONE:
        try:
            body = json.loads(one.answer or "")
        except ValueError:
            body = {"type": "error", "error": {"type": "api_error", "message": "The answer is not JSON."}}
        return (
            {"type": "succeeded", "message": body}
            if one.status == 200
            else {"type": "errored", "error": body}
        )
    return {"type": "expired" if one.state == EXPIRED else "canceled"}


def _shown(request: Request, served: ServedBatches, batch: Batch) -> dict[str, Any]:
    """Anthropic's message batch object."""
    succeeded, errored = served.store.counts(batch.id)
    states = served.store.states(batch.id)
    gone = {name: states.get(state, 0) for name, state in (("canceled", CANCELLED), ("expired", EXPIRED))}
    processing = batch.total - succeeded - errored - sum(gone.values())
    status = "ended" if batch.ended else "canceling" if batch.status == "cancelling" else "in_progress"
    ended = [at for mark in ("completed", "expired", "cancelled") if (at := batch.marks.get(mark))]
    return {
        "id": batch.id,
        "type": "message_batch",
        "processing_status": status,
        "request_counts": {"processing": processing, "succeeded": succeeded, "errored": errored, **gone},
        "created_at": _moment(batch.created_at),
        "expires_at": _moment(batch.expires_at),
        "ended_at": _moment(ended[0]) if ended else None,
        "archived_at": None,
        "cancel_initiated_at": _moment(batch.marks.get("cancelling")),
        "results_url": f"{request.base_url}v1/messages/batches/{batch.id}/results" if batch.ended else None,
    }


def _moment(at_s: int | None) -> str | None:
    return None if at_s is None else datetime.fromtimestamp(at_s, UTC).isoformat().replace("+00:00", "Z")
