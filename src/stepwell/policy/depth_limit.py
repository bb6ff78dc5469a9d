"""Frames of one depth are a resource of their own: the engine has names for so many and no more.

llama.cpp keeps a cell while a sequence id holds it, and an id can hold one frame per depth. Turns that
run take at most one frame each at any depth, and those opened in the same step one more each. So idle
blocks leave the device, coldest first, before a depth holds more than what these leave over: then a
shortage is pressure like any other, and the engine is never asked for what it cannot do.
"""

from __future__ import annotations

from stepwell.policy.block_index import Block, BlockIndex
from stepwell.policy.config import PolicyConfig
from stepwell.policy.types import BlockId


class DepthLimit:
    """Counts blocks on the device by depth."""

    def __init__(self, config: PolicyConfig) -> None:
        self.most = max(1, config.depth_frames - 2 * config.max_running) if config.depth_frames else 0
        self._blocks: dict[int, int] = {}

    def count(self, depth: int, step: int) -> None:
        """A block of this depth has come (1) or gone (-1)."""
        self._blocks[depth] = self._blocks.get(depth, 0) + step

    def over(self) -> list[int]:
        """Depths that hold too many blocks, the lowest first: what hangs below one goes with it."""
        if not self.most:
            return []
        return sorted(depth for depth, blocks in self._blocks.items() if blocks > self.most)

    def leaving(self, depth: int, index: BlockIndex, coldest_first: list[Block]) -> list[Block]:
        """Idle blocks that leave together with the coldest one of ``depth``, children before parents.

        Empty when running turns use all there are. ``coldest_first``: the device, as the eviction
        policy would empty it.
        """
        families: dict[BlockId, list[Block]] = {}
        for block in coldest_first:
            if block.meta.depth >= depth:
                top = _ancestor(block, depth, index)
                families.setdefault(top.id, []).append(block)
        for name, family in families.items():
            if not index.blocks[name].pins:  # then nothing below it is pinned either
                return sorted(family, key=lambda block: -block.meta.depth)
        return []


def _ancestor(block: Block, depth: int, index: BlockIndex) -> Block:
    while block.meta.depth > depth:
        assert block.meta.parent is not None
        block = index.blocks[block.meta.parent]
    return block
