"""Whose blocks come up from disk ahead of use."""

from __future__ import annotations

from stepwell.policy.eviction.agent_groups import AT, Group
from stepwell.policy.eviction.quotas import Quotas
from stepwell.policy.eviction.value import EvictionTuning
from stepwell.policy.types import KvTier


def is_promotable(group: Group, tuning: EvictionTuning) -> bool:
    """Whether its agent may come back and some of its blocks lie on disk alone."""
    device, host, disk = group.listed
    return host < disk and device < disk and group.chance >= tuning.promote_chance and group.idle is not None


def most_valuable_on_disk(quotas: Quotas, tuning: EvictionTuning) -> list[Group]:
    """Groups to promote, the most valuable first; at most a few, from the top of each ranking."""
    tops: list[Group] = []
    for ranking in quotas.all_rankings(AT[KvTier.DISK]):
        found = 0
        entries = ranking.entries
        for place in range(len(entries) - 1, max(-1, len(entries) - 1 - tuning.promote_search), -1):
            group = entries[place][2]
            if group.idle is not None and is_promotable(group, tuning):
                tops.append(group)
                found += 1
                if found == tuning.promote_agents:
                    break
    return sorted(tops, key=lambda group: (-group.value, group.seq))[: tuning.promote_agents]
