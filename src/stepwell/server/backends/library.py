"""The document library as the routes see it: off the event loop, a few at a time, its errors as ours."""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import TypeVar

from stepwell.errors import BadInput, MissingExtra, StepwellError
from stepwell.library.collections import NoSuchCollection
from stepwell.library.embeddings import Embedder
from stepwell.library.errors import DamagedFile, NoSuchFile, QuotaFull, StorageFull
from stepwell.library.search import CountedTexts
from stepwell.library.store import Library
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import ApiError, bad_request, not_found, rate_limited

READ_AT_ONCE = 2
"""Reading a PDF takes a core for seconds; more at once would take it from the engine."""
WORK_AT_ONCE = 8
"""Of all else, which must not wait for a slow PDF."""
UPLOADS_PER_TENANT = 4
UPLOADS_AT_ONCE = 16
RETRY_AFTER_MS = 1_000

Answer = TypeVar("Answer")


@dataclass(slots=True)
class ServedLibrary:
    """Lives in the event loop's thread."""

    library: Library
    quota_bytes: int = 2**30
    quotas: Mapping[str, int] = field(default_factory=dict)
    """By service tier, where it differs."""
    upload_timeout_s: float = 600.0
    counted: CountedTexts = field(default_factory=CountedTexts)
    embedder: Embedder | None = None
    """None: passages are ranked by their words alone."""
    wake_embedding: Callable[[], None] = lambda: None
    """Told that there is a new document."""
    _reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(READ_AT_ONCE))
    _working: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(WORK_AT_ONCE))
    _uploading: Counter[str] = field(default_factory=Counter)

    def quota(self, key: ApiKey) -> int:
        """What the tenant of this key may keep."""
        return self.quotas.get(key.default_service_tier, self.quota_bytes)

    async def work(
        self, do: Callable[[], Answer], param: str | None = None, *, reads_file: bool = False
    ) -> Answer:
        """Run something of the library in a thread. Raises ``ApiError``; ``param`` is the field to blame.
        ``reads_file``: it extracts the text of a file."""
        async with self._reading if reads_file else self._working:
            try:
                return await asyncio.to_thread(do)
            except StepwellError as error:
                raise api_error(error, param) from error

    @contextmanager
    def uploading(self, tenant: str) -> Iterator[None]:
        """Raises a 429 ``ApiError`` when too many are under way: each takes room on the disk meanwhile."""
        if self._uploading[tenant] >= UPLOADS_PER_TENANT or self._uploading.total() >= UPLOADS_AT_ONCE:
            raise rate_limited("As many uploads are under way as there may be.", RETRY_AFTER_MS)
        self._uploading[tenant] += 1
        try:
            yield
        finally:
            self._uploading[tenant] -= 1
            self._uploading += Counter()  # forget zeros


def api_error(error: StepwellError, param: str | None = None) -> ApiError:
    """What went wrong with a document, for its client. Only what waiting can mend is worth
    another try, and here nothing is."""
    sentence = f"{str(error)[:1].upper()}{str(error)[1:]}."[:500]
    match error:
        case NoSuchFile():
            return not_found(sentence, code="file_not_found", param=param)
        case NoSuchCollection():
            return not_found(sentence, code="vector_store_not_found", param="vector_store_id")
        case QuotaFull():
            return ApiError(
                403, sentence, code="storage_quota_exceeded", param=param, type="permission_error"
            )
        case MissingExtra():
            return bad_request(
                "This server lacks what it takes to read files of this kind.",
                code="unsupported_file",
                param=param,
            )
        case BadInput():
            return bad_request(sentence, code="invalid_file", param=param)
        case StorageFull():
            return _final(
                507, "The library cannot be written now: its disk is full or fails.", "storage_full"
            )
        case DamagedFile():
            return _final(500, sentence, "file_damaged")
    return _final(500, "The library failed.", "server_error")


def _final(status: int, message: str, code: str) -> ApiError:
    return ApiError(status, message, code=code, type="server_error", headers={"x-should-retry": "false"})
