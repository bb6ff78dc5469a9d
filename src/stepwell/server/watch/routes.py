"""``GET /v1/watch``: server-sent events, ``full`` first and ``diff`` from then on; ``end`` says why it ended.

A key watches its own tenant, an operator's key everything, or one tenant with ``?tenant=``. Each event has a
sequence number (``id`` and ``seq``); a gap never happens, because a reader that missed one gets a ``full``.
"""

from __future__ import annotations

import time
from collections.abc import Callable

from starlette.requests import Request
from starlette.responses import Response

from stepwell.server.errors import ApiError
from stepwell.server.service import Service, service_of, who_asks
from stepwell.server.watch.hub import Hub
from stepwell.server.wire.sse import EventStream

AGAIN_S = 5.0
"""A key that has come to its last day, or a cookie to its age, may see for so much longer."""


class AskedAgain:
    """Why a watcher may not see any more. It is asked when keys or cookies were taken away, and else now and
    then, because asking for every watcher and frame costs more than sending them."""

    def __init__(self, service: Service, ask: Callable[[], str | None]) -> None:
        self._service = service
        self._ask = ask
        self._found: tuple[str | None, int, int] = (None, *self._revisions())
        self._until_s = time.monotonic() + AGAIN_S

    def __call__(self) -> str | None:
        now_s, revisions = time.monotonic(), self._revisions()
        if self._found[1:] != revisions or now_s >= self._until_s:
            self._found, self._until_s = (self._ask(), *revisions), now_s + AGAIN_S
        return self._found[0]

    def _revisions(self) -> tuple[int, int]:
        return self._service.keys.revision, self._service.page_keys.revision


async def watch(request: Request) -> Response:
    """One watcher."""
    service = service_of(request)
    service.require_open()
    key, own = who_asks(service, request)
    name = request.query_params.get("tenant") if key.operator else own
    hub = request.app.state.watch
    assert isinstance(hub, Hub)

    def why_not() -> str | None:
        """A key that was taken away, or stands for something else now, sees no more."""
        try:
            now, tenant = who_asks(service, request)
        except ApiError as error:
            return error.code or "invalid_api_key"
        return None if (now.operator, tenant) == (key.operator, own) else "invalid_api_key"

    view = hub.enter(name)
    frames = hub.frames(view, AskedAgain(service, why_not))
    return EventStream(frames, lambda: hub.leave(view), service.settings.send_timeout_s)
