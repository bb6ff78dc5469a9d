"""Least recently used first, in every KV tier."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.base import EvictionContext, EvictionPolicy
from stepwell.policy.types import BlockId, KvTier


class Lru(EvictionPolicy):
    """What vLLM's device pool and llama.cpp's prompt cache do; everything is worth a disk write."""

    def __init__(self, context: EvictionContext) -> None:
        super().__init__(context)
        self._order: dict[KvTier, OrderedDict[BlockId, None]] = {t: OrderedDict() for t in KvTier}

    def block_used(self, block: Block, kv_tier: KvTier) -> None:
        order = self._order[kv_tier]
        order[block.id] = None
        order.move_to_end(block.id)

    def block_left(self, block: Block, kv_tier: KvTier) -> None:
        self._order[kv_tier].pop(block.id, None)

    def victims(self, kv_tier: KvTier, taker: str = "") -> Iterator[BlockId]:
        return iter(self._order[kv_tier])
