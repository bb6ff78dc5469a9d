"""A time to live per agent: after a turn its blocks are kept for as long as that is likely to pay."""

from __future__ import annotations

import heapq
from dataclasses import dataclass, field
from typing import Final

from stepwell.policy.eviction.base import EvictionContext
from stepwell.policy.eviction.baselines.by_agent import AgentHolder, AgentKey, ByAgent
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import KvTier, Wait

_SCALE: Final = 64
"""Buckets of gap lengths, each twice as long as the one before; the first ends at 1 us."""
_FADE_AT: Final = 256
"""Gaps per histogram after which the older ones count half."""
_MOST_ROLES: Final = 4_096
"""Histograms at most; roles beyond share one, because clients name them."""
_OTHERS: Final = ("", "")


@dataclass(slots=True)
class _Gaps:
    """How long agents of one role have rested, on a scale of powers of two."""

    counts: list[int] = field(default_factory=lambda: [0] * _SCALE)
    total: int = 0

    def add(self, gap_us: int) -> None:
        self.counts[min(gap_us.bit_length(), _SCALE - 1)] += 1
        self.total += 1
        if self.total >= _FADE_AT:
            self.counts = [count // 2 for count in self.counts]
            self.total = sum(self.counts)

    def best_ttl_us(self, saved_us: int) -> int:
        """The time to live t with the largest P(gap <= t) * saved - t; 0 when none pays."""
        best_us, best_worth, seen = 0, 0, 0
        for bit, count in enumerate(self.counts):
            seen += count
            worth = seen * saved_us - (1 << bit) * self.total
            if count and worth > best_worth:
                best_us, best_worth = 1 << bit, worth
        return best_us


class Ttl(ByAgent):
    """CacheTTL and Continuum: expired agents first, least recently used; then the one that expires soonest.

    What a kept context saves is bringing it back (or computing it, if that is quicker) and standing in the
    queue for it; how likely the agent is back in time is learned per tenant and role. Without any gap
    seen the time to live is what would be saved.
    """

    def __init__(self, context: EvictionContext) -> None:
        super().__init__(context)
        self._gaps: dict[tuple[str, str], _Gaps] = {}
        self._rest_began_us: dict[AgentKey, int] = {}
        self._expires_us: dict[AgentKey, int] = {}
        self._expiring: list[tuple[int, AgentKey]] = []
        self._began_us: dict[AgentKey, int] = {}
        self._turn_us = 0

    def agent_active(self, holder: AgentRecord) -> None:
        now_us = self.now_us
        key = (holder.tenant, holder.agent)
        rested_since_us = self._rest_began_us.pop(key, None)
        if rested_since_us is not None:
            self._gaps.setdefault(self._class_of(holder), _Gaps()).add(now_us - rested_since_us)
        self._began_us[key] = now_us
        super().agent_active(holder)

    def agent_idle(self, holder: AgentRecord) -> None:
        key = (holder.tenant, holder.agent)
        self._saw_turn(key)
        since_us = self._rest_began_us.setdefault(key, self.now_us)
        self._expires_us[key] = since_us + self._ttl_us(holder)
        heapq.heappush(self._expiring, (self._expires_us[key], key))
        super().agent_idle(holder)

    def agent_forgotten(self, holder: AgentRecord) -> None:
        key = (holder.tenant, holder.agent)
        for known in (self._rest_began_us, self._expires_us, self._began_us):
            known.pop(key, None)
        super().agent_forgotten(holder)

    def warmth(self, holder: AgentHolder) -> tuple[int, ...]:
        if holder.active:
            return 2, holder.record.last_use_us
        expires_us = self._expires_us.get(holder.key, 0)
        if expires_us > self.now_us:
            return 1, expires_us
        return 0, holder.record.last_use_us

    def refresh(self) -> None:
        while self._expiring and self._expiring[0][0] <= self.now_us:
            _, key = heapq.heappop(self._expiring)
            if key in self.holders:
                self.rerank(self.holders[key])

    def _saw_turn(self, key: AgentKey) -> None:
        began_us = self._began_us.pop(key, None)
        if began_us is not None:
            spent_us = self.now_us - began_us
            self._turn_us = (7 * self._turn_us + spent_us) // 8 if self._turn_us else spent_us

    def _class_of(self, record: AgentRecord) -> tuple[str, str]:
        known = (record.tenant, record.role)
        return known if known in self._gaps or len(self._gaps) < _MOST_ROLES else _OTHERS

    def _ttl_us(self, record: AgentRecord) -> int:
        if record.hint.wait is Wait.DONE:
            return 0
        saved_us = self._bring_back_us(record) + self._queue_us()
        gaps = self._gaps.get(self._class_of(record))
        return saved_us if gaps is None else gaps.best_ttl_us(saved_us)

    def _queue_us(self) -> int:
        return self.context.waiting * self._turn_us // self.context.config.max_running

    def _bring_back_us(self, record: AgentRecord) -> int:
        config, costs = self.context.config, self.context.costs
        size_bytes = sum(block.meta.size_bytes for block in record.path)
        compute_us = costs.compute_us(0, sum(block.meta.n_tokens for block in record.path))
        if not config.host_bytes:
            return compute_us
        load_us = costs.move_us(KvTier.HOST, KvTier.DEVICE, size_bytes)
        if config.disk_bytes:
            load_us += costs.move_us(KvTier.DISK, KvTier.HOST, size_bytes)
        return min(load_us, compute_us)
