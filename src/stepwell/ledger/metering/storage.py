"""Posting what lies in the KV tiers, in byte-microseconds: to its holders, and free room to ``IDLE``.

``holdings`` counts; here the counts become postings: an agent's when a request of it arrives and ends, and
all of them at intervals, which grow while no request arrives.
"""

from __future__ import annotations

from collections.abc import Iterable
from operator import sub

from stepwell.basics.per_tier import NOTHING, PerTier
from stepwell.ledger.metering.draft import PostingDraft
from stepwell.ledger.metering.holders import Holders
from stepwell.ledger.metering.holdings import Holder, Holdings
from stepwell.ledger.metering.metered import Metered
from stepwell.ledger.pricing.costs import room_bytes
from stepwell.ledger.types import IDLE, MACHINE, STORAGE, Cause
from stepwell.policy.config import PolicyConfig

STORAGE_EVERY_US = 60_000_000
MOST_PAUSE_US = 3_600_000_000


class StoragePoster:
    """Of one run, whose clock gives ``now_us``."""

    def __init__(
        self,
        config: PolicyConfig,
        draft: PostingDraft,
        holdings: Holdings,
        holders: Holders,
        now_us: int,
        every_us: int,
    ) -> None:
        """``every_us``: how often the storage of agents that do nothing is posted."""
        self._draft, self._holdings, self._holders = draft, holdings, holders
        self._capacity = room_bytes(config)
        self._every_us = self._pause_us = every_us
        self.due_us = now_us + every_us
        """When everything is posted at the latest, whatever happens or does not."""
        self._free_byte_us = [0, 0, 0]
        draft.hold(IDLE, self._capacity, now_us)

    def passed(self, passed_us: int) -> None:
        """The machine has given its room for so long; what no block took was free."""
        for at, (capacity, used) in enumerate(zip(self._capacity, self._holdings.used, strict=True)):
            given = max(capacity, used)  # a disk that is found too full at a start gives what lies there
            self._draft.count(STORAGE[at], given * passed_us)
            self._free_byte_us[at] += (given - used) * passed_us

    def resized(self, host_bytes: int, disk_bytes: int, now_us: int) -> None:
        """The room has changed."""
        self._capacity = self._capacity._replace(host=host_bytes, disk=disk_bytes)
        self._post_free(now_us)

    def request_arrived(self, now_us: int) -> None:
        """A request has come: pauses are short again."""
        self._pause_us = self._every_us // 2
        self.due_us = min(self.due_us, now_us + self._every_us)

    def post(self, holder: Holder, now_us: int, metered: Metered | None = None) -> None:
        """What a holder has stored until now; within a request, for it."""
        byte_us = holder.take(now_us)
        request = 0 if metered is None else metered.arrival.request
        for at, amount in enumerate(byte_us):
            self._draft.add(MACHINE, holder.account, STORAGE[at], Cause.STORAGE, request, amount)
            if metered is not None:
                metered.stored[at] += amount
        if any(byte_us):
            self._draft.hold(holder.account, holder.holds(), now_us)

    def post_all(self, requests: Iterable[Metered], now_us: int) -> None:
        """What each holder has stored. ``requests``: those that have not ended."""
        self._pause_us = min(2 * self._pause_us, max(MOST_PAUSE_US, self._every_us))
        self.due_us = now_us + self._pause_us
        busy = {metered.holder.account: metered for metered in requests}
        for holder in self._holders.surplus(busy):
            self._holdings.turn_to(holder, (), now_us)
        for holder in self._holders:
            self.post(holder, now_us, busy.get(holder.account))
            if not holder.pools and not holder.frame_bytes and holder.account not in busy:
                self._holders.forget(holder)
                self._draft.hold(holder.account, NOTHING, now_us)
        self._post_free(now_us)

    def close(self, now_us: int) -> None:
        """The last postings of a run, with the remainders of divisions."""
        self.post_all((), now_us)
        for holder in self._holders:
            for pool in holder.pools:
                holder.accrued = [have + rest for have, rest in zip(holder.accrued, pool.carry, strict=True)]
                pool.carry = [0, 0, 0]
        self.post_all((), now_us)

    def _post_free(self, now_us: int) -> None:
        for at, free in enumerate(self._free_byte_us):
            self._draft.add(MACHINE, IDLE, STORAGE[at], Cause.REST, 0, free)
        self._free_byte_us = [0, 0, 0]
        free_bytes = PerTier(*(max(0, free) for free in map(sub, self._capacity, self._holdings.used)))
        self._draft.hold(IDLE, free_bytes, now_us)
