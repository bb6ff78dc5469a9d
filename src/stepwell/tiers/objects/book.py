"""What lies in an object store, as its listing told it and as our own writes have changed it since."""

from __future__ import annotations

import heapq
from collections.abc import Collection
from dataclasses import dataclass, field

from stepwell.policy.types import BlockId
from stepwell.tiers.objects.names import ObjectEntry
from stepwell.tiers.shared.index import Record

_STALE = 64
"""So many removed objects a heap may carry beside as many as there are."""


@dataclass(slots=True)
class _Group:
    """The objects of one tenant: when each was first counted here, and a heap of their ages."""

    serials: dict[ObjectEntry, int] = field(default_factory=dict)
    ages: list[tuple[int, bytes, int, ObjectEntry]] = field(default_factory=list)
    size_bytes: int = 0

    def add(self, entry: ObjectEntry, serial: int, now_us: int) -> None:
        """An object from the future is as old as the moment in which it is seen, not younger for ever."""
        self.serials[entry] = serial
        heapq.heappush(self.ages, (min(entry.written_us, now_us), entry.key, serial, entry))
        self.size_bytes += entry.size_bytes

    def remove(self, entry: ObjectEntry) -> bool:
        if self.serials.pop(entry, None) is None:
            return False
        self.size_bytes -= entry.size_bytes
        if len(self.ages) > 2 * len(self.serials) + _STALE:
            self.ages = [age for age in self.ages if self._is_there(age)]
            heapq.heapify(self.ages)
        return True

    def oldest(self) -> tuple[int, bytes, int, ObjectEntry]:
        while not self._is_there(self.ages[0]):
            heapq.heappop(self.ages)
        return self.ages[0]

    def _is_there(self, age: tuple[int, bytes, int, ObjectEntry]) -> bool:
        return self.serials.get(age[3]) == age[2]


class ObjectBook:
    """Objects of all models, and which blocks of ours can be had. Not locked: its owner does that."""

    def __init__(self, model: str) -> None:
        self._model = model
        self._groups: dict[str, _Group] = {}
        self._latest: dict[BlockId, ObjectEntry] = {}
        self._untrusted: set[ObjectEntry] = set()
        self._come: dict[BlockId, Record] = {}
        self._gone: set[BlockId] = set()
        self._serial = 0

    # --- changing -----------------------------------------------------------------------------

    def begin(self, entry: ObjectEntry, now_us: int) -> None:
        """Count it from before it exists, and do not offer it."""
        group = self._groups.setdefault(entry.tenant, _Group())
        if entry not in group.serials:
            self._serial += 1
            group.add(entry, self._serial, now_us)

    def add(self, entry: ObjectEntry, now_us: int) -> None:
        """It lies in the store. What is known already changes nothing."""
        self.begin(entry, now_us)
        known = self._latest.get(entry.key)
        newer = known is None or known.written_us < entry.written_us
        if newer and entry.model == self._model and entry not in self._untrusted:
            self._latest[entry.key] = entry
            self._come[entry.key] = Record(entry.written_us, entry.model, entry.key, entry.size_bytes)
            self._gone.discard(entry.key)

    def remove(self, entry: ObjectEntry) -> None:
        """It is not there any more, or is about to be removed."""
        group = self._groups.get(entry.tenant)
        if group is None or not group.remove(entry):
            return
        if not group.serials:
            del self._groups[entry.tenant]
        self._untrusted.discard(entry)
        self._withdraw(entry)

    def distrust(self, entry: ObjectEntry) -> None:
        """Its bytes are not what was written: it counts until it is removed, and is offered no more."""
        group = self._groups.get(entry.tenant)
        if group is not None and entry in group.serials:
            self._untrusted.add(entry)
            self._withdraw(entry)

    def _withdraw(self, entry: ObjectEntry) -> None:
        if self._latest.get(entry.key) == entry:
            del self._latest[entry.key]
            self._come.pop(entry.key, None)
            self._gone.add(entry.key)

    @property
    def serial(self) -> int:
        """Grows with every object that is counted; what ``keep_only`` is told."""
        return self._serial

    def keep_only(self, listed: Collection[ObjectEntry], since: int, now_us: int) -> None:
        """A whole listing, begun when ``serial`` was ``since``: what it lacks is gone, but for newer."""
        there = set(listed)
        for entry in listed:
            self.add(entry, now_us)
        for group in [*self._groups.values()]:
            for entry in [e for e, serial in group.serials.items() if serial <= since and e not in there]:
                self.remove(entry)

    # --- asking -------------------------------------------------------------------------------

    def entry_of(self, key: BlockId) -> ObjectEntry | None:
        """The newest object with this block of our model; None: there is none that can be trusted."""
        return self._latest.get(key)

    def used_bytes(self, tenant: str | None = None) -> int:
        """Of one tenant, or of all."""
        if tenant is None:
            return sum(group.size_bytes for group in self._groups.values())
        group = self._groups.get(tenant)
        return 0 if group is None else group.size_bytes

    def oldest(self, tenant: str | None = None) -> ObjectEntry | None:
        """The object of one tenant, or of all, that was written or renewed longest ago."""
        groups = self._groups.values() if tenant is None else [self._groups.get(tenant)]
        oldest = [group.oldest() for group in groups if group is not None]
        return min(oldest, key=lambda age: age[:3])[3] if oldest else None

    def usage(self) -> dict[str, tuple[int, int]]:
        """Bytes and objects of each tenant."""
        return {tenant: (group.size_bytes, len(group.serials)) for tenant, group in self._groups.items()}

    def take_changes(self) -> tuple[dict[BlockId, Record], set[BlockId]]:
        """Blocks that have come and gone since the last call."""
        come, self._come = self._come, {}
        gone, self._gone = self._gone, set()
        return come, gone

    def check(self) -> None:
        """Assert that bytes are the sum of the objects, and that what is offered is there."""
        for group in self._groups.values():
            assert group.size_bytes == sum(entry.size_bytes for entry in group.serials)
        for key, entry in self._latest.items():
            assert key == entry.key
            assert entry in self._groups[entry.tenant].serials
            assert entry not in self._untrusted
