"""Idleness: the agent that has spent most of its life waiting can best be spared."""

from __future__ import annotations

from typing import Final

from stepwell.policy.eviction.base import EvictionContext
from stepwell.policy.eviction.baselines.by_agent import AgentHolder, ByAgent

_REFRESH_US: Final = 1_000_000
_WHOLE: Final = 1_000_000


class Idleness(ByAgent):
    """MORI's ranking: the highest share of idle time first, least recently used among equals.

    Shares move while agents rest or work, so all are ranked anew once a second and one at each event.
    """

    def __init__(self, context: EvictionContext) -> None:
        super().__init__(context)
        self._refreshed_us = 0

    def warmth(self, holder: AgentHolder) -> tuple[int, ...]:
        record = holder.record
        idle_us, active_us = record.idle_us, record.active_us
        present_us = max(0, self.now_us - record.last_use_us)
        if holder.active:
            active_us += present_us
        else:
            idle_us += present_us
        return -(idle_us * _WHOLE // max(1, idle_us + active_us)), record.last_use_us

    def refresh(self) -> None:
        now_us = self.now_us
        if now_us - self._refreshed_us >= _REFRESH_US:
            self._refreshed_us = now_us
            self.rerank_all()
