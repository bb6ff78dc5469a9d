"""``/openapi.json``, and ``/docs``, which shows it."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence

from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import BaseRoute

from stepwell.server.openapi.document import describe
from stepwell.server.page.routes import page_file


async def openapi(request: Request) -> Response:
    """The description of this API (OpenAPI 3.1). It says nothing about customers, so it needs no key."""
    state = request.app.state
    if getattr(state, "openapi", None) is None:  # made when it is first asked for, and beside the loop
        state.openapi = await asyncio.to_thread(_document, request.app.routes)
    return Response(state.openapi, media_type="application/json")


def _document(routes: Sequence[BaseRoute]) -> bytes:
    return json.dumps(describe(routes), separators=(",", ":")).encode()


async def docs(request: Request) -> Response:
    """The same for people, in a browser."""
    return page_file(request, "docs.html")
