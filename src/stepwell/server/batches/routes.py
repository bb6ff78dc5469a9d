"""``/v1/batches`` in OpenAI's shapes. A key sees the batches of its own tenant."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.server.batches.runner import ServedBatches
from stepwell.server.batches.store import MARKS, Batch
from stepwell.server.errors import ApiError, bad_request, clip, not_found
from stepwell.server.service import Service, service_of, who_asks
from stepwell.server.wire.body import parse, read_object
from stepwell.server.wire.paging import page_limit
from stepwell.server.wire.schema import Schema

DAY_S = 86_400
MAX_METADATA = 16

MetaKey = Annotated[str, Field(max_length=64)]
MetaValue = Annotated[str, Field(max_length=512)]


class BatchRequest(Schema):
    """What is to be run."""

    input_file_id: Annotated[str, Field(min_length=1, max_length=128)]
    endpoint: Literal["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/embeddings"]
    completion_window: Literal["24h"]
    metadata: Annotated[dict[MetaKey, MetaValue], Field(max_length=MAX_METADATA)] | None = None


async def create_batch(request: Request) -> Response:
    """Validated and run from now on; no client has to wait for it."""
    service, served = open_batches(request)
    key, tenant = who_asks(service, request)
    body = await read_object(request, service.settings, service.bodies, tenant)
    wanted = parse(BatchRequest, body)
    served.store.expire_files(int(service.now_s()))
    file = served.store.file(tenant, wanted.input_file_id)
    if file is None:
        raise not_found(
            f"No file with id '{clip(wanted.input_file_id, 64)}'.",
            code="file_not_found",
            param="input_file_id",
        )
    if file.purpose != "batch":
        raise bad_request("The input file must have the purpose 'batch'.", param="input_file_id")
    require_room(served, tenant, "openai")
    batch = served.store.add(
        tenant=tenant,
        key=key.id,
        face="openai",
        endpoint=wanted.endpoint,
        input_file=file.id,
        now_s=int(service.now_s()),
        window_s=DAY_S,
        window=wanted.completion_window,
        metadata=wanted.metadata,
    )
    served.wake()
    return JSONResponse(shown(served, batch))


async def get_batch(request: Request) -> Response:
    """How far a batch has come."""
    _, served, batch = own_batch(request, "openai")
    return JSONResponse(shown(served, batch))


async def list_batches(request: Request) -> Response:
    """The newest first: ``limit``, ``after``."""
    service, served = open_batches(request, reading=True)
    _, tenant = who_asks(service, request)
    found = served.store.all(tenant, "openai")
    page, more = page_of(found, request, "after")
    data = [shown(served, batch) for batch in page]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": more})


async def cancel_batch(request: Request) -> Response:
    """Lines under way end, no further one begins; what is there already can be fetched."""
    service, served, batch = own_batch(request, "openai")
    if batch.ended:
        raise ApiError(
            409,
            f"A batch that is {batch.status} cannot be cancelled.",
            code="batch_ended",
            headers={"x-should-retry": "false"},
        )
    served.cancel(batch, int(service.now_s()))
    return JSONResponse(shown(served, served.store.get(batch.tenant, batch.id) or batch))


def open_batches(request: Request, *, reading: bool = False) -> tuple[Service, ServedBatches]:
    """Raises a 404 ``ApiError`` where none are kept."""
    service = service_of(request)
    if not reading:
        service.require_open()
    served = request.app.state.batches
    if not isinstance(served, ServedBatches):
        service.key(request)
        raise not_found("This server keeps no batches.", code="batches_off")
    return service, served


def own_batch(request: Request, face: str) -> tuple[Service, ServedBatches, Batch]:
    """The batch that the path names. Raises a 404 ``ApiError``."""
    service, served = open_batches(request, reading=True)
    _, tenant = who_asks(service, request)
    batch_id = request.path_params["batch_id"]
    batch = served.store.get(tenant, batch_id)
    if batch is None or batch.face != face:
        raise not_found(f"No batch found with id '{clip(batch_id, 64)}'.", code="batch_not_found")
    return service, served, batch


def require_room(served: ServedBatches, tenant: str, face: str) -> None:
    """Raises a 429 ``ApiError`` when the tenant has as many as it may."""
    open_now = sum(not batch.ended for batch in served.store.all(tenant, face))
    if open_now >= served.limits.max_batches:
        raise ApiError(
            429,
            f"At most {served.limits.max_batches} batches may be under way; wait for one to end.",
            code="rate_limit_exceeded",
            type="rate_limit_error",
            retry_after_ms=10_000,
        )


def page_of(found: list[Batch], request: Request, param: str) -> tuple[list[Batch], bool]:
    """A page of a list, and whether there is more. Raises ``ApiError``."""
    after = request.query_params.get(param)
    if after is not None:
        at = next((number for number, batch in enumerate(found) if batch.id == after), None)
        if at is None:
            raise bad_request(f"'{param}' names no batch of yours.", param=param)
        found = found[at + 1 :]
    limit = page_limit(request)
    return found[:limit], len(found) > limit


def shown(served: ServedBatches, batch: Batch) -> dict[str, Any]:
    """OpenAI's batch object."""
    completed, failed = served.store.counts(batch.id)
    errors = {"object": "list", "data": list(batch.errors)} if batch.errors else None
    return {
        "id": batch.id,
        "object": "batch",
        "endpoint": batch.endpoint,
        "errors": errors,
        "input_file_id": batch.input_file,
        "completion_window": batch.window,
        "status": batch.status,
        "output_file_id": batch.output_file,
        "error_file_id": batch.error_file,
        "created_at": batch.created_at,
        "expires_at": batch.expires_at,
        **{f"{mark}_at": batch.marks.get(mark) for mark in MARKS},
        "request_counts": {"total": batch.total, "completed": completed, "failed": failed},
        "metadata": batch.metadata,
        "model": batch.model,
    }
