"""Stored responses: bounded in number and bytes, each tenant for itself, the longest unused goes first.

In memory only. A response that is gone answers 404, and a conversation that needs it says so.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

from stepwell.server.background import BackgroundRun
from stepwell.server.errors import ApiError, bad_request, clip, not_found
from stepwell.server.identity import Identity
from stepwell.server.response_items import Item, size_bytes
from stepwell.server.settings import ServerSettings


@dataclass(slots=True)
class StoredResponse:
    """A response, what it was asked, and who it belongs to."""

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


class ResponseStore:
    """``put``, ``get``, ``delete`` and the way back along ``previous_response_id``."""

    def __init__(self, settings: ServerSettings) -> None:
        self._settings = settings
        self._tenants: dict[str, OrderedDict[str, StoredResponse]] = {}

    @property
    def used_bytes(self) -> int:
        return sum(record.size_bytes for kept in self._tenants.values() for record in kept.values())

    def __len__(self) -> int:
        return sum(map(len, self._tenants.values()))

    def put(self, record: StoredResponse) -> None:
        """Keep a response, or note that it has changed."""
        record.measure()
        tenant = record.identity.tenant
        kept = self._tenants.setdefault(tenant, OrderedDict())
        kept[record.id] = record
        kept.move_to_end(record.id)
        self._shrink(tenant)

    def get(self, tenant: str, response_id: str) -> StoredResponse:
        """Raises a 404 ``ApiError``, also for what belongs to somebody else."""
        kept = self._tenants.get(tenant, OrderedDict())
        record = kept.get(response_id)
        if record is None:
            raise not_found(f"Response with id '{clip(response_id, 64)}' not found.")
        kept.move_to_end(response_id)
        return record

    def delete(self, tenant: str, response_id: str) -> StoredResponse:
        record = self.get(tenant, response_id)
        self._forget(tenant, response_id)
        return record

    def conversation(self, tenant: str, response_id: str | None) -> list[StoredResponse]:
        """The responses that a new turn follows, oldest first. Raises ``ApiError``."""
        chain: list[StoredResponse] = []
        while response_id is not None:
            if len(chain) >= self._settings.max_response_chain:
                raise bad_request(
                    f"The conversation has more than {self._settings.max_response_chain} turns.",
                    param="previous_response_id",
                )
            chain.append(self._previous(tenant, response_id))
            response_id = chain[-1].response["previous_response_id"]
        return chain[::-1]

    def all_running(self) -> list[StoredResponse]:
        return [record for kept in self._tenants.values() for record in kept.values() if record.running]

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
        return record

    def _shrink(self, tenant: str) -> None:
        """Half of the bytes at most for one tenant, so that nobody can push everybody else out."""
        total = self._settings.max_stored_bytes
        while self._too_much(tenant, total // 2) and self._drop_oldest(tenant):
            pass
        while self.used_bytes > total and self._drop_oldest(self._largest()):
            pass

    def _too_much(self, tenant: str, max_bytes: int) -> bool:
        kept = self._tenants.get(tenant, OrderedDict())
        too_many = len(kept) > self._settings.max_stored_responses
        return too_many or sum(record.size_bytes for record in kept.values()) > max_bytes

    def _largest(self) -> str:
        return max(self._tenants, key=lambda t: sum(r.size_bytes for r in self._tenants[t].values()))

    def _drop_oldest(self, tenant: str) -> bool:
        """False when only running responses are left; their number has a bound of its own."""
        oldest = next((record.id for record in self._tenants[tenant].values() if not record.running), None)
        if oldest is not None:
            self._forget(tenant, oldest)
        return oldest is not None and tenant in self._tenants

    def _forget(self, tenant: str, response_id: str) -> None:
        del self._tenants[tenant][response_id]
        if not self._tenants[tenant]:
            del self._tenants[tenant]
