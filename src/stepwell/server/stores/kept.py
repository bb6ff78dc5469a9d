"""What is kept for tenants in memory: bounded in number and bytes, each tenant for itself, the longest unused
goes first."""

from __future__ import annotations

from collections import OrderedDict
from typing import Generic, Protocol, TypeVar


class KeptRecord(Protocol):
    """One of what is kept."""

    @property
    def id(self) -> str: ...

    @property
    def size_bytes(self) -> int: ...

    @property
    def running(self) -> bool:
        """Whether something still works on it: it is not forgotten meanwhile."""


Record = TypeVar("Record", bound=KeptRecord)


class KeptPerTenant(Generic[Record]):
    """Records by tenant and id."""

    def __init__(self, max_records: int, max_bytes: int) -> None:
        """``max_records`` of one tenant; ``max_bytes`` of all, at most half of them of one tenant."""
        self._max_records = max_records
        self._max_bytes = max_bytes
        self._tenants: dict[str, OrderedDict[str, Record]] = {}

    @property
    def used_bytes(self) -> int:
        return sum(record.size_bytes for kept in self._tenants.values() for record in kept.values())

    def __len__(self) -> int:
        return sum(map(len, self._tenants.values()))

    def keep(self, tenant: str, record: Record) -> None:
        """Keep a record, or note that its size has changed."""
        kept = self._tenants.setdefault(tenant, OrderedDict())
        kept[record.id] = record
        kept.move_to_end(record.id)
        self._shrink(tenant)

    def find(self, tenant: str, record_id: str) -> Record | None:
        """A record of this tenant's, used now."""
        kept = self._tenants.get(tenant, OrderedDict())
        record = kept.get(record_id)
        if record is not None:
            kept.move_to_end(record_id)
        return record

    def forget(self, tenant: str, record_id: str) -> None:
        """Raises ``KeyError``."""
        del self._tenants[tenant][record_id]
        if not self._tenants[tenant]:
            del self._tenants[tenant]

    def all_running(self) -> list[Record]:
        return [record for kept in self._tenants.values() for record in kept.values() if record.running]

    def _shrink(self, tenant: str) -> None:
        """Half of the bytes at most for one tenant, so that none can push all others out."""
        while self._too_much(tenant, self._max_bytes // 2) and self._drop_oldest(tenant):
            pass
        while self.used_bytes > self._max_bytes and self._drop_oldest(self._largest()):
            pass

    def _too_much(self, tenant: str, max_bytes: int) -> bool:
        kept = self._tenants.get(tenant, OrderedDict())
        too_many = len(kept) > self._max_records
        return too_many or sum(record.size_bytes for record in kept.values()) > max_bytes

    def _largest(self) -> str:
        return max(self._tenants, key=lambda t: sum(r.size_bytes for r in self._tenants[t].values()))

    def _drop_oldest(self, tenant: str) -> bool:
        """False when only running records are left; their number has a bound of its own."""
        oldest = next((record.id for record in self._tenants[tenant].values() if not record.running), None)
        if oldest is not None:
            self.forget(tenant, oldest)
        return oldest is not None and tenant in self._tenants
