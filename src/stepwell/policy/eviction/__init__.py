"""Eviction: which block leaves a KV tier when room is needed. One file per rule, chosen by name.

    base.py       the contract: three methods to write, the rest has defaults
    value.py      the formula of the shipped rule, ``stepwell``, and its margins
    next_use.py   that rule's books; then quotas.py, forecast.py, agent_groups.py, orphans.py,
                  promotion.py, kin.py, gaps.py, copies.py
    baselines/    what other servers do (lru, arc, ttl, ...) and an oracle, to measure against;
                  by_agent.py is the base of those that rank agents

To add a rule: docs/write-your-own-eviction-rule.md.
"""

from __future__ import annotations

from collections.abc import Callable

from stepwell.policy.eviction.base import EvictionContext, EvictionPolicy
from stepwell.policy.eviction.baselines.arc import Arc
from stepwell.policy.eviction.baselines.idleness import Idleness
from stepwell.policy.eviction.baselines.lru import Lru
from stepwell.policy.eviction.baselines.oracle import Oracle
from stepwell.policy.eviction.baselines.priority_lru import PriorityLru
from stepwell.policy.eviction.baselines.steps import Steps
from stepwell.policy.eviction.baselines.ttl import Ttl
from stepwell.policy.eviction.next_use import NextUse

EVICTION_POLICIES: dict[str, Callable[[EvictionContext], EvictionPolicy]] = {
    "arc": Arc,
    "idleness": Idleness,
    "lru": Lru,
    "oracle": Oracle,
    "priority-lru": PriorityLru,
    "steps": Steps,
    "stepwell": NextUse,
    "ttl": Ttl,
}


def make_eviction(name: str, context: EvictionContext) -> EvictionPolicy:
    """The eviction policy called ``name``; ``ValueError`` names those that exist."""
    try:
        factory = EVICTION_POLICIES[name]
    except KeyError:
        there = ", ".join(sorted(EVICTION_POLICIES))
        raise ValueError(f"unknown policy {name!r}; there is: {there}") from None
    return factory(context)


__all__ = ["EVICTION_POLICIES", "EvictionContext", "EvictionPolicy", "make_eviction"]
