"""Adaptive replacement cache: recency and frequency, balanced by what was missed."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterator, Sequence

from stepwell.policy.block_index import Block
from stepwell.policy.config import PolicyConfig
from stepwell.policy.eviction.base import EvictionContext, EvictionPolicy
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import BlockId, KvTier

_Order = OrderedDict[BlockId, None]


class Arc(EvictionPolicy):
    """ARC (Megiddo and Modha, FAST 2003) in every KV tier by itself; what vLLM's host policy does.

    A use is one turn: what a turn computes and touches again when it ends counts once.
    """

    def __init__(self, context: EvictionContext) -> None:
        super().__init__(context)
        self._caches = {t: _Cache(_capacity_blocks(context.config, t)) for t in KvTier}
        self._ending_us = -1
        self._ending: frozenset[BlockId] = frozenset()

    def block_used(self, block: Block, kv_tier: KvTier) -> None:
        now_us = self.now_us
        again = now_us != self._ending_us or block.id not in self._ending
        self._caches[kv_tier].block_used(block.id, now_us, counts=again)

    def block_left(self, block: Block, kv_tier: KvTier) -> None:
        self._caches[kv_tier].block_left(block.id)

    def victims(self, kv_tier: KvTier, taker: str = "") -> Iterator[BlockId]:
        return self._caches[kv_tier].victims()

    def agent_continued(self, holder: AgentRecord, path: Sequence[Block]) -> None:
        """A turn leaves the device: the touches that follow at once belong to that same turn."""
        self._ending_us = self.now_us
        self._ending = frozenset(block.id for block in path)


class _Cache:
    """One KV tier. ``once`` and ``often`` are T1 and T2 of the paper, ``lost_*`` their ghosts B1 and B2."""

    def __init__(self, capacity_blocks: int) -> None:
        self.capacity_blocks = capacity_blocks
        self.once_target = 0
        """The paper's p: how many blocks that were used once should be here."""
        self.once: OrderedDict[BlockId, int] = OrderedDict()
        """Value: when it came, in microseconds."""
        self.often: _Order = OrderedDict()
        self.lost_once: _Order = OrderedDict()
        self.lost_often: _Order = OrderedDict()
        self._offered: dict[BlockId, None] = {}
        """Victims named since the last search began: one of these that leaves was evicted."""

    def block_used(self, block: BlockId, now_us: int, *, counts: bool) -> None:
        self._offered.pop(block, None)
        if block in self.often:
            self.often.move_to_end(block)
        elif block not in self.once:
            self._came(block, now_us)
        elif counts and self.once[block] != now_us:
            del self.once[block]
            self.often[block] = None
        else:
            self.once.move_to_end(block)

    def _came(self, block: BlockId, now_us: int) -> None:
        once, often = len(self.lost_once), len(self.lost_often)
        if block in self.lost_once:
            self.once_target = min(self.capacity_blocks, self.once_target + max(1, often // once))
            del self.lost_once[block]
            self.often[block] = None
        elif block in self.lost_often:
            self.once_target = max(0, self.once_target - max(1, once // often))
            del self.lost_often[block]
            self.often[block] = None
        else:
            self.once[block] = now_us
        self._trim()

    def block_left(self, block: BlockId) -> None:
        evicted = block in self._offered
        if block in self.once:
            del self.once[block]
            ghosts = self.lost_once
        elif block in self.often:
            del self.often[block]
            ghosts = self.lost_often
        else:
            return
        if evicted:
            del self._offered[block]
            ghosts[block] = None
            self._trim()

    def _trim(self) -> None:
        """The directory of the paper: c entries for what was used once, 2c for everything."""
        while self.lost_once and len(self.once) + len(self.lost_once) > self.capacity_blocks:
            self.lost_once.popitem(last=False)
        while self.lost_often and self._directory() > 2 * self.capacity_blocks:
            self.lost_often.popitem(last=False)

    def _directory(self) -> int:
        return len(self.once) + len(self.often) + len(self.lost_once) + len(self.lost_often)

    def victims(self) -> Iterator[BlockId]:
        """REPLACE of the paper, again and again."""
        self._offered = {}
        once, often = iter(self.once), iter(self.often)
        once_left, often_left = len(self.once), len(self.often)
        while once_left or often_left:
            if once_left and (once_left > self.once_target or not often_left):
                victim = next(once)
                once_left -= 1
            else:
                victim = next(often)
                often_left -= 1
            self._offered[victim] = None
            yield victim


def _capacity_blocks(config: PolicyConfig, kv_tier: KvTier) -> int:
    if kv_tier is KvTier.DEVICE:
        return config.device_blocks
    if kv_tier is KvTier.HOST:
        return config.host_bytes // config.block_bytes
    return config.disk_bytes // config.disk_size_of(config.block_bytes)
