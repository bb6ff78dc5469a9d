"""``StepwellOwners``: middleware of vLLM's own server that names a request's owner; no client can name it.

Named as ``--middleware stepwell.vllm.owners.StepwellOwners``. Every request but those of probes and metrics
needs a key of Stepwell's settings (``STEPWELL_CONFIG``); without keys every caller is the local tenant, for
loopback only. ``rewrite.py`` says what becomes of a body; the header ``X-Vllm-Priority`` is removed. What
vLLM gets is what was written here, never the client's bytes.
"""

from __future__ import annotations

import json
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from starlette.requests import Request

from stepwell.server.callers.keys import ApiKey, KeyRing
from stepwell.server.errors import ApiError
from stepwell.server.service import require_local
from stepwell.settings.file import load
from stepwell.settings.keys import key_ring
from stepwell.vllm.rewrite import encoded, owned
from stepwell.vllm.waking import WakerOf

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

FORBIDDEN_HEADERS = frozenset({b"x-vllm-priority", b"content-length", b"transfer-encoding"})
FOR_CLIENTS = frozenset(
    {
        *("/v1/chat/completions", "/v1/completions", "/v1/messages", "/v1/messages/count_tokens"),
        *("/v1/responses", "/v1/embeddings", "/v1/rerank", "/v1/score", "/v2/embed", "/v2/rerank"),
        *("/tokenize", "/detokenize", "/rerank", "/score", "/pooling", "/classify", "/invocations"),
        *("/v1/audio/transcriptions", "/v1/audio/translations", "/v1/chat/completions/batch"),
    }
)
"""What computes for any caller. All else (adapters, weights, pauses, what others have stored) is an
operator's, also what vLLM may add."""
READ_BY_CLIENTS = "/v1/models"
OPEN_PATHS = frozenset({"/health", "/ping", "/metrics", "/version"})
LONGEST_BODY_BYTES = 64 << 20


class StepwellOwners:
    """An ASGI application around vLLM's."""

    def __init__(
        self, app: App, keys: KeyRing | None = None, heaviest_first: list[str] | None = None
    ) -> None:
        self._app, self._waker = app, WakerOf()
        settings = load(None, {}) if keys is None or heaviest_first is None else None
        self._keys = key_ring(settings) if keys is None and settings is not None else keys or KeyRing()
        if heaviest_first is None and settings is not None:
            contracts = sorted(settings.contracts(), key=lambda contract: -contract.weight)
            heaviest_first = [contract.name for contract in contracts]
        self._rank = {name: rank for rank, name in enumerate(heaviest_first or [])}

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})  # no way to name its owner
        self._waker.see(scope)
        if scope["type"] != "http" or scope["path"] in OPEN_PATHS:
            return await self._app(scope, receive, send)
        headers = {
            name.decode("latin-1").lower(): value.decode("latin-1") for name, value in scope["headers"]
        }
        try:
            key = self._keys.find(headers.get("authorization"))
            self._require(scope, key)
            if scope["method"] != "POST":
                return await self._app(scope, receive, send)
            body = self.rewritten(await _read(receive), headers, key)
        except ApiError as error:
            return await error.response()(scope, receive, send)
        kept = [(name, value) for name, value in scope["headers"] if name.lower() not in FORBIDDEN_HEADERS]
        scope = {**scope, "headers": [*kept, (b"content-length", str(len(body)).encode())]}
        return await self._app(scope, _once(body, receive), send)

    def _require(self, scope: Message, key: ApiKey) -> None:
        """Raises a 403 ``ApiError`` for strangers where there are no keys, and for what is an operator's."""
        if not self._keys.required:
            require_local(Request(scope))
        path, reads = scope["path"].rstrip("/"), scope["method"] in ("GET", "HEAD", "OPTIONS")
        if path == READ_BY_CLIENTS if reads else scope["method"] == "POST" and path in FOR_CLIENTS:
            return
        if not key.operator:
            raise ApiError(403, "This needs an operator's API key.", code="operator_key_required")

    def rewritten(self, data: bytes, headers: dict[str, str], key: ApiKey) -> bytes:
        """The body that vLLM gets. Raises ``ApiError`` for what is no JSON object."""
        if not headers.get("content-type", "application/json").startswith("application/json"):
            raise ApiError(415, "Send the body as application/json.", code="unsupported_media_type")
        try:
            body = json.loads(data or b"{}")
        except (ValueError, RecursionError):
            body = None
        if not isinstance(body, dict):
            raise ApiError(400, "The body is not a JSON object.", code="invalid_json")
        return encoded(owned(body, headers, key, self._rank).body)


async def _read(receive: Receive) -> bytes:
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise ApiError(400, "The client has gone.", code="client_gone")
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > LONGEST_BODY_BYTES:
            raise ApiError(413, f"The body is larger than {LONGEST_BODY_BYTES >> 20} MiB.", code="too_large")
        if not message.get("more_body"):
            return b"".join(parts)


def _once(body: bytes, receive: Receive) -> Receive:
    """The body as one message; after it, whatever comes (that the client has gone)."""
    left = [body]

    async def read() -> Message:
        if left:
            return {"type": "http.request", "body": left.pop(), "more_body": False}
        return await receive()

    return read
