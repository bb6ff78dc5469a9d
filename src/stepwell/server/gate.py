"""How many requests may generate at once, in all and per API key."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager

from stepwell.server.errors import rate_limited
from stepwell.server.keys import ApiKey
from stepwell.server.settings import ServerSettings


class Gate:
    """Counts requests from before tokenising until the last byte. Lives in the event loop's thread."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._by_key: Counter[int] = Counter()

    @property
    def inside(self) -> int:
        return self._by_key.total()

    def require_room(self, key: ApiKey) -> None:
        """Raises the 429 of ``enter`` while nothing has been read of the request yet."""
        if self._left(key) <= 0:
            error = rate_limited(self._why_full(key), self._settings.retry_after_ms)
            error.headers |= self._limits(key)
            raise error

    @contextmanager
    def enter(self, key: ApiKey) -> Iterator[dict[str, str]]:
        """Gives the headers that say how much room is left. Raises a 429 ``ApiError`` with them when the
        server or the key is full: nobody waits here, because a client that waits unseen cannot be
        counted, and the driver has the queue."""
        self.require_room(key)
        self._by_key[id(key)] += 1
        try:
            yield self._limits(key)
        finally:
            self._by_key[id(key)] -= 1
            self._by_key += Counter()  # forget zeros

    def _left(self, key: ApiKey) -> int:
        """How many more requests this key may have now."""
        left = self._settings.max_concurrent_requests - self.inside
        if key.max_concurrent_requests is not None:
            left = min(left, key.max_concurrent_requests - self._by_key[id(key)])
        return max(0, left)

    def _limits(self, key: ApiKey) -> dict[str, str]:
        """OpenAI's headers as far as they are true here: requests at once. There is no limit per minute,
        so nothing is ever reset, and none on tokens."""
        limit = self._settings.max_concurrent_requests
        if key.max_concurrent_requests is not None:
            limit = min(limit, key.max_concurrent_requests)
        return {
            "x-ratelimit-limit-requests": str(limit),
            "x-ratelimit-remaining-requests": str(self._left(key)),
        }

    def _why_full(self, key: ApiKey) -> str:
        own = key.max_concurrent_requests
        if own is not None and self._by_key[id(key)] >= own:
            return f"This API key may have {own} requests running at once."
        return "The server has as many requests as it may have."
