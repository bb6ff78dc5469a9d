"""Eviction by agent instead of by block: one agent's blocks leave together, leaves before the root.

A block of several agents is answered for by the one that is needed most; which one that is is looked up
only when a search for victims gets there, so that the root shared by thousands costs nothing else.
"""

from __future__ import annotations

from abc import abstractmethod
from bisect import bisect_left, bisect_right, insort
from collections import OrderedDict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.base import EvictionContext, EvictionPolicy
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import BlockId, KvTier

AgentKey = tuple[str, str]
"""Tenant and agent."""


@dataclass(slots=True, eq=False)
class AgentHolder:
    """An agent that still holds blocks, or may again."""

    record: AgentRecord
    serial: int
    rank: tuple[int, ...]
    """Larger is needed more. The last item is ``serial``, so that no two are equal."""
    active: bool = True
    path: list[Block] = field(default_factory=list)
    answers: dict[KvTier, int] = field(default_factory=lambda: dict.fromkeys(KvTier, 0))
    """How many blocks of each KV tier it answers for."""

    @property
    def key(self) -> AgentKey:
        return self.record.tenant, self.record.agent


def _rank(holder: AgentHolder) -> tuple[int, ...]:
    return holder.rank


class ByAgent(EvictionPolicy):
    """Yields blocks of no agent, then those of agents by ``warmth``, then those being computed now."""

    def __init__(self, context: EvictionContext) -> None:
        super().__init__(context)
        self.holders: dict[AgentKey, AgentHolder] = {}
        self._serial = 0
        self._answering: dict[BlockId, AgentHolder] = {}
        self._shared: dict[BlockId, dict[AgentKey, AgentHolder]] = {}
        """All holders of the blocks that have more than one."""
        self._here: dict[KvTier, set[BlockId]] = {t: set() for t in KvTier}
        self._orphans: dict[KvTier, OrderedDict[BlockId, None]] = {t: OrderedDict() for t in KvTier}
        self._fresh: OrderedDict[BlockId, None] = OrderedDict()
        """On the device and no agent's: a running turn computes it or has brought it up."""
        self._order: dict[KvTier, list[AgentHolder]] = {t: [] for t in KvTier}
        """The agents that answer for blocks of a KV tier, in order of rank."""

    @abstractmethod
    def warmth(self, holder: AgentHolder) -> tuple[int, ...]:
        """How much the agent's blocks are needed: larger is more."""

    def refresh(self) -> None:
        """Rank anew the agents whose rank has changed by the passing of time alone."""

    # --- what is told -------------------------------------------------------------------------

    def block_used(self, block: Block, kv_tier: KvTier) -> None:
        name, here = block.id, self._here[kv_tier]
        answering = self._answering.get(name)
        if answering is None:
            self._use_nobodys(name, kv_tier)
        elif name not in here:
            self._count(answering, kv_tier, 1)
        here.add(name)

    def _use_nobodys(self, name: BlockId, kv_tier: KvTier) -> None:
        order = self._orphans[kv_tier]
        if kv_tier is KvTier.DEVICE:
            order.pop(name, None)
            order = self._fresh
        order[name] = None
        order.move_to_end(name)

    def block_left(self, block: Block, kv_tier: KvTier) -> None:
        name = block.id
        if name not in self._here[kv_tier]:
            return
        self._here[kv_tier].remove(name)
        answering = self._answering.get(name)
        if answering is None:
            self._forget_nobodys(name, kv_tier)
        else:
            self._count(answering, kv_tier, -1)

    def _forget_nobodys(self, name: BlockId, kv_tier: KvTier) -> None:
        self._orphans[kv_tier].pop(name, None)
        if kv_tier is KvTier.DEVICE:
            self._fresh.pop(name, None)

    def agent_continued(self, holder: AgentRecord, path: Sequence[Block]) -> None:
        known = self._known(holder)
        kept = _in_common(known.path, path)
        for block in reversed(known.path[kept:]):
            self._release(block.id, known)
        known.path = list(path)
        for block in path[kept:]:
            self._take(block.id, known)

    def agent_active(self, holder: AgentRecord) -> None:
        known = self._known(holder)
        known.active = True
        self.rerank(known)

    def agent_idle(self, holder: AgentRecord) -> None:
        known = self._known(holder)
        known.active = False
        self.rerank(known)

    def agent_forgotten(self, holder: AgentRecord) -> None:
        known = self.holders.pop((holder.tenant, holder.agent), None)
        if known is not None:
            for block in reversed(known.path):
                self._release(block.id, known)

    def path_used(self, path: Sequence[Block]) -> None:
        """When an agent was last active says more than when its block was: only blocks without an agent are
        noted."""
        for block in reversed(path):
            if block.id not in self._answering:
                for kv_tier in KvTier:
                    if block.is_on(kv_tier):
                        self._use_nobodys(block.id, kv_tier)

    # --- victims ------------------------------------------------------------------------------

    def outranks(self, block: Block, other: Block, kv_tier: KvTier, margin: int = 1) -> bool:
        """Whether its agent is needed more; of one agent's blocks the one nearer to the root."""
        return self._worth(block) > self._worth(other)

    def _worth(self, block: Block) -> tuple[tuple[int, ...], int, int]:
        answering = self._answering.get(block.id)
        if answering is None:
            return (), block.last_use_us, -block.meta.depth
        return self._warmest(block.id, answering).rank, 0, -block.meta.depth

    def victims(self, kv_tier: KvTier, taker: str = "") -> Iterator[BlockId]:
        self.refresh()
        yield from self._orphans[kv_tier]
        order, at = self._order[kv_tier], 0
        while at < len(order):
            holder = order[at]
            yield from self._blocks_of(holder, kv_tier)
            at = bisect_right(order, holder.rank, key=_rank)  # handing over may have changed the order
        if kv_tier is KvTier.DEVICE:
            yield from self._fresh

    def _blocks_of(self, holder: AgentHolder, kv_tier: KvTier) -> Iterator[BlockId]:
        here, left = self._here[kv_tier], holder.answers[kv_tier]
        for block in reversed(holder.path):
            if not left:
                return
            name = block.id
            if name in here and self._answering[name] is holder:
                left -= 1
                warmest = self._warmest(name, holder)
                if warmest is holder:
                    yield name
                else:
                    self._hand_over(name, warmest)

    def _warmest(self, name: BlockId, holder: AgentHolder) -> AgentHolder:
        sharers = self._shared.get(name)
        return holder if sharers is None else max(sharers.values(), key=_rank)

    # --- which agent holds what ---------------------------------------------------------------

    def _known(self, record: AgentRecord) -> AgentHolder:
        holder = self.holders.get((record.tenant, record.agent))
        if holder is None:
            self._serial += 1
            holder = AgentHolder(record, self._serial, ())
            holder.rank = (*self.warmth(holder), self._serial)
            self.holders[holder.key] = holder
        holder.record = record
        return holder

    def _take(self, name: BlockId, holder: AgentHolder) -> None:
        answering = self._answering.get(name)
        if answering is not None:
            self._shared.setdefault(name, {answering.key: answering})[holder.key] = holder
            return
        self._answering[name] = holder
        for kv_tier in KvTier:
            if name in self._here[kv_tier]:
                self._forget_nobodys(name, kv_tier)
                self._count(holder, kv_tier, 1)

    def _release(self, name: BlockId, holder: AgentHolder) -> None:
        sharers = self._shared.get(name)
        if sharers is None:
            del self._answering[name]
            for kv_tier in KvTier:
                if name in self._here[kv_tier]:
                    self._count(holder, kv_tier, -1)
                    self._orphans[kv_tier][name] = None
            return
        del sharers[holder.key]
        if self._answering[name] is holder:
            self._hand_over(name, next(iter(sharers.values())))
        if len(sharers) == 1:
            del self._shared[name]

    def _hand_over(self, name: BlockId, holder: AgentHolder) -> None:
        before = self._answering[name]
        self._answering[name] = holder
        for kv_tier in KvTier:
            if name in self._here[kv_tier]:
                self._count(before, kv_tier, -1)
                self._count(holder, kv_tier, 1)

    # --- ranks --------------------------------------------------------------------------------

    def rerank(self, holder: AgentHolder) -> None:
        """Put an agent where its warmth now belongs."""
        rank = (*self.warmth(holder), holder.serial)
        if rank == holder.rank:
            return
        places = [kv_tier for kv_tier, count in holder.answers.items() if count]
        for kv_tier in places:
            self._take_out(holder, kv_tier)
        holder.rank = rank
        for kv_tier in places:
            insort(self._order[kv_tier], holder, key=_rank)

    def rerank_all(self) -> None:
        for holder in self.holders.values():
            holder.rank = (*self.warmth(holder), holder.serial)
        for order in self._order.values():
            order.sort(key=_rank)

    def _count(self, holder: AgentHolder, kv_tier: KvTier, step: int) -> None:
        before = holder.answers[kv_tier]
        holder.answers[kv_tier] = before + step
        if not before:
            insort(self._order[kv_tier], holder, key=_rank)
        elif before + step == 0:
            self._take_out(holder, kv_tier)

    def _take_out(self, holder: AgentHolder, kv_tier: KvTier) -> None:
        order = self._order[kv_tier]
        del order[bisect_left(order, holder.rank, key=_rank)]


def _in_common(old: Sequence[Block], new: Sequence[Block]) -> int:
    """How many leading blocks are the same. Names are chained: equal at one depth, equal above it."""
    count = min(len(old), len(new))
    while count and old[count - 1].id != new[count - 1].id:
        count -= 1
    return count
