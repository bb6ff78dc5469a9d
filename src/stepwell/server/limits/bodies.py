"""How much of requests may be in memory at once, before anything is known about them but their senders.

A body is counted byte by byte as it comes in, from beyond ``FREE_BYTES`` on, and until what it says has been
checked. No tenant may have more than half of what the others have left, so that neither one nor a few can
keep all others from asking. Middling bodies are not parsed behind the largest ones.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from types import TracebackType

from stepwell.server.errors import rate_limited
from stepwell.server.settings import ServerSettings

FREE_BYTES = 64 * 1024
"""As much of every body is bounded by the number of connections, and parsed at once."""
MIDDLING_BYTES = 2**20
"""What takes some ten milliseconds to parse does not wait for what takes a second."""


class Bodies:
    """The bytes of bodies that are being read. Lives in the event loop's thread."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._by_tenant: Counter[str] = Counter()
        self._reading: Counter[str] = Counter()
        self._parsing = asyncio.Semaphore(1)
        self._parsing_largest = asyncio.Semaphore(1)

    @property
    def used_bytes(self) -> int:
        return self._by_tenant.total()

    def of(self, tenant: str) -> Body:
        """A body that begins to come in. Raises a 429 ``ApiError`` where a tenant has too many that do: each
        of them may take its time, and keeps a connection meanwhile."""
        if self._reading[tenant] >= self._settings.max_bodies_per_tenant:
            raise rate_limited("Too many requests are on their way at once.", self._settings.retry_after_ms)
        return Body(self, tenant)

    def parsing(self, declared_bytes: int | None) -> asyncio.Semaphore:
        """One large body at a time is made into objects: that takes many times its size in memory. None: its
        size is not known."""
        middling = declared_bytes is not None and declared_bytes <= MIDDLING_BYTES
        return self._parsing if middling else self._parsing_largest

    def begun(self, tenant: str) -> None:
        self._reading[tenant] += 1

    def add(self, tenant: str, size_bytes: int) -> None:
        """Raises a 429 ``ApiError`` when there is no room for so many more."""
        others = self.used_bytes - self._by_tenant[tenant]
        most = (self._settings.max_bodies_bytes - others) // 2
        if not others:  # a single body of the largest size always fits, whatever the settings say
            most = max(most, self._settings.max_body_bytes)
        if self._by_tenant[tenant] + size_bytes > most:
            raise rate_limited(
                "Too many large requests are on their way at once.", self._settings.retry_after_ms
            )
        self._by_tenant[tenant] += size_bytes

    def ended(self, tenant: str, size_bytes: int) -> None:
        """One is over, and its bytes are dropped."""
        for counter, count in ((self._reading, 1), (self._by_tenant, size_bytes)):
            counter[tenant] -= count
            if counter[tenant] <= 0:
                del counter[tenant]


class Body:
    """What one request takes of the room. Leaving it as a context manager gives everything back."""

    def __init__(self, bodies: Bodies, tenant: str) -> None:
        self._bodies = bodies
        self._tenant = tenant
        self._counted_bytes = 0

    def grew_to(self, size_bytes: int) -> None:
        """So much of it has come in. Raises a 429 ``ApiError``."""
        more = max(0, size_bytes - FREE_BYTES) - self._counted_bytes
        if more > 0:
            self._bodies.add(self._tenant, more)
            self._counted_bytes += more

    def __enter__(self) -> Body:
        self._bodies.begun(self._tenant)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._bodies.ended(self._tenant, self._counted_bytes)
