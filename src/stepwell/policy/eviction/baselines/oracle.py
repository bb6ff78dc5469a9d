"""The bound: an eviction that knows when every block is used next. Only a simulation can have it."""

from __future__ import annotations

import heapq
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.base import EvictionContext, EvictionPolicy, Future
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import BlockId, KvTier

NEVER_US: Final = 1 << 62
_OVERDUE_US: Final = 1_000_000
"""How soon it asks again about what should have been used by now: its turn stands in the queue."""
_SLACK: Final = 64

_Entry = tuple[int, int, int, Block]


@dataclass(slots=True)
class _Ranked:
    """Blocks by a key, smallest first, walked without taking anything out.

    A heap whose outdated entries are passed over, and swept when they are the greater part.
    """

    entries: dict[BlockId, _Entry] = field(default_factory=dict)
    heap: list[_Entry] = field(default_factory=list)
    serial: int = 0

    def put(self, block: Block, key_us: int, depth: int) -> None:
        self.serial += 1
        entry = (key_us, depth, self.serial, block)
        self.entries[block.id] = entry
        heapq.heappush(self.heap, entry)
        if len(self.heap) > 2 * len(self.entries) + _SLACK:
            self.heap = list(self.entries.values())
            heapq.heapify(self.heap)

    def discard(self, name: BlockId) -> None:
        self.entries.pop(name, None)

    def first(self) -> _Entry | None:
        while self.heap and not self._valid(self.heap[0]):
            heapq.heappop(self.heap)
        return self.heap[0] if self.heap else None

    def __iter__(self) -> Iterator[_Entry]:
        """In order, one step down the heap at a time: k entries cost k log k."""
        self.first()
        heap = self.heap
        frontier = [(heap[0], 0)] if heap else []
        while frontier:
            entry, at = heapq.heappop(frontier)
            for child in (2 * at + 1, 2 * at + 2):
                if child < len(heap):
                    heapq.heappush(frontier, (heap[child], child))
            if self._valid(entry):
                yield entry

    def _valid(self, entry: _Entry) -> bool:
        known = self.entries.get(entry[3].id)
        return known is not None and known[2] == entry[2]


class Oracle(EvictionPolicy):
    """Belady over three KV tiers: the farthest next use leaves first, among equals the deeper block, whose
    loss costs its own tokens and not those of others. Disk is written only for what is used again."""

    def __init__(self, context: EvictionContext) -> None:
        super().__init__(context)
        self._farthest = {kv_tier: _Ranked() for kv_tier in KvTier}
        self._soonest = _Ranked()
        """Everything that has a next use, to be asked about again once that has passed."""
        self._promotable = _Ranked()
        """What lies on disk alone and has a next use."""
        self._next_us: dict[BlockId, tuple[int, int]] = {}
        """When it was asked about, and the answer."""

    def block_used(self, block: Block, kv_tier: KvTier) -> None:
        asked_us, next_us = self._next_us.get(block.id, (-1, 0))
        if asked_us != self.now_us:
            next_us = self._ask(block)
        self._put(block, kv_tier, next_us)

    def path_used(self, path: Sequence[Block]) -> None:
        for block in path:
            self._renew(block)

    def block_left(self, block: Block, kv_tier: KvTier) -> None:
        self._farthest[kv_tier].discard(block.id)
        self._see_to_promotion(block)
        if not self._kv_tiers_of(block):
            self._soonest.discard(block.id)
            self._next_us.pop(block.id, None)

    def victims(self, kv_tier: KvTier, taker: str = "") -> Iterator[BlockId]:
        self._ask_again()
        for *_, block in self._farthest[kv_tier]:
            yield block.id

    def wants_disk(self, block: Block) -> bool:
        return self._future()(block, self.now_us) is not None

    def agent_idle(self, holder: AgentRecord) -> None:
        for block in holder.path:
            self._renew(block)

    def outranks(self, block: Block, other: Block, kv_tier: KvTier, margin: int = 1) -> bool:
        """Used sooner, by that margin; of what is used at the same time the block nearer to the root."""
        now_us = self.now_us
        mine_us, others_us = self._next_use_us(block), self._next_use_us(other)
        if mine_us == others_us:
            return block.meta.depth < other.meta.depth
        if others_us <= now_us:  # overdue: expected at once, and among those in the order of their times
            return mine_us < others_us
        return max(0, mine_us - now_us) * margin < others_us - now_us

    def promotable(self) -> Iterator[Block]:
        """What is on disk alone and used again, the soonest first and of one agent the root first."""
        self._ask_again()
        for *_, block in self._promotable:
            yield block

    # --- asking -------------------------------------------------------------------------------

    def _future(self) -> Future:
        if self.context.future is None:
            raise ValueError("the policy 'oracle' knows the future: only in a simulation")
        return self.context.future

    def _ask(self, block: Block) -> int:
        now_us = self.now_us
        answer = self._future()(block, now_us)
        next_us = NEVER_US if answer is None else answer
        self._next_us[block.id] = now_us, next_us
        if answer is None:
            self._soonest.discard(block.id)
        else:
            self._soonest.put(block, next_us if next_us > now_us else now_us + _OVERDUE_US, 0)
        return next_us

    def _next_use_us(self, block: Block) -> int:
        known = self._next_us.get(block.id)
        return self._ask(block) if known is None else known[1]

    def _put(self, block: Block, kv_tier: KvTier, next_us: int) -> None:
        self._farthest[kv_tier].put(block, -next_us, -block.meta.depth)
        self._see_to_promotion(block)

    def _see_to_promotion(self, block: Block) -> None:
        next_us = self._next_us[block.id][1] if block.id in self._next_us else NEVER_US
        if next_us < NEVER_US and self._kv_tiers_of(block) == [KvTier.DISK]:
            self._promotable.put(block, next_us, block.meta.depth)
        else:
            self._promotable.discard(block.id)

    def _kv_tiers_of(self, block: Block) -> list[KvTier]:
        return [kv_tier for kv_tier, ranked in self._farthest.items() if block.id in ranked.entries]

    def _renew(self, block: Block) -> None:
        here = self._kv_tiers_of(block)
        if here:
            next_us = self._ask(block)
            for kv_tier in here:
                self._put(block, kv_tier, next_us)

    def _ask_again(self) -> None:
        """What should have been used by now: the future has moved."""
        while (entry := self._soonest.first()) is not None and entry[0] <= self.now_us:
            self._renew(entry[3])
