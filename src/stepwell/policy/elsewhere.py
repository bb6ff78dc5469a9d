"""Blocks that a store of several nodes has and this node's disk has not.

To a turn they are as good as on disk: they are read, or computed again, by the same rules. They take no room
there, are no record that could leave for another, and only so many are remembered: what is forgotten is
offered again with the next turn that begins with it.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final

from stepwell.policy.block_index import Block
from stepwell.policy.config import PolicyConfig
from stepwell.policy.types import BlockId, BlockMeta, KvTier, RequestArrived

if TYPE_CHECKING:
    from stepwell.policy.block_manager import BlockManager

MOST_BLOCKS: Final = 8_192


def blocks_of_prompt(arrival: RequestArrived, config: PolicyConfig) -> tuple[BlockMeta, ...]:
    """The full blocks that a prompt consists of, as a turn would seal them, root first."""
    per, units = config.units_per_block, arrival.units
    names = [None, *units[per - 1 :: per]]
    size_bytes = config.size_of(config.block_tokens)
    return tuple(
        BlockMeta(
            units[(depth + 1) * per - 1],
            names[depth],
            depth,
            config.block_tokens,
            tuple(units[depth * per : (depth + 1) * per]),
            arrival.tenant,
            size_bytes,
        )
        for depth in range(len(units) // per)
    )


class HeldElsewhere:
    """Which blocks count as on disk and lie elsewhere, the one that was offered first in front."""

    def __init__(self, memory: BlockManager) -> None:
        self._memory = memory
        self._blocks: OrderedDict[BlockId, Block] = OrderedDict()

    def offered(self, metas: Iterable[BlockMeta]) -> None:
        """The shared store has these blocks. Of what any KV tier here has, nothing changes."""
        index = self._memory.index
        for meta in metas:
            if index.get(meta.id) is None:
                block = index.add(meta)
                block.elsewhere = True
                self._blocks[block.id] = block
                self._memory.arrive(block, KvTier.DISK)
        for block in tuple(islice(self._blocks.values(), max(0, len(self._blocks) - MOST_BLOCKS))):
            if not (block.claims or block.moving):
                self._memory.drop(block, KvTier.DISK)

    def room_of(self, block: Block) -> int:
        """Bytes of this node's disk that the block's copy takes."""
        return 0 if block.elsewhere else self._memory.config.disk_size_of(block.meta.size_bytes)

    def left(self, block: Block) -> None:
        """The block does not count as on disk any more."""
        block.elsewhere = False
        self._blocks.pop(block.id, None)
