"""Placements by name: the rules by which blocks leave a KV tier, and what they stand for."""

from __future__ import annotations

from collections.abc import Callable

from stepwell.policy.placements.arc import Arc
from stepwell.policy.placements.base import Outlook, Placement
from stepwell.policy.placements.idleness import Idleness
from stepwell.policy.placements.lru import Lru
from stepwell.policy.placements.nextuse import NextUse
from stepwell.policy.placements.oracle import Oracle
from stepwell.policy.placements.priority_lru import PriorityLru
from stepwell.policy.placements.steps import Steps
from stepwell.policy.placements.ttl import Ttl

PLACEMENTS: dict[str, Callable[[Outlook], Placement]] = {
    "arc": Arc,
    "idleness": Idleness,
    "lru": Lru,
    "oracle": Oracle,
    "priority-lru": PriorityLru,
    "steps": Steps,
    "stepwell": NextUse,
    "ttl": Ttl,
}


def make_placement(name: str, outlook: Outlook) -> Placement:
    """The placement called ``name``; ``ValueError`` names those that exist."""
    try:
        factory = PLACEMENTS[name]
    except KeyError:
        raise ValueError(f"unknown policy {name!r}; there is: {', '.join(sorted(PLACEMENTS))}") from None
    return factory(outlook)


__all__ = ["PLACEMENTS", "Outlook", "Placement", "make_placement"]
