"""Idleness: who has spent most of its life waiting can best be spared."""

from __future__ import annotations

from stepwell.policy.placements.base import Outlook
from stepwell.policy.placements.by_agent import ByAgent, Holder

_REFRESH_US = 1_000_000
_WHOLE = 1_000_000


class Idleness(ByAgent):
    """MORI's ranking: the highest share of idle time first, least recently used among equals.

    Shares move while agents rest or work, so all are ranked anew once a second and one at each event.
    """

    def __init__(self, outlook: Outlook) -> None:
        super().__init__(outlook)
        self._refreshed_us = 0

    def warmth(self, holder: Holder, now_us: int) -> tuple[int, ...]:
        record = holder.record
        rested_us, busy_us = record.rested_us, record.busy_us
        present_us = max(0, now_us - record.last_use_us)
        if holder.works:
            busy_us += present_us
        else:
            rested_us += present_us
        return -(rested_us * _WHOLE // max(1, rested_us + busy_us)), record.last_use_us

    def refresh(self, now_us: int) -> None:
        if now_us - self._refreshed_us >= _REFRESH_US:
            self._refreshed_us = now_us
            self.rerank_all(now_us)
