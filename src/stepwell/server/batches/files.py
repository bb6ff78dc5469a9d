"""Files of requests and of answers, beside the documents under ``/v1/files``."""

from __future__ import annotations

from typing import Any

from starlette.requests import Request
from starlette.responses import FileResponse, JSONResponse, Response

from stepwell.server.batches.runner import ServedBatches
from stepwell.server.batches.store import BatchFile
from stepwell.server.errors import ApiError, not_found
from stepwell.server.service import service_of, who_asks
from stepwell.server.wire.uploads import Upload

PREFIX = "file-batch-"
PURPOSES = ("batch", "batch_output")


def batches_of(request: Request) -> ServedBatches | None:
    """The batches with their files, without those whose time is over; None where none are kept."""
    served = request.app.state.batches
    if not isinstance(served, ServedBatches):
        return None
    served.store.expire_files(int(service_of(request).now_s()))
    return served


def keep(served: ServedBatches, tenant: str, upload: Upload, now_s: int, expires_s: int | None) -> BatchFile:
    """Raises ``ApiError``: too large, or over the tenant's quota."""
    held, size = served.store.held_bytes(tenant), len(upload.data)
    if held + size > served.limits.quota_bytes:
        raise ApiError(
            403,
            f"Files of batches may take {served.limits.quota_bytes} bytes; {held} are taken.",
            code="storage_quota_exceeded",
            param="file",
            type="permission_error",
        )
    expires_at = None if expires_s is None else now_s + expires_s
    return served.store.add_file(tenant, upload.filename, upload.data, "batch", now_s, expires_at)


def own_batch_file(request: Request) -> tuple[ServedBatches, BatchFile] | None:
    """The file that the path names, where it is of this kind. Raises a 404 ``ApiError``."""
    served, file_id = batches_of(request), request.path_params["file_id"]
    if served is None or not file_id.startswith(PREFIX):
        return None
    _, tenant = who_asks(service_of(request), request)
    found = served.store.file(tenant, file_id)
    if found is None:
        raise not_found("No such file.", code="file_not_found", param="file_id")
    return served, found


def content(served: ServedBatches, file: BatchFile) -> Response:
    headers = {"x-content-type-options": "nosniff"}
    return FileResponse(
        served.store.path(file.id), 200, headers, "application/octet-stream", filename=file.filename
    )


def delete(served: ServedBatches, file: BatchFile) -> Response:
    """Not while a batch still reads it."""
    if any(
        batch.input_file == file.id for batch in served.store.unfinished() if batch.status == "validating"
    ):
        raise ApiError(409, "A batch is reading this file.", code="file_in_use")
    served.store.delete_file(file.id)
    return JSONResponse({"id": file.id, "object": "file", "deleted": True})


def shown(file: BatchFile) -> dict[str, Any]:
    """OpenAI's file object."""
    return {
        "id": file.id,
        "object": "file",
        "bytes": file.bytes,
        "created_at": file.created_at,
        "expires_at": file.expires_at,
        "filename": file.filename,
        "purpose": file.purpose,
        "status": "processed",
        "status_details": None,
    }
