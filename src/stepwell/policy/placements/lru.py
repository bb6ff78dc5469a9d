"""Least recently used first, in every KV tier."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from stepwell.policy.index import Block
from stepwell.policy.placements.base import Outlook, PlainPlacement
from stepwell.policy.types import BlockId, KvTier


class Lru(PlainPlacement):
    """What vLLM's device pool and llama.cpp's prompt cache do; everything is worth a disk write."""

    def __init__(self, outlook: Outlook) -> None:
        super().__init__(outlook)
        self._order: dict[KvTier, OrderedDict[BlockId, None]] = {t: OrderedDict() for t in KvTier}

    def used(self, block: Block, kv_tier: KvTier, now_us: int) -> None:
        order = self._order[kv_tier]
        order[block.id] = None
        order.move_to_end(block.id)

    def left(self, block: Block, kv_tier: KvTier) -> None:
        self._order[kv_tier].pop(block.id, None)

    def victims(self, kv_tier: KvTier, now_us: int, taker: str = "") -> Iterator[BlockId]:
        return iter(self._order[kv_tier])
