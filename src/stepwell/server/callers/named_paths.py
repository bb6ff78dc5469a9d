"""A base URL that names the caller, for programs of which nothing but the base URL can be set.

``http://HOST:8000/s/SESSION/a/AGENT/v1`` is ``/v1`` with ``X-Session-ID`` and ``X-Agent-ID``. Like those
it is attribution within the key's own tenant and never authority, and a request that has these headers
itself keeps its own. Only ``/v1`` is there under such a path.
"""

from __future__ import annotations

import re

from starlette.types import ASGIApp, Receive, Scope, Send

NAMED = re.compile(r"/s/([ -.0-~]{1,255})/a/([ -.0-~]{1,255})(/v1(?:/.*)?)", re.DOTALL)
"""ASCII without slashes, because it goes on as a header."""
SAYS_WHO = frozenset({b"x-session-id", b"x-agent-id", b"x-agent"})


class NamedPaths:
    """Pure ASGI, outermost: everything behind it sees the plain path."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and (named := NAMED.fullmatch(scope["path"])):
            scope = {
                **scope,
                "path": named[3],
                "raw_path": named[3].encode(),
                "headers": _headers(scope, named),
            }
        await self._app(scope, receive, send)


def _headers(scope: Scope, named: re.Match[str]) -> list[tuple[bytes, bytes]]:
    own: list[tuple[bytes, bytes]] = list(scope["headers"])
    if any(name.lower() in SAYS_WHO for name, _ in own):
        return own
    return [*own, (b"x-session-id", named[1].encode()), (b"x-agent-id", named[2].encode())]
