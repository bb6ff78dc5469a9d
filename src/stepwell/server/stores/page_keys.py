"""A key in a browser: a cookie that scripts cannot read stands for it.

The page never keeps the key. The cookie is ``HttpOnly`` and ``SameSite=Strict``; whatever changes something
must carry a header beside, which no form and no other site's script can send. A server that restarts has
forgotten its cookies.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import OrderedDict
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response

from stepwell.server.errors import ApiError

COOKIE = "stepwell_page"
OWN_HEADER = "x-stepwell-page"
LIFE_S = 12 * 3_600
MAX_COOKIES = 4_096
SAFE_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})


@dataclass(frozen=True, slots=True)
class _Entry:
    key_digest: bytes
    until_s: float


class PageKeys:
    """Which key each cookie stands for, by digests of both. Lives in the event loop."""

    def __init__(self) -> None:
        self._entries: OrderedDict[bytes, _Entry] = OrderedDict()
        self.revision = 0
        """Another one whenever a cookie has stopped counting other than by its age."""

    def give(self, request: Request, response: Response, key_digest: bytes, now_s: float) -> None:
        """A new cookie for this key."""
        token = secrets.token_urlsafe(32)
        self._entries[_digest(token)] = _Entry(key_digest, now_s + LIFE_S)
        while len(self._entries) > MAX_COOKIES:
            self._entries.popitem(last=False)
            self.revision += 1
        response.set_cookie(
            COOKIE,
            token,
            max_age=LIFE_S,
            path="/",
            secure=request.url.scheme == "https",
            httponly=True,
            samesite="strict",
        )

    def take_back(self, request: Request, response: Response) -> None:
        self._entries.pop(_digest(request.cookies.get(COOKIE, "")), None)
        self.revision += 1
        response.delete_cookie(COOKIE, path="/", httponly=True, samesite="strict")

    def key_digest(self, request: Request, now_s: float) -> bytes | None:
        """Of the key that the request's cookie stands for; None where it has none that counts. Raises a 403
        ``ApiError`` for what another site may have sent."""
        token = request.cookies.get(COOKIE)
        if token is None:
            return None
        entry = self._entries.get(_digest(token))
        if entry is None or now_s >= entry.until_s:
            return None
        if request.method not in SAFE_METHODS:
            require_own_page(request)
        return entry.key_digest


def require_own_page(request: Request) -> None:
    """Raises a 403 ``ApiError`` unless the page itself asks."""
    origin = request.headers.get("origin")
    own = f"{request.url.scheme}://{request.headers.get('host', '')}"
    behind_tls = f"https://{request.headers.get('host', '')}"  # ended by a proxy in front
    if OWN_HEADER not in request.headers or origin not in (None, own, behind_tls):
        raise ApiError(
            403,
            "Only the page itself may do this with its cookie.",
            code="cross_site",
            type="permission_error",
        )


def _digest(token: str) -> bytes:
    return hashlib.sha256(token.encode("utf-8", "surrogatepass")).digest()
