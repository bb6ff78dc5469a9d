"""``multipart/form-data`` as it comes in: streamed to disk, never more than a file may be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncGenerator, Mapping
from dataclasses import dataclass

from starlette.datastructures import FormData, UploadFile
from starlette.formparsers import MultiPartException, MultiPartParser
from starlette.requests import ClientDisconnect, Request

from stepwell.library.errors import StorageFull
from stepwell.server.backends.library import api_error
from stepwell.server.errors import bad_request, clip
from stepwell.server.wire.body import ClientGone, too_large, too_slow

MAX_FIELDS = 16
MAX_FIELD_BYTES = 16 * 1024
OVERHEAD_BYTES = (MAX_FIELDS + 2) * MAX_FIELD_BYTES
"""What a form may have besides the file."""


@dataclass(frozen=True, slots=True)
class Upload:
    """A file and the other fields of its form."""

    filename: str
    data: bytes
    fields: Mapping[str, str]


async def read_upload(request: Request, max_bytes: int, timeout_s: float) -> Upload:
    """Raises ``ApiError`` (400, 408, 413), or ``ClientGone`` when it was cut off in the middle."""
    kind = request.headers.get("content-type", "")
    if not kind.lower().startswith("multipart/form-data"):
        raise bad_request("Send the file as multipart/form-data with the fields 'file' and 'purpose'.")
    form = await _parsed(request, max_bytes, timeout_s)
    try:
        file = form.get("file")
        if not isinstance(file, UploadFile):
            raise bad_request(
                "Missing required parameter: 'file'.", param="file", code="missing_required_parameter"
            )
        data = await file.read(max_bytes + 1)
    finally:
        await form.close()
    if len(data) > max_bytes:
        raise too_large(max_bytes)
    fields = {name: value for name, value in form.multi_items() if isinstance(value, str)}
    return Upload(file.filename or "", data, fields)


async def _parsed(request: Request, max_bytes: int, timeout_s: float) -> FormData:
    parser = _Form(request, max_bytes)
    try:
        async with asyncio.timeout(timeout_s):
            return await parser.parse()
    except TimeoutError:
        raise too_slow(timeout_s) from None
    except MultiPartException as error:
        raise bad_request(
            f"We could not parse the form: {clip(error.message)}", code="invalid_form"
        ) from None
    except ClientDisconnect:
        raise ClientGone from None
    except OSError as error:
        raise api_error(StorageFull(str(error.strerror))) from error
    finally:
        await parser.stream.aclose()


class _Form(MultiPartParser):
    """Knows where the form ends: a body that ends before is half a file and no file."""

    def __init__(self, request: Request, max_bytes: int) -> None:
        pieces = self._pieces(request, max_bytes)
        super().__init__(
            request.headers, pieces, max_files=1, max_fields=MAX_FIELDS, max_part_size=MAX_FIELD_BYTES
        )
        self._whole = False

    def on_end(self) -> None:
        self._whole = True

    async def _pieces(self, request: Request, max_bytes: int) -> AsyncGenerator[bytes, None]:
        """Raises a 413 ``ApiError`` as soon as it is known."""
        limit = max_bytes + OVERHEAD_BYTES
        declared = request.headers.get("content-length", "")
        if declared.isdecimal() and (len(declared) > 18 or int(declared) > limit):
            raise too_large(max_bytes)
        seen = 0
        async for piece in request.stream():
            seen += len(piece)
            if seen > limit:
                raise too_large(max_bytes)
            yield piece
        if not self._whole:
            raise MultiPartException("it ends in the middle.")
