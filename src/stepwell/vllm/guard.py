"""``FrontEndOnly``: middleware of vLLM's own server behind our front end. Others get nothing.

Named as ``--middleware stepwell.vllm.guard.FrontEndOnly``. vLLM's own check of ``VLLM_API_KEY`` covers paths
below ``/v1`` and a few more. ``/invocations`` generates, ``/pause`` and others are operators', and
all are open to every program on the machine and, by CORS (``*``), to every page in a browser on it.

Source: vLLM 0.32.0, entrypoints/serve/middleware/authenticate.py.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any

from stepwell.vllm.waking import WakerOf

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
App = Callable[[Message, Receive, Send], Awaitable[None]]
KEY = "VLLM_API_KEY"


class FrontEndOnly:
    """An ASGI application around vLLM's."""

    def __init__(self, app: App, key: str | None = None) -> None:
        """``key``: else that of the environment, which has to be there."""
        self._app = app
        self._waker = WakerOf()
        self._wanted = b"Bearer " + (key or os.environ[KEY]).encode()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "websocket":
            return await send({"type": "websocket.close", "code": 1008})
        given = [value for name, value in scope.get("headers", ()) if name.lower() == b"authorization"]
        if scope["type"] == "http" and not (
            len(given) == 1 and secrets.compare_digest(given[0], self._wanted)
        ):
            await send({"type": "http.response.start", "status": 401, "headers": [(b"content-length", b"0")]})
            return await send({"type": "http.response.body", "body": b""})
        self._waker.see(scope)
        return await self._app(scope, receive, send)
