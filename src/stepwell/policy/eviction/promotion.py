"""Whose blocks come up from disk ahead of use."""

from __future__ import annotations

from bisect import bisect_left
from operator import itemgetter

from stepwell.policy.eviction.agent_groups import AT, Group
from stepwell.policy.eviction.quotas import Quotas
from stepwell.policy.eviction.value import ACTIVE, EvictionTuning
from stepwell.policy.types import KvTier

_key_of = itemgetter(0)


def is_promotable(group: Group, tuning: EvictionTuning) -> bool:
    """Whether its agent may come back and some of its blocks lie on disk alone."""
    if group.idle is None or group.chance < tuning.promote_chance:
        return False
    device, host, disk = group.listed
    return host < disk and device < disk


def most_valuable_on_disk(quotas: Quotas, tuning: EvictionTuning) -> list[Group]:
    """Groups to promote, the most valuable first; at most a few, from the top of each ranking."""
    tops: list[Group] = []
    for ranking in quotas.all_rankings(AT[KvTier.DISK]):
        found = 0
        entries = ranking.entries
        at_rest = bisect_left(entries, ACTIVE, key=_key_of)  # behind it stand agents at work
        for place in range(at_rest - 1, max(-1, len(entries) - 1 - tuning.promote_search), -1):
            group = entries[place][2]
            if is_promotable(group, tuning):
                tops.append(group)
                found += 1
                if found == tuning.promote_agents:
                    break
    return sorted(tops, key=lambda group: (-group.value, group.seq))[: tuning.promote_agents]
