"""Every error a client can see, in OpenAI's shape: ``{"error": {message, type, param, code}}``.

The SDKs decide by status whether to retry (408, 409, 429 and 5xx: yes), so the status says what is at
fault: 4xx the client, 429 and 503 the load, 500 this server.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import ValidationError
from pydantic_core import ErrorDetails
from starlette.responses import JSONResponse

from stepwell.loop.requests import Rejected

MAX_ECHO_CHARS = 200


class ApiError(Exception):
    """An error on its way to the client."""

    def __init__(
        self,
        status: int,
        message: str,
        *,
        code: str | None = None,
        param: str | None = None,
        type: str = "invalid_request_error",
        retry_after_ms: int | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status = status
        self.message = message
        self.code = code
        self.param = param
        self.type = type
        self.retry_after_ms = retry_after_ms
        self.headers = dict(headers or {})

    def body(self) -> dict[str, Any]:
        """The JSON object, as a response body or as an event in a stream."""
        return {"error": {"message": self.message, "type": self.type, "param": self.param, "code": self.code}}

    def response(self) -> JSONResponse:
        headers = dict(self.headers)
        if self.retry_after_ms is not None:
            # Both spellings: the OpenAI SDK prefers milliseconds, all others read seconds.
            headers["retry-after-ms"] = str(self.retry_after_ms)
            headers["retry-after"] = str(max(1, -(-self.retry_after_ms // 1000)))
        return JSONResponse(self.body(), self.status, headers)


def bad_request(message: str, *, param: str | None = None, code: str | None = "invalid_value") -> ApiError:
    return ApiError(400, message, code=code, param=param)


def unsupported(message: str, *, param: str | None = None) -> ApiError:
    """Valid for OpenAI, not here. Refused, because ignoring it would give a wrong answer quietly."""
    return ApiError(400, message, code="unsupported_value", param=param)


def not_found(message: str, *, code: str | None = None, param: str | None = None) -> ApiError:
    return ApiError(404, message, code=code, param=param)


def model_not_found(name: str) -> ApiError:
    return not_found(
        f"The model `{clip(name)}` does not exist; GET /v1/models lists what is served.",
        code="model_not_found",
        param="model",
    )


def context_length_exceeded(
    context_tokens: int, prompt_tokens: int | None, param: str, *, attached: bool = False
) -> ApiError:
    """``prompt_tokens`` None: so long that it was not counted. ``attached``: there are documents in it."""
    advice = "Please shorten it."
    if attached:
        advice = "Attach less of it: POST /v1/files/search finds the passages of a document that matter."
    has = f"{prompt_tokens} tokens" if prompt_tokens is not None else "far more"
    return bad_request(
        f"This model's maximum context length is {context_tokens} tokens, at least one of them for the "
        f"answer. However, your input has {has}. {advice}",
        code="context_length_exceeded",
        param=param,
    )


def rate_limited(message: str, retry_after_ms: int) -> ApiError:
    return ApiError(
        429, message, code="rate_limit_exceeded", type="rate_limit_error", retry_after_ms=retry_after_ms
    )


def draining(retry_after_ms: int = 1_000) -> ApiError:
    return ApiError(
        503,
        "The server is shutting down; please try again.",
        code="server_overloaded",
        type="server_error",
        retry_after_ms=retry_after_ms,
    )


def internal_error(request_id: str) -> ApiError:
    """Says nothing about the inside; the request id finds the log line."""
    return ApiError(
        500,
        f"The server had an error while processing your request ({request_id}). Sorry about that.",
        code="internal_error",
        type="server_error",
    )


@dataclass(frozen=True, slots=True)
class _Shape:
    status: int
    type: str
    retry_after_ms: int | None = None
    final: bool = False
    """Trying again is of no use before the cause is mended."""


REJECTIONS: Mapping[str, _Shape] = {
    "context_length_exceeded": _Shape(400, "invalid_request_error"),
    "invalid_request": _Shape(400, "invalid_request_error"),
    "invalid_value": _Shape(400, "invalid_request_error"),
    "invalid_grammar": _Shape(400, "invalid_request_error"),
    "constraint_failed": _Shape(400, "invalid_request_error"),
    "rate_limit_exceeded": _Shape(429, "rate_limit_error", 500),
    "flex_unavailable": _Shape(429, "rate_limit_error", 2_000),
    "insufficient_quota": _Shape(429, "insufficient_quota", final=True),
    "session_budget_exceeded": _Shape(429, "insufficient_quota", final=True),
    "agent_budget_exceeded": _Shape(429, "insufficient_quota", final=True),
    "server_overloaded": _Shape(503, "server_error", 1_000),
    "ledger_unavailable": _Shape(503, "server_error", 1_000),
}
"""The driver's codes. A code that is not here is a failure of ours: 500."""


def from_rejected(rejected: Rejected, param: str | None = None) -> ApiError:
    """The driver would not serve a request. ``param`` names the field that holds the prompt."""
    shape = REJECTIONS.get(rejected.code, _Shape(500, "server_error"))
    retry_after_ms = rejected.retry_after_ms if rejected.retry_after_ms is not None else shape.retry_after_ms
    may_retry = shape.status in (429, 503) and not shape.final
    return ApiError(
        shape.status,
        rejected.message,
        code=rejected.code,
        type=shape.type,
        param=param if rejected.code == "context_length_exceeded" else None,
        retry_after_ms=retry_after_ms if may_retry else None,
        headers={"x-should-retry": "false"} if shape.final else None,
    )


def from_validation(error: ValidationError) -> ApiError:
    """The first thing pydantic found wrong, with the path of the field as ``param``."""
    first = error.errors(include_url=False, include_context=True)[0]
    param = _path(first)
    return bad_request(_sentence(first, param), param=param or None, code=_code(first["type"]))


def _path(error: ErrorDetails) -> str:
    """``("messages", 0, "role")`` -> ``messages[0].role``. What stands in ``<>`` is no field of the body, but
    which type of several it was read as."""
    parts = [part for part in error["loc"] if isinstance(part, int) or not part.startswith("<")]
    path = "".join(f"[{part}]" if isinstance(part, int) else f".{clip(part, 64)}" for part in parts)
    return path.lstrip(".")


_CODES = (
    ("missing", "missing_required_parameter"),
    ("unsupported_part", "unsupported_value"),
    ("literal_error", "invalid_value"),
    ("enum", "invalid_value"),
    ("value_error", "invalid_value"),
    ("greater_than", "below_min_value"),
    ("less_than", "above_max_value"),
    ("finite_number", "invalid_value"),
    ("string_too_long", "string_above_max_length"),
    ("string_too_short", "string_below_min_length"),
    ("too_long", "array_above_max_length"),
    ("too_short", "array_below_min_length"),
)


def _code(kind: str) -> str:
    return next((code for prefix, code in _CODES if kind.startswith(prefix)), "invalid_type")


def _sentence(error: ErrorDetails, param: str) -> str:
    if error["type"] == "missing":
        return f"Missing required parameter: '{param}'."
    reason = error["msg"].removeprefix("Value error, ")
    where = f"Invalid value for '{param}'" if param else "Invalid request body"
    return f"{where}: {reason[:1].lower()}{reason[1:]}."


def clip(text: str, limit: int = MAX_ECHO_CHARS) -> str:
    """Client text for an error message: short, on one line, printable."""
    return "".join(c if c.isprintable() else "?" for c in text[:limit])
