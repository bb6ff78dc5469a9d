"""The requests that have not ended, and the ways in which one ends other than by its last token."""

from __future__ import annotations

from collections.abc import Iterator

from stepwell.ledger.bookkeeper import Bookkeeper
from stepwell.loop.live import LiveRequest
from stepwell.loop.requests import Rejected
from stepwell.loop.tally import Tally
from stepwell.policy.types import RequestId

_MESSAGES = {
    "rate_limit_exceeded": "The queue is full; try again shortly.",
    "server_overloaded": "The server is shutting down and takes no new requests.",
    "context_length_exceeded": "The prompt leaves no room for an answer in this model's context.",
}


class LiveTable:
    """By request id. Additions come from other threads, everything else from the loop's."""

    def __init__(self, books: Bookkeeper, tally: Tally) -> None:
        self._live: dict[RequestId, LiveRequest] = {}
        self._books = books
        self._tally = tally

    def __bool__(self) -> bool:
        return bool(self._live)

    def __contains__(self, request: RequestId) -> bool:
        return request in self._live

    def __getitem__(self, request: RequestId) -> LiveRequest:
        return self._live[request]

    def __iter__(self) -> Iterator[LiveRequest]:
        """Those of this moment; requests may end meanwhile."""
        return iter(list(self._live.values()))

    def get(self, request: RequestId) -> LiveRequest | None:
        return self._live.get(request)

    def add(self, live: LiveRequest) -> None:
        self._live[live.request] = live

    def forget(self, request: RequestId) -> None:
        self._live.pop(request, None)

    def reject(
        self, live: LiveRequest, code: str, retry_after_ms: int | None = None, message: str | None = None
    ) -> None:
        """End a request with an error. One that has ended already is told nothing more."""
        self._live.pop(live.request, None)
        self._books.refused(live.request)
        if not live.ended:
            self._tally.add("requests_rejected")
            live.tell(Rejected(code, message or _MESSAGES.get(code, code), retry_after_ms))

    def cancel(self, request: RequestId, now_us: int) -> None:
        """The client has gone, and the policy knows."""
        live = self._live.pop(request, None)
        if live is not None and not live.ended:
            self._tally.add("requests_cancelled")
            live.finish("cancelled", now_us)
