"""The contract of an eviction policy: which block leaves a KV tier when room is needed.

The block manager and the agent table tell the policy what happens to blocks and agents, and ask it for
victims. Three methods are required: ``block_used``, ``block_left`` and ``victims``. All others have a
default that suits a policy which looks at blocks alone, such as LRU. A policy never has to know which
blocks are pinned, claimed or in flight: the block manager passes over those.

docs/write-your-own-eviction-rule.md goes through it step by step.
"""

# ruff: noqa: B027 (an empty default is the point: a policy overrides what it needs)
from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice

from stepwell.policy.block_index import Block
from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import Costs
from stepwell.policy.eviction.value import EvictionTuning
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import BlockId, KvTier

Future = Callable[[Block, int], int | None]
"""``(block, now_us) -> when it will really be used next``; None: never again. Only a simulation has one."""


@dataclass(slots=True)
class EvictionContext:
    """What an eviction policy may read besides what it is told."""

    config: PolicyConfig
    costs: Costs
    now_us: int = 0
    """The time of the step, which the scheduler sets as the step begins. Nothing else tells the time here."""
    waiting: int = 0
    """Turns in the queue now."""
    future: Future | None = None
    _copies_pay: bool = False
    _as_of_prices: int = -1

    def copies_pay(self) -> bool:
        """Whether a first block is copied to the host and back in no more time than it is computed in. Asked
        for every candidate, so the answer is kept as long as prices stay."""
        if self._as_of_prices != self.costs.prices:
            config = self.config
            self._as_of_prices = self.costs.prices
            self._copies_pay = self.costs.copies_pay(config.block_bytes, 0, config.block_tokens)
        return self._copies_pay


class EvictionPolicy(ABC):
    """Ranks the blocks of each KV tier by how well they can be spared."""

    tuning = EvictionTuning()
    """Margins and bounds; a subclass or an instance may have others."""
    lossless = False
    """Whether the block manager keeps what an agent may want as long as it can (``descent.py``). What
    stands for other servers loses what those would."""

    def __init__(self, context: EvictionContext) -> None:
        self.context = context

    @property
    def now_us(self) -> int:
        """The time of the step."""
        return self.context.now_us

    # --- required -----------------------------------------------------------------------------

    @abstractmethod
    def block_used(self, block: Block, kv_tier: KvTier) -> None:
        """The block has come to ``kv_tier``, or was used while there (see ``path_used``)."""

    @abstractmethod
    def block_left(self, block: Block, kv_tier: KvTier) -> None:
        """The block is no longer in ``kv_tier``."""

    @abstractmethod
    def victims(self, kv_tier: KvTier, taker: str = "") -> Iterator[BlockId]:
        """Every block of ``kv_tier``, the one that can best be spared first. It is asked for often and
        rarely walked far: the first victim must not cost a walk over all blocks.

        ``taker`` is the service tier that needs the room; empty: none in particular.
        """

    def victim_blocks(
        self, kv_tier: KvTier, by_name: Mapping[BlockId, Block], taker: str = ""
    ) -> Iterator[Block]:
        """A shortcut: ``victims`` as the blocks themselves, which ``by_name`` has."""
        return map(by_name.__getitem__, self.victims(kv_tier, taker))

    # --- blocks: defaults ---------------------------------------------------------------------

    def came_up(self, blocks: Sequence[Block]) -> None:
        """The blocks have come to the device, in this order."""
        at = 0
        while at < len(blocks):
            together = self.came_together(blocks, at)
            if not together:
                self.block_used(blocks[at], KvTier.DEVICE)
            at += together or 1

    def came_together(self, blocks: Sequence[Block], start: int) -> int:
        """A shortcut: ``block_used`` for the first of ``blocks[start:]``, which have come to the device, as
        far as they go together. How many that are; 0: they are told one by one."""
        return 0

    def path_used(self, path: Sequence[Block]) -> None:
        """A turn has begun with this path (root first), or has left the device with it. By default
        ``block_used`` is called from the deepest block up, so that among equals leaves go before the root."""
        for block in reversed(path):
            for kv_tier in KvTier:
                if block.is_on(kv_tier):
                    self.block_used(block, kv_tier)

    def outranks(self, block: Block, other: Block, kv_tier: KvTier, margin: int = 1) -> bool:
        """Whether ``block`` is worth more than ``margin`` times what ``other`` is, on ``kv_tier``.

        By default host memory always takes a newcomer; elsewhere the later use is worth more, and of one
        path the root is worth more than its leaves."""
        if kv_tier is KvTier.HOST:
            return True
        return (block.last_use_us, -block.meta.depth) > (other.last_use_us, -other.meta.depth)

    def withheld(self, kv_tier: KvTier, taker: str) -> int:
        """Blocks of room that ``taker`` must not count on because they are guaranteed to others."""
        return 0

    def wants_disk(self, block: Block) -> bool:
        """Whether a block that leaves host memory is worth writing to disk."""
        return True

    def wants_host(self, block: Block) -> bool:
        """Whether a block that leaves the device is worth the copy to host memory."""
        return True

    def is_dead(self, block: Block) -> bool:
        """Whether no agent will want the block, as far as is known."""
        return False

    def is_spare(self, block: Block) -> bool:
        """Whether the host can drop the block for anything: its bytes are elsewhere too, or are not worth a
        write to disk."""
        if block.disk or (block.device and not block.bare):
            return True
        return bool(self.context.config.disk_bytes) and not self.wants_disk(block)

    def spare_on_host(self) -> Block | None:
        """A shortcut: the block that ``host_victim`` would name, where that is quickly said and the block is
        spare; None: search."""
        return None

    def only_copies(self, most: int, most_bytes: int) -> bool:
        """A shortcut: whether the first ``most`` blocks to leave the host, or the first ``most_bytes``, are
        all on the device as well, as far as that is quickly said."""
        return False

    def spare_for(self, leaving: Sequence[Block], start: int) -> list[Block | None]:
        """A shortcut: the spare blocks that ``host_victim`` would name one after the other while blocks of
        ``leaving[start:]`` go from the device to a full host, one for each as far as that is plain, and None
        for those that the host has already. Empty: ask one by one."""
        return []

    def went_down(self, leaving: Sequence[Block], spare: Sequence[Block | None]) -> None:
        """``leaving`` have gone down for ``spare`` (of ``spare_for``): this is told in place of
        ``block_used`` and ``block_left`` of each."""

    def host_victim(self, idle: Iterator[Block], clean: Iterable[Block]) -> Block | None:
        """The coldest of ``idle`` (coldest first) that is spare; failing that, of ``clean`` (blocks that have
        a copy elsewhere) the one that has had it for longest; and only then the coldest of all."""
        coldest: Block | None = None
        for looked_at, block in enumerate(idle):
            if (block.device and not block.bare) or self.is_spare(block):
                return block
            coldest = coldest or block
            if looked_at >= self.tuning.clean_search:
                break
        copies = islice(clean, self.tuning.clean_search)
        return next((copy for copy in copies if not copy.claims and copy.moving is None), coldest)

    def gives_way(self, victim: Block, newcomer: Block, kv_tier: KvTier) -> bool:
        """Whether ``victim`` leaves ``kv_tier`` for ``newcomer``. What would be lost goes only for what is
        worth more. On disk by a margin: else a disk smaller than the cold part of the host would be
        written over and over with blocks that the host still holds."""
        if kv_tier is KvTier.DISK:
            return self.outranks(newcomer, victim, kv_tier, self.tuning.disk_margin)
        return self.is_spare(victim) or self.outranks(newcomer, victim, kv_tier)

    def gives_way_to_promotion(self, victim: Block, newcomer: Block) -> bool:
        """Whether ``victim`` leaves the host for a block that comes up ahead of use, without a loss."""
        if not self.is_spare(victim):
            return False
        return self.outranks(newcomer, victim, KvTier.HOST, self.tuning.promote_margin)

    def promotable(self) -> Iterator[Block]:
        """Blocks on disk that are worth a place in host memory now, the most valuable first."""
        return iter(())

    def block_freed(self, block: Block) -> None:
        """The block was claimed or in flight, and may be so no more: it is to be looked at again."""

    # --- agents: defaults ---------------------------------------------------------------------

    def agent_continued(self, holder: AgentRecord, path: Sequence[Block]) -> None:
        """The agent's context is now ``path`` (root first); it may have left blocks of an earlier path."""

    def agent_active(self, holder: AgentRecord) -> None:
        """A turn of the agent has arrived: it is no longer idle."""

    def agent_idle(self, holder: AgentRecord) -> None:
        """The agent's last open turn has ended, or more is known about what it waits for."""

    def agent_forgotten(self, holder: AgentRecord) -> None:
        """The agent's record is dropped; nothing holds its blocks any more."""

    def expectation(self, holder: AgentRecord, now_us: int) -> tuple[int | None, str]:
        """For people: when the agent's next turn is expected (None: unknown), and why, in one sentence."""
        return None, ""

    # --- time: defaults -----------------------------------------------------------------------

    def tick(self) -> None:
        """Time has passed. Called once a step, before anything is decided."""

    def wake_at_us(self) -> int | None:
        """When the ranking next changes by itself, so that something may be promoted; None: never."""
        return None
