"""Agents, blocks and three KV tiers that tell an eviction policy what the block manager would."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass, field

from stepwell.policy.block_index import Block
from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import Costs
from stepwell.policy.eviction import EvictionContext, make_eviction
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import NO_HINT, BlockId, BlockMeta, Hint, KvTier

DEVICE, HOST, DISK = KvTier.DEVICE, KvTier.HOST, KvTier.DISK
BLOCK_BYTES = 1_000


def config_of(eviction: str, device: int = 8, host: int = 16, disk: int = 64) -> PolicyConfig:
    """Sizes in blocks of 16 tokens."""
    return PolicyConfig(
        block_tokens=16,
        unit_tokens=16,
        device_blocks=device,
        block_bytes=BLOCK_BYTES,
        token_bytes=60,
        host_bytes=host * BLOCK_BYTES,
        disk_bytes=disk * BLOCK_BYTES,
        eviction=eviction,
    )


@dataclass(slots=True)
class Actor:
    record: AgentRecord
    labels: list[str] = field(default_factory=list)
    due_us: int | None = None
    """When the agent will really come back, for the oracle."""
    loaded: list[Block] = field(default_factory=list)
    """What its open turn holds on the device."""
    works: bool = False


class World:
    """One eviction and everything that happens to it. Same calls, same world."""

    def __init__(self, name: str, config: PolicyConfig | None = None) -> None:
        self.context = EvictionContext(config or config_of(name), Costs(), future=self.future)
        self.eviction = make_eviction(name, self.context)
        self.context.now_us = 1_000
        self.blocks: dict[BlockId, Block] = {}
        self.actors: dict[tuple[str, str], Actor] = {}

    @property
    def now_us(self) -> int:
        return self.context.now_us

    def wait(self, us: int) -> None:
        self.context.now_us += us
        self.eviction.tick()

    # --- agents -------------------------------------------------------------------------------

    def begin(self, agent: str, *, tenant: str = "t", service_tier: str = "default") -> None:
        """A turn arrives and is opened: what is stored of its context comes up."""
        self.wait(1)
        actor = self._actor(agent, tenant, service_tier)
        if actor.works:
            return
        self.context.waiting = sum(a.works for a in self.actors.values())
        actor.works = True
        if actor.record.idle_since_us is not None:
            actor.record.idle_us += self.now_us - actor.record.idle_since_us
        actor.record.last_use_us = self.now_us
        self.eviction.agent_active(actor.record)
        actor.record.idle_since_us = None
        actor.loaded = self._bring_up(actor.labels)
        self.touch(actor.loaded)

    def end(
        self,
        agent: str,
        *,
        labels: Sequence[str],
        hint: Hint = NO_HINT,
        due_us: int | None = None,
        tenant: str = "t",
    ) -> None:
        """The turn has computed the rest of ``labels`` and leaves the device."""
        self.wait(1)
        actor = self.actors.get((tenant, agent))
        if actor is None or not actor.works:
            return
        actor.works, actor.labels, actor.due_us = False, list(labels), due_us
        path = self._compute(labels)
        record = actor.record
        record.path, record.hint = path, hint
        self.eviction.agent_continued(record, record.path)
        self.touch(path)
        for block in [*actor.loaded, *path]:
            block.pins -= 1
        actor.loaded = []
        record.active_us += self.now_us - record.last_use_us
        record.idle_since_us = record.last_use_us = self.now_us
        self.eviction.agent_idle(record)

    def hint(self, agent: str, hint: Hint, tenant: str = "t") -> None:
        actor = self.actors.get((tenant, agent))
        if actor is not None and not actor.works:
            actor.record.hint = hint
            self.eviction.agent_idle(actor.record)

    def forget(self, agent: str, tenant: str = "t") -> None:
        actor = self.actors.get((tenant, agent))
        if actor is not None and not actor.works:
            del self.actors[tenant, agent]
            self.eviction.agent_forgotten(actor.record)

    def _actor(self, agent: str, tenant: str, service_tier: str) -> Actor:
        if (tenant, agent) not in self.actors:
            self.actors[tenant, agent] = Actor(AgentRecord(tenant, service_tier, "s", agent, None))
        actor = self.actors[tenant, agent]
        actor.record.service_tier = service_tier
        return actor

    # --- blocks -------------------------------------------------------------------------------

    def recover(self, labels: Sequence[str]) -> None:
        """At the start: blocks of nobody are found on disk, deeper ones first (they count as colder)."""
        if self.actors:
            return
        made = [self._block(labels, depth) for depth in range(len(labels))]
        for block in reversed(made):
            if not block.disk:
                self.put(block, DISK)

    def evict(self, kv_tier: KvTier, *, keep: bool = True) -> BlockId | None:
        """The first victim that may go; ``keep``: it steps down."""
        for name in self.eviction.victims(kv_tier):
            block = self.blocks[name]
            if kv_tier is DEVICE and (block.pins or block.device_children):
                continue
            below = {DEVICE: HOST, HOST: DISK}.get(kv_tier)
            if keep and below is not None and not block.is_on(below):
                self.put(block, below)
            self.drop(block, kv_tier)
            return name
        return None

    def put(self, block: Block, kv_tier: KvTier) -> None:
        block.set_on(kv_tier, True)
        parent = self.blocks.get(block.meta.parent or b"")
        if kv_tier is DEVICE and parent is not None:
            parent.device_children += 1
        self.eviction.block_used(block, kv_tier)

    def drop(self, block: Block, kv_tier: KvTier) -> None:
        self.eviction.block_left(block, kv_tier)
        block.set_on(kv_tier, False)
        parent = self.blocks.get(block.meta.parent or b"")
        if kv_tier is DEVICE and parent is not None:
            parent.device_children -= 1
        if block.nowhere:
            del self.blocks[block.id]

    def touch(self, path: Sequence[Block]) -> None:
        for block in path:
            block.last_use_us = self.now_us
        self.eviction.path_used(path)

    def _bring_up(self, labels: Sequence[str]) -> list[Block]:
        path = []
        for depth in range(len(labels)):
            block = self.blocks.get(name_of(labels[: depth + 1]))
            if block is None:
                break
            if not block.device and not block.host:
                self.put(block, HOST)
            block.pins += 1
            if not block.device:
                self.put(block, DEVICE)
            path.append(block)
        return path

    def _compute(self, labels: Sequence[str]) -> list[Block]:
        path = [self._block(labels, depth) for depth in range(len(labels))]
        for block in path:
            block.pins += 1
            if not block.device:
                self.put(block, DEVICE)
        return path

    def _block(self, labels: Sequence[str], depth: int) -> Block:
        name, parent = name_of(labels[: depth + 1]), name_of(labels[:depth]) if depth else None
        if name not in self.blocks:
            self.blocks[name] = Block(BlockMeta(name, parent, depth, 16, (name,), "t", BLOCK_BYTES))
        return self.blocks[name]

    # --- looking ------------------------------------------------------------------------------

    def future(self, block: Block, now_us: int) -> int | None:
        due = [a.due_us for a in self.actors.values() if any(b is block for b in a.record.path)]
        return min((d for d in due if d is not None and d > now_us), default=None)

    def victims(self, kv_tier: KvTier) -> list[BlockId]:
        return list(self.eviction.victims(kv_tier))

    def on(self, kv_tier: KvTier) -> list[BlockId]:
        return sorted(name for name, block in self.blocks.items() if block.is_on(kv_tier))


def name_of(labels: Sequence[str]) -> BlockId:
    return hashlib.blake2b("/".join(labels).encode(), digest_size=16).digest()
