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

    @contextmanager
    def enter(self, key: ApiKey) -> Iterator[None]:
        """Raises a 429 ``ApiError`` when the server or the key is full: nobody waits here, because a
        client that waits unseen cannot be counted, and the driver has the queue."""
        own, retry_after_ms = self._by_key[id(key)], self._settings.retry_after_ms
        if key.max_concurrent_requests is not None and own >= key.max_concurrent_requests:
            raise rate_limited(
                f"This API key may have {key.max_concurrent_requests} requests running at once.",
                retry_after_ms,
            )
        if self.inside >= self._settings.max_concurrent_requests:
            raise rate_limited("The server has as many requests as it may have.", retry_after_ms)
        self._by_key[id(key)] += 1
        try:
            yield
        finally:
            self._by_key[id(key)] -= 1
            self._by_key += Counter()  # forget zeros
