"""Stored responses: bounded in number and bytes, each tenant for itself, the longest unused goes first.

In memory only. A response that is gone answers 404, and a conversation that needs it says so.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.server.callers.identity import Identity
from stepwell.server.errors import ApiError, bad_request, clip, not_found
from stepwell.server.settings import ServerSettings
from stepwell.server.stores.background import BackgroundRun
from stepwell.server.stores.items import Item, size_bytes
from stepwell.server.stores.kept import KeptPerTenant


@dataclass(slots=True)
class StoredResponse:
    """A response, what it was asked, and whose it is."""

    identity: Identity
    response: dict[str, Any]
    input_items: Sequence[Item]
    run: BackgroundRun | None = None
    """Set for background responses: while it lasts the response may change."""
    size_bytes: int = field(init=False)

    def __post_init__(self) -> None:
        self.measure()

    def measure(self) -> None:
        events = self.run.events if self.run is not None else ()
        self.size_bytes = size_bytes([self.response, self.input_items, events])

    @property
    def id(self) -> str:
        return str(self.response["id"])

    @property
    def running(self) -> bool:
        return self.run is not None and not self.run.over

    def items(self) -> Iterator[Item]:
        """What the next turn of the conversation has before it."""
        yield from self.input_items
        yield from self.response["output"]


class ResponseStore(KeptPerTenant[StoredResponse]):
    """``put``, ``get``, ``delete`` and the way back along ``previous_response_id``."""

    def __init__(self, settings: ServerSettings) -> None:
        super().__init__(settings.max_stored_responses, settings.max_stored_bytes)
        self._max_chain = settings.max_response_chain

    def put(self, record: StoredResponse) -> None:
        """Keep a response, or note that it has changed."""
        record.measure()
        self.keep(record.identity.tenant, record)

    def get(self, tenant: str, response_id: str) -> StoredResponse:
        """Raises a 404 ``ApiError``, also for what belongs to another tenant."""
        record = self.find(tenant, response_id)
        if record is None:
            raise not_found(f"Response with id '{clip(response_id, 64)}' not found.")
        return record

    def delete(self, tenant: str, response_id: str) -> StoredResponse:
        record = self.get(tenant, response_id)
        self.forget(tenant, response_id)
        return record

    def conversation(self, tenant: str, response_id: str | None) -> list[StoredResponse]:
        """The responses that a new turn follows, oldest first. Raises ``ApiError``."""
        chain: list[StoredResponse] = []
        while response_id is not None:
            if len(chain) >= self._max_chain:
                raise bad_request(
                    f"The conversation has more than {self._max_chain} turns.",
                    param="previous_response_id",
                )
            chain.append(self._previous(tenant, response_id))
            response_id = chain[-1].response["previous_response_id"]
        return chain[::-1]

    def _previous(self, tenant: str, response_id: str) -> StoredResponse:
        try:
            record = self.get(tenant, response_id)
        except ApiError:
            raise bad_request(
                f"Previous response with id '{clip(response_id, 64)}' not found.",
                param="previous_response_id",
                code="previous_response_not_found",
            ) from None
        if record.response["status"] not in ("completed", "incomplete"):
            raise bad_request(
                f"The previous response is {record.response['status']}; only a finished one can be followed.",
                param="previous_response_id",
            )
        if record.response.get("conversation") is not None:
            raise bad_request(
                "The previous response belongs to a conversation: name that in 'conversation'.",
                param="previous_response_id",
            )
        return record
