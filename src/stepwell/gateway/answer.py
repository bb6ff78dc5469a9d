"""An answer on its way to the client: whether another node may still give it, and its end when none can."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from starlette.types import Send

from stepwell.server.anthropic.errors import is_anthropic
from stepwell.server.errors import ApiError
from stepwell.server.wire.sse import DONE, event

RETRY_MS = 500


def node_lost() -> ApiError:
    """In the words of the API: SDKs try a 503 again by themselves."""
    return ApiError(
        503,
        "The node that served this request was lost; please send it again.",
        code="node_lost",
        type="server_error",
        retry_after_ms=RETRY_MS,
    )


class RelayedAnswer:
    """What the client has got so far. As long as that is comments at most, a stream may go on elsewhere."""

    def __init__(self, send: Send, path: str) -> None:
        self._send = send
        self._path = path
        self.started = False
        self.told = False
        """An event has been sent: from here on no other node can go on."""
        self.ended = False
        self.status = 0

    async def start(self, status: int, headers: Sequence[tuple[bytes, bytes]]) -> None:
        if self.started:
            return
        self.started, self.status = True, status
        await self._send({"type": "http.response.start", "status": status, "headers": list(headers)})

    async def body(self, chunk: bytes) -> None:
        if not self.told:
            self.told = not _only_comments(chunk)
        await self._send({"type": "http.response.body", "body": chunk, "more_body": True})

    async def end(self, chunk: bytes = b"") -> None:
        self.told = self.ended = True
        await self._send({"type": "http.response.body", "body": chunk, "more_body": False})

    async def broken(self) -> None:
        """A stream that cannot go on ends with an error that says: try again."""
        error = node_lost()
        if is_anthropic(self._path):
            kind = {"type": "overloaded_error", "message": error.message}
            await self.end(event({"type": "error", "error": kind}, "error"))
        elif self._path.startswith("/v1/responses"):
            said: dict[str, Any] = {
                "type": "error",
                "code": error.code,
                "message": error.message,
                "param": None,
            }
            await self.end(event(said, "error"))
        else:
            await self.end(event(error.body()) + DONE)


def _only_comments(chunk: bytes) -> bool:
    return all(not line or line.startswith(b":") for line in chunk.split(b"\n"))
