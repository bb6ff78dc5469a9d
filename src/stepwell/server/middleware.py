"""Around every request: its id, how long it took, its place in the metrics, and the last resort."""

from __future__ import annotations

import logging
import re
import secrets
import time
from collections.abc import Callable

from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from stepwell.server.errors import internal_error
from stepwell.server.telemetry.access import begin_access
from stepwell.server.wire.body import ClientGone

log = logging.getLogger("stepwell.server")

_SANE_ID = re.compile(r"[A-Za-z0-9._:-]{1,128}")
_SCOPE_KEY = "stepwell.request_id"
CLIENT_GONE_STATUS = 499
"""nginx's number for a client that closed the connection."""

Ended = Callable[[Scope, int], None]
"""Told at the end of each request; its id and what is known of it lie in the scope."""


def request_id_of(scope: Scope) -> str:
    return str(scope[_SCOPE_KEY])


class RequestMiddleware:
    """Pure ASGI, because starlette's BaseHTTPMiddleware would hide the client's disconnect."""

    def __init__(self, app: ASGIApp, ended: Ended) -> None:
        self._app = app
        self._ended = ended

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        scope[_SCOPE_KEY] = request_id = _request_id(scope)
        begin_access(scope)
        answer = _Answer(send, request_id)
        try:
            await self._app(scope, receive, answer.send)
        except ClientGone:
            pass
        except Exception:
            log.exception("request %s failed: %s %s", request_id, scope["method"], scope["path"])
            if answer.status is None:
                await internal_error(request_id).response()(scope, receive, answer.send)
        finally:
            self._ended(scope, answer.status or CLIENT_GONE_STATUS)


class _Answer:
    """Adds the headers, and remembers whether the answer has begun."""

    def __init__(self, send: Send, request_id: str) -> None:
        self._send = send
        self._request_id = request_id
        self._started_s = time.perf_counter()
        self.status: int | None = None

    async def send(self, message: Message) -> None:
        if message["type"] == "http.response.start":
            self.status = message["status"]
            headers = MutableHeaders(scope=message)
            headers["x-request-id"] = self._request_id
            headers["openai-processing-ms"] = str(int((time.perf_counter() - self._started_s) * 1000))
        await self._send(message)


def _request_id(scope: Scope) -> str:
    """The client's own id when it is harmless in a header and a log line, else a new one."""
    offered = Headers(scope=scope).get("x-request-id", "")
    return offered if _SANE_ID.fullmatch(offered) else "req_" + secrets.token_hex(16)
