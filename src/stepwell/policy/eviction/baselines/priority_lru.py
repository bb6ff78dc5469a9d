"""Lowest service tier first, least recently used within it."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Final

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.base import EvictionContext, EvictionPolicy
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import BlockId, KvTier

_NO_TIER: Final = 0


class PriorityLru(EvictionPolicy):
    """What SGLang's ``--radix-eviction-policy priority`` and TensorRT-LLM's retention do.

    A block belongs to the highest service tier whose turns used it. On the device a block that belongs
    to none yet is being computed and goes last; below it was recovered or its users are unknown.
    """

    def __init__(self, context: EvictionContext) -> None:
        super().__init__(context)
        self._weights = {contract.name: contract.weight for contract in context.config.contracts}
        making = max(self._weights.values(), default=_NO_TIER) + 1
        self._ranks = sorted({_NO_TIER, 1, making, *self._weights.values()})
        self._unknown = {KvTier.DEVICE: making, KvTier.HOST: _NO_TIER, KvTier.DISK: _NO_TIER}
        self._weight: dict[BlockId, int] = {}
        self._orders: dict[KvTier, dict[int, OrderedDict[BlockId, None]]] = {
            kv_tier: {rank: OrderedDict() for rank in self._ranks} for kv_tier in KvTier
        }

    def block_used(self, block: Block, kv_tier: KvTier) -> None:
        order = self._order_of(block.id, kv_tier)
        order[block.id] = None
        order.move_to_end(block.id)

    def block_left(self, block: Block, kv_tier: KvTier) -> None:
        self._order_of(block.id, kv_tier).pop(block.id, None)
        if not any(block.id in self._order_of(block.id, other) for other in KvTier):
            self._weight.pop(block.id, None)

    def victims(self, kv_tier: KvTier, taker: str = "") -> Iterator[BlockId]:
        return chain.from_iterable(self._orders[kv_tier][rank] for rank in self._ranks)

    def outranks(self, block: Block, other: Block, kv_tier: KvTier, margin: int = 1) -> bool:
        return self._worth(block) > self._worth(other)

    def _worth(self, block: Block) -> tuple[int, int, int]:
        return self._weight.get(block.id, _NO_TIER), block.last_use_us, -block.meta.depth

    def agent_continued(self, holder: AgentRecord, path: Sequence[Block]) -> None:
        weight = self._weights.get(holder.service_tier, 1)
        for block in reversed(path):
            if self._weight.get(block.id, _NO_TIER) < weight:
                self._raise(block.id, weight)

    def _raise(self, block: BlockId, weight: int) -> None:
        before = {kv_tier: self._order_of(block, kv_tier) for kv_tier in KvTier}
        here = [kv_tier for kv_tier, order in before.items() if block in order]
        for kv_tier in here:
            del before[kv_tier][block]
            self._orders[kv_tier][weight][block] = None
        if here:
            self._weight[block] = weight

    def _order_of(self, block: BlockId, kv_tier: KvTier) -> OrderedDict[BlockId, None]:
        return self._orders[kv_tier][self._weight.get(block, self._unknown[kv_tier])]
