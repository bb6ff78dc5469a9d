"""``/v1/files``: documents in and out, as OpenAI's clients send and list them.

A key sees the files of its own tenant; what belongs to others does not exist for it.
"""

from __future__ import annotations

import asyncio
from contextlib import AbstractContextManager, nullcontext
from typing import Any
from urllib.parse import quote

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.library.documents import Document
from stepwell.library.index import FileRecord
from stepwell.policy.types import Hint, Wait
from stepwell.server.backends.library import ServedLibrary
from stepwell.server.batches import files as batch_files
from stepwell.server.batches.files import batches_of, own_batch_file
from stepwell.server.batches.runner import ServedBatches
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import ApiError, bad_request, not_found
from stepwell.server.files.prewarm import DEFAULT_TTL, PrewarmRequest, agent_of, prewarm
from stepwell.server.generation.document_frame import document_frame
from stepwell.server.service import Service, service_of, who_asks
from stepwell.server.wire.body import too_large
from stepwell.server.wire.uploads import Upload, read_upload

PURPOSES = ("assistants", "batch", "evals", "fine-tune", "user_data", "vision")
MAX_PAGE = 1_000
EXPIRES_S = (3_600, 2_592_000)
"""OpenAI's bounds: an hour to thirty days."""
_TRUE, _FALSE = ("true", "1"), ("", "false", "0")


def served_library(service: Service) -> ServedLibrary:
    """Raises a 404 ``ApiError`` where no documents are kept."""
    if service.library is None:
        raise not_found("This server keeps no documents.", code="library_off")
    return service.library


async def create_file(request: Request) -> Response:
    """Upload a document; with ``prewarm`` its KV is computed too, and the answer says how that went."""
    service = service_of(request)
    service.require_open()
    batches = batches_of(request)
    served = served_library(service) if batches is None or service.library is not None else None
    key, tenant = who_asks(service, request)
    documents = 0 if served is None else served.library.limits.max_bytes
    most = max(documents, 0 if batches is None else batches.limits.max_bytes)
    patience_s = 600.0 if served is None else served.upload_timeout_s
    with service.gate.errand(key), _uploading(served, tenant):
        upload = await read_upload(request, most, patience_s)
        if batches is not None and upload.fields.get("purpose") == "batch":
            expires_s, now_s = _expires_s(upload.fields), int(service.now_s())
            file = await asyncio.to_thread(batch_files.keep, batches, tenant, upload, now_s, expires_s)
            return JSONResponse(batch_files.shown(file))
        served = served_library(service)
        if len(upload.data) > documents:
            raise too_large(documents)
        wants_prewarm = _flag(upload.fields, "prewarm")
        warm = None
        if wants_prewarm:
            warm = PrewarmRequest(ttl=upload.fields.get("ttl", DEFAULT_TTL), model=upload.fields.get("model"))
        record = await _kept(service, served, key, tenant, upload)
    served.wake_embedding()
    answer = shown(record)
    if warm is not None:
        try:
            answer["prewarm"] = await prewarm(service, request, key, record, warm)
        except ApiError as error:  # the file is there all the same, and its id must be told
            answer["prewarm"] = error.body()
    return JSONResponse(answer)


def _uploading(served: ServedLibrary | None, tenant: str) -> AbstractContextManager[None]:
    return nullcontext() if served is None else served.uploading(tenant)


async def _kept(
    service: Service, served: ServedLibrary, key: ApiKey, tenant: str, upload: Upload
) -> FileRecord:
    purpose, expires_s = _purpose(upload.fields), _expires_s(upload.fields)

    def count(document: Document) -> int:
        frame = document_frame(document.name, document.text)
        return len(service.text_model.tokenize(frame, add_bos=False, parse_special=True))

    return await served.work(
        lambda: served.library.add(
            tenant,
            upload.filename,
            upload.data,
            quota_bytes=served.quota(key),
            purpose=purpose,
            expires_s=expires_s,
            count_tokens=count,
        ),
        "file",
        reads_file=True,
    )


def _purpose(fields: Any) -> str:
    purpose = str(fields.get("purpose", "user_data"))
    if purpose not in PURPOSES:
        raise bad_request(f"'purpose' must be one of {', '.join(PURPOSES)}.", param="purpose")
    return purpose


def _expires_s(fields: Any) -> int | None:
    text = fields.get("expires_after[seconds]")
    if text is None:
        return None
    low, high = EXPIRES_S
    if not (text.isascii() and text.isdecimal() and len(text) < 9 and low <= int(text) <= high):
        raise bad_request(f"Seconds must be between {low} and {high}.", param="expires_after[seconds]")
    return int(text)


def _flag(fields: Any, name: str) -> bool:
    text = fields.get(name, "").strip().lower()
    if text not in _TRUE + _FALSE:
        raise bad_request(f"'{name}' must be true or false.", param=name)
    return text in _TRUE


async def list_files(request: Request) -> Response:
    """Newest first unless ``order=asc``; ``limit``, ``after``, ``purpose``."""
    service = service_of(request)
    query, batches = request.query_params, batches_of(request)
    if batches is not None and query.get("purpose") in batch_files.PURPOSES:
        return await _list_batch_files(request, batches)
    served = served_library(service)
    _, tenant = who_asks(service, request)
    order = query.get("order", "desc")
    if order not in ("asc", "desc"):
        raise bad_request("'order' must be asc or desc.", param="order")
    limit = query.get("limit", str(MAX_PAGE))
    if not (limit.isascii() and limit.isdecimal() and len(limit) < 6 and 1 <= int(limit) <= 10_000):
        raise bad_request("'limit' must be between 1 and 10000.", param="limit")
    page = await served.work(
        lambda: served.library.files(
            tenant,
            limit=min(int(limit), MAX_PAGE),
            after=query.get("after"),
            newest_first=order == "desc",
            purpose=query.get("purpose", ""),
        ),
        "after",
    )
    data = [shown(record) for record in page.files]
    ends = {"first_id": data[0]["id"] if data else None, "last_id": data[-1]["id"] if data else None}
    return JSONResponse({"object": "list", "data": data, **ends, "has_more": page.has_more})


async def _list_batch_files(request: Request, batches: ServedBatches) -> Response:
    """Those of one purpose, the newest first: ``after``, ``limit``."""
    _, tenant = who_asks(service_of(request), request)
    query = request.query_params
    found = [batch_files.shown(f) for f in batches.store.files(tenant, query["purpose"])]
    after = query.get("after")
    ids = [one["id"] for one in found]
    if after is not None and after not in ids:
        raise bad_request("'after' names no file of yours.", param="after")
    found = found[ids.index(after) + 1 :] if after is not None else found
    limit = int(text) if (text := query.get("limit", "")).isdecimal() and int(text[:6]) > 0 else MAX_PAGE
    page = found[:limit]
    ends = {"first_id": page[0]["id"] if page else None, "last_id": page[-1]["id"] if page else None}
    return JSONResponse({"object": "list", "data": page, **ends, "has_more": len(found) > len(page)})


async def get_file(request: Request) -> Response:
    """What is known about a file."""
    if (ours := own_batch_file(request)) is not None:
        return JSONResponse(batch_files.shown(ours[1]))
    _, _, record = await own_file(request)
    return JSONResponse(shown(record))


async def file_content(request: Request) -> Response:
    """The file as it came; never to be shown as a page of this server."""
    if (ours := own_batch_file(request)) is not None:
        return batch_files.content(*ours)
    service, served, record = await own_file(request)
    with service.gate.errand(service.key(request)):
        data = await served.work(lambda: served.library.content(record))
    headers = {
        "content-disposition": f"attachment; filename*=UTF-8''{quote(record.filename, safe='')}",
        "x-content-type-options": "nosniff",
    }
    return Response(data, media_type="application/octet-stream", headers=headers)


async def delete_file(request: Request) -> Response:
    """The document goes, and its KV is no longer held for it."""
    if (ours := own_batch_file(request)) is not None:
        return batch_files.delete(*ours)
    service, served, record = await own_file(request)
    await served.work(lambda: served.library.delete(record.tenant, record.id))
    service.driver.hint(0, record.tenant, agent_of(record), Hint(wait=Wait.DONE))
    return JSONResponse({"id": record.id, "object": "file", "deleted": True})


async def own_file(request: Request) -> tuple[Service, ServedLibrary, FileRecord]:
    """The file that the path names. Raises a 404 ``ApiError``."""
    service = service_of(request)
    served = served_library(service)
    _, tenant = who_asks(service, request)
    file_id = request.path_params["file_id"]
    return service, served, await served.work(lambda: served.library.get(tenant, file_id), "file_id")


def shown(record: FileRecord) -> dict[str, Any]:
    """OpenAI's file object, and ours: what kind it is, and how much of a context it takes."""
    return {
        "id": record.id,
        "object": "file",
        "bytes": record.bytes,
        "created_at": record.created_at,
        "expires_at": record.expires_at,
        "filename": record.filename,
        "purpose": record.purpose,
        "status": record.status,
        "status_details": record.note or None,
        "kind": record.kind,
        "tokens": record.tokens,
    }
