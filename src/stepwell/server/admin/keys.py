"""``/admin/keys``: which API keys there are, and reading them again. For operators only; no key is shown."""

from __future__ import annotations

import asyncio
from datetime import UTC, datetime
from typing import Any

from starlette.requests import Request
from starlette.responses import JSONResponse, Response

from stepwell.errors import StepwellError
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import ApiError, not_found
from stepwell.server.service import Service, service_of


async def list_keys(request: Request) -> Response:
    """The API keys by name, without their secrets."""
    service = service_of(request)
    service.require_operator(request)
    return JSONResponse({"object": "list", "data": [_shown(service, key) for key in service.keys.all()]})


async def reload_keys(request: Request) -> Response:
    """Read the settings' keys again, as SIGHUP does."""
    service = service_of(request)
    service.require_operator(request)
    if service.reload_keys is None:
        raise not_found("This server was not started from settings that could be read again.", code="no_keys")
    try:
        says = await asyncio.to_thread(service.reload_keys)
    except StepwellError as error:
        raise ApiError(400, f"The API keys stay as they were: {error}", code="bad_keys") from error
    return JSONResponse({"object": "keys.reload", "message": says, "keys": len(service.keys.all())})


def _shown(service: Service, key: ApiKey) -> dict[str, Any]:
    expires = key.expires_s
    return {
        "id": key.id,
        "name": key.name or None,
        "tenant": key.tenant,
        "service_tiers": list(key.service_tiers),
        "default_service_tier": key.default_service_tier,
        "operator": key.operator,
        "projects": list(key.projects),
        "expires": None if expires is None else datetime.fromtimestamp(expires, UTC).isoformat(),
        "expired": expires is not None and service.now_s() >= expires,
        "max_concurrent_requests": key.max_concurrent_requests,
        "requests_per_minute": key.requests_per_minute,
        "tokens_per_minute": key.tokens_per_minute,
        "left_this_minute": service.rates.left(key),
    }
