"""``GET /v1/watch``: server-sent events, ``full`` first and ``diff`` from then on; ``end`` says why it ended.

A key watches its own tenant, an operator's key everything, or one tenant with ``?tenant=``. Each event has a
sequence number (``id`` and ``seq``); a gap never happens, because a reader that missed one gets a ``full``.
"""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import Response

from stepwell.server.agents import who_asks
from stepwell.server.errors import ApiError
from stepwell.server.service import service_of
from stepwell.server.sse import EventStream
from stepwell.server.watch.hub import Hub


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
            if service.key(request) == key:  # for each watcher and frame: who asks is looked up once
                return None
            now, tenant = who_asks(service, request)
        except ApiError as error:
            return error.code or "invalid_api_key"
        return None if (now.operator, tenant) == (key.operator, own) else "invalid_api_key"

    view = hub.enter(name)
    frames = hub.frames(view, why_not)
    return EventStream(frames, lambda: hub.leave(view), service.settings.send_timeout_s)
