"""The seam at which placement is decided: which block leaves a KV tier when room is needed.

The machine tells a placement when blocks are used and asks it for victims; it never asks about a
block that must stay (pinned, claimed, moving). LRU is the first implementation; policies that know
about service tiers and next use replace it here, by name, and nothing else changes.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Protocol

from stepwell.policy.index import Block
from stepwell.policy.types import BlockId, KvTier


class Placement(Protocol):
    """Ranks the blocks of each KV tier by how well they can be spared."""

    def used(self, block: Block, tier: KvTier, now_us: int) -> None:
        """The block has come to ``tier``, or has been used while there.

        A path is reported deepest block first, so that among equals the leaves go before the root.
        """

    def left(self, block: Block, tier: KvTier) -> None:
        """The block is no longer in ``tier``."""

    def victims(self, tier: KvTier, now_us: int) -> Iterator[BlockId]:
        """Blocks of ``tier``, the one that can best be spared first."""

    def wants_disk(self, block: Block) -> bool:
        """Whether a block that leaves host memory is worth writing to disk."""


class Lru:
    """Least recently used first, in every KV tier; everything is worth a disk write.

    What vLLM's device pool and llama.cpp's prompt cache do.
    """

    def __init__(self) -> None:
        self._order: dict[KvTier, OrderedDict[BlockId, None]] = {t: OrderedDict() for t in KvTier}

    def used(self, block: Block, tier: KvTier, now_us: int) -> None:
        order = self._order[tier]
        order[block.id] = None
        order.move_to_end(block.id)

    def left(self, block: Block, tier: KvTier) -> None:
        self._order[tier].pop(block.id, None)

    def victims(self, tier: KvTier, now_us: int) -> Iterator[BlockId]:
        return iter(self._order[tier])

    def wants_disk(self, block: Block) -> bool:
        return True


PLACEMENTS: dict[str, Callable[[], Placement]] = {"lru": Lru}


def make_placement(name: str) -> Placement:
    """The placement called ``name``; ``ValueError`` names those that exist."""
    try:
        return PLACEMENTS[name]()
    except KeyError:
        raise ValueError(f"unknown policy {name!r}; there is: {', '.join(sorted(PLACEMENTS))}") from None
