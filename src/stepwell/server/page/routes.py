"""``/page``: the live page, the form's exchange of a key for a cookie, and leaving."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response

from stepwell.server.callers.keys import MAX_KEY_CHARS, digest_of
from stepwell.server.errors import not_found
from stepwell.server.page.files import page_files
from stepwell.server.service import service_of
from stepwell.server.stores.page_keys import require_own_page
from stepwell.server.wire.body import parse, read_object
from stepwell.server.wire.schema import Schema

POLICY = "default-src 'self'; base-uri 'none'; form-action 'self'; frame-ancestors 'none'; object-src 'none'"
NO_TENANT = ""
"""The tenant for which a body is counted before its key is known."""
HEADERS = {
    "content-security-policy": POLICY,
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
    "referrer-policy": "no-referrer",
    "cross-origin-opener-policy": "same-origin",
    "cache-control": "no-cache",
    "vary": "accept-encoding",
}


class KeyForm(Schema):
    """The key that a person has typed."""

    key: Annotated[str, Field(min_length=1, max_length=MAX_KEY_CHARS)]


async def page(request: Request) -> Response:
    """The page and its files. They hold no customer's data, so they need no key."""
    return page_file(request, request.path_params.get("path", "index.html") or "index.html")


def page_file(request: Request, name: str) -> Response:
    """One of the page's files. Raises a 404 ``ApiError``."""
    found = page_files().get(name)
    if found is None:
        raise not_found("The page has no such file.", code="unknown_url")
    headers = {**HEADERS, "etag": found.etag}
    if request.headers.get("if-none-match") == found.etag:
        return Response(status_code=304, headers=headers)
    if "gzip" in request.headers.get("accept-encoding", ""):
        headers["content-encoding"] = "gzip"
        return Response(found.compressed, headers=headers, media_type=found.media_type)
    return Response(found.content, headers=headers, media_type=found.media_type)


async def page_slash(request: Request) -> Response:
    """To the page."""
    return RedirectResponse("/page")


async def enter_key(request: Request) -> Response:
    """A key that counts becomes a cookie; 401 for one that does not."""
    service = service_of(request)
    require_own_page(request)
    wanted = parse(KeyForm, await read_object(request, service.settings, service.bodies, NO_TENANT))
    key = service.keys.find(f"Bearer {wanted.key.strip()}")
    answer = JSONResponse({"object": "page.key", "tenant": key.tenant, "operator": key.operator})
    if service.keys.required:
        service.page_keys.give(request, answer, digest_of(wanted.key.strip()), service.now_s())
    return answer


async def leave(request: Request) -> Response:
    """The cookie counts no more."""
    require_own_page(request)
    answer = JSONResponse({"object": "page.key", "deleted": True})
    service_of(request).page_keys.take_back(request, answer)
    return answer
