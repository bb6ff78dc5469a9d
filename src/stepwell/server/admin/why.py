"""``GET /admin/why?of=...``: where the time of a request went, and what it waited for. For operators only, as
it names other customers."""

from __future__ import annotations

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.server.errors import bad_request, not_found
from stepwell.server.service import service_of

MAX_CHARS = 1_024


async def why(request: Request) -> Response:
    """Where the time of a request, an agent or a session went."""
    service = service_of(request)
    service.require_operator(request)
    what = request.query_params.get("of", "")
    if not what or len(what) > MAX_CHARS:
        raise bad_request("'of' is the id of a request, or the name of an agent or a session.", param="of")
    found = service.driver.why(what)
    if not found:
        raise not_found(
            "No request, agent or session of that name is under way or among the last that have ended.",
            code="why_unknown",
        )
    data = [{"model": service.model.text.name, **one} for one in found]
    return JSONResponse({"object": "list", "data": data})
