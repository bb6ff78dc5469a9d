"""Errors in Anthropic's shape: ``{"type": "error", "error": {"type", "message"}, "request_id"}``.

Clients decide by status and by type whether to try again; "prompt is too long" is the sentence by which
coding agents know that they have to compact.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from starlette.responses import JSONResponse

from stepwell.server.errors import ApiError

PATHS = ("/v1/messages",)
TYPES: Mapping[int, str] = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    408: "timeout_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
}
OVERLOADED = 529
"""Anthropic's status for what others say with 503; its clients try again on either."""
_LONG = re.compile(r"maximum context length is (\d{1,12}) tokens.{0,80}your input has (\d{1,12}) tokens")


def is_anthropic(path: str) -> bool:
    """Whether a path belongs to the dialect."""
    return path.startswith(PATHS)


def body(error: ApiError, request_id: str) -> dict[str, Any]:
    """The error as a response body, or as the last event of a stream."""
    kind = TYPES.get(error.status, "invalid_request_error" if error.status < 500 else "api_error")
    return {
        "type": "error",
        "error": {"type": kind, "message": message(error)},
        "request_id": request_id,
    }


def message(error: ApiError) -> str:
    """The sentence, with the field in front of it where it does not name the field itself."""
    if error.code == "context_length_exceeded":
        if found := _LONG.search(error.message):
            return f"prompt is too long: {found[2]} tokens > {int(found[1]) - 1} maximum"
        return f"prompt is too long: {error.message}"
    named = error.param and error.param not in error.message
    return f"{error.param}: {error.message}" if named else error.message


def response(error: ApiError, request_id: str) -> JSONResponse:
    """The error as a response; the headers for trying again are those of the other routes."""
    headers = dict(error.response().headers)
    for name in ("content-length", "content-type"):
        headers.pop(name, None)
    status = OVERLOADED if error.status == 503 else error.status
    return JSONResponse(body(error, request_id), status, headers | {"request-id": request_id})
