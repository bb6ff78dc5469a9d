"""Errors in Google's shape: ``{"error": {"code", "message", "status"}}``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from stepwell.server.anthropic.errors import message
from stepwell.server.errors import ApiError

STATUSES: Mapping[int, str] = {
    400: "INVALID_ARGUMENT",
    401: "UNAUTHENTICATED",
    403: "PERMISSION_DENIED",
    404: "NOT_FOUND",
    408: "DEADLINE_EXCEEDED",
    409: "ABORTED",
    413: "INVALID_ARGUMENT",
    429: "RESOURCE_EXHAUSTED",
    503: "UNAVAILABLE",
}

PATHS = ("/v1beta/", "/v1/cachedContents")


def is_gemini(path: str, method: str) -> bool:
    """Whether a request belongs to the dialect, which is asked under ``/v1`` and ``/v1beta``."""
    return path.startswith(PATHS) or (method == "POST" and path.startswith("/v1/models/"))


def body(error: ApiError) -> dict[str, Any]:
    """The error as a response body, or as the last event of a stream."""
    status = STATUSES.get(error.status, "INTERNAL" if error.status >= 500 else "FAILED_PRECONDITION")
    return {"error": {"code": error.status, "message": message(error), "status": status}}


def response(error: ApiError) -> JSONResponse:
    """The error as a response, with the headers that the other routes have."""
    headers = dict(error.response().headers)
    for name in ("content-length", "content-type"):
        headers.pop(name, None)
    return JSONResponse(body(error), error.status, headers)
