"""What tenants have cached by name: messages, and until when. In memory, bounded; a restart forgets it."""

from __future__ import annotations

import secrets
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.server.errors import ApiError, clip, not_found

PREFIX = "cachedContents/"
MOST_OF_A_TENANT = 64
MOST_CHARS = 64 * 2**20
"""Of all texts together; one tenant may have half of them."""


@dataclass(slots=True)
class Cached:
    """One cached content."""

    tenant: str
    id: str
    model: str
    messages: Sequence[dict[str, Any]]
    display_name: str
    created_s: float
    updated_s: float
    expires_s: float
    tokens: int = 0
    """Of the prefix that is held."""

    @property
    def chars(self) -> int:
        return sum(len(message["content"]) for message in self.messages)


def new_id() -> str:
    return secrets.token_hex(12)


class CachedContents:
    """What is kept here may be paid for, so nothing goes to make room (unlike ``kept.py``): a new one is
    refused. Lives in the event loop, but for ``get``, which other threads may call."""

    def __init__(self) -> None:
        self._all: dict[str, Cached] = {}

    def require_room(self, tenant: str, chars: int, now_s: float) -> None:
        """Raises a 429 ``ApiError``."""
        own = self.of(tenant, now_s)
        if len(own) >= MOST_OF_A_TENANT:
            raise _full(f"At most {MOST_OF_A_TENANT} contents may be cached by name")
        if sum(one.chars for one in own) + chars > MOST_CHARS // 2:
            raise _full(f"Contents that are cached by name may have {MOST_CHARS // 2:,} characters together")
        if sum(one.chars for one in self._all.values()) + chars > MOST_CHARS:
            raise _full("This server has no room for more contents that are cached by name", own=False)

    def put(self, one: Cached) -> None:
        self._all[one.id] = one

    def get(self, tenant: str, name: object, now_s: float) -> Cached:
        """By ``cachedContents/ID`` or the id. Raises a 404 ``ApiError``; what has expired is not there."""
        text = name if isinstance(name, str) else ""
        found = self._all.get(text.removeprefix(PREFIX))
        if found is None or found.tenant != tenant or found.expires_s <= now_s:
            raise not_found(
                f"No cached content {clip(text, 64)!r}: it may have expired.", param="cachedContent"
            )
        return found

    def of(self, tenant: str, now_s: float) -> list[Cached]:
        """The newest first."""
        self._forget(now_s)
        return [one for one in reversed(self._all.values()) if one.tenant == tenant]

    def delete(self, one: Cached) -> None:
        self._all.pop(one.id, None)

    def _forget(self, now_s: float) -> None:
        for one in [one for one in self._all.values() if one.expires_s <= now_s]:
            del self._all[one.id]


def _full(what: str, *, own: bool = True) -> ApiError:
    """``own``: the tenant can mend it, and trying again does not."""
    return ApiError(
        429,
        f"{what}; delete one that is not needed." if own else f"{what} at the moment.",
        code="rate_limit_exceeded",
        type="rate_limit_error",
        headers={"x-should-retry": "false"} if own else {},
    )
