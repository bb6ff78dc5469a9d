"""Where each agent's KV lies in one vLLM engine, by the engine's own KV events.

An event of the device names the agent (``scheduler.py`` writes the name, and asks for events of blocks that
were found as well), so an agent's context is a chain of block hashes. What happens to a hash afterwards, on
device, host or disk, is told by hash alone. Nothing is guessed: what no event has told is not there.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Iterable
from dataclasses import dataclass, field

from stepwell.policy.types import KvTier
from stepwell.vllm.kv_events import AgentName, BlockHash, Cleared, KvEvent, Removed, Stored, agent_of

Key = tuple[int, BlockHash]
"""A group of layers and a hash: with sliding windows each group has blocks of its own."""
MEDIA = {"GPU": KvTier.DEVICE, "CPU": KvTier.HOST, "STORAGE": KvTier.DISK}
BITS = {KvTier.DEVICE: 1, KvTier.HOST: 2, KvTier.DISK: 4}
FASTEST = [None if not mask else next(tier for tier, bit in BITS.items() if mask & bit) for mask in range(8)]
MOST_HASHES = 2_000_000
"""Known hashes, and hashes in all chains: some hundred bytes each."""


@dataclass(slots=True)
class Chain:
    """One agent's blocks of one group, from the beginning of its context."""

    block_tokens: int
    keys: list[Key] = field(default_factory=list)


class KvPlaces:
    """Thread-safe. Forgets what was heard of longest ago: that costs a worse choice of a node and no more."""

    def __init__(self, most_hashes: int = MOST_HASHES) -> None:
        self._most = most_hashes
        self._lock = threading.Lock()
        self._where: OrderedDict[Key, int] = OrderedDict()
        """KV tiers that hold a block, as bits."""
        self._blocks = dict.fromkeys(KvTier, 0)
        self._chains: OrderedDict[AgentName, dict[int, Chain]] = OrderedDict()
        self._in_chains = 0
        self._users: dict[Key, set[AgentName]] = {}
        self._counted: dict[AgentName, dict[KvTier, int]] = {}
        """Of agents for which nothing has changed since."""

    def apply(self, events: Iterable[KvEvent]) -> None:
        """In the order in which they happened."""
        with self._lock:
            for event in events:
                if isinstance(event, Stored):
                    self._stored(event)
                elif isinstance(event, Removed):
                    self._change(event.group_idx, event.block_hashes, event.medium, held=False)
                elif isinstance(event, Cleared):
                    self._cleared()

    def clear(self) -> None:
        """The engine has ended, or too much was missed: nothing is known."""
        with self._lock:
            for known in (self._where, self._chains, self._users, self._counted):
                known.clear()
            self._in_chains, self._blocks = 0, dict.fromkeys(KvTier, 0)

    def held(self, agent: AgentName) -> dict[KvTier, int]:
        """Tokens from the beginning of its context that need not be computed again, each counted in the
        fastest KV tier that holds it; empty: the agent is not known."""
        with self._lock:
            if agent not in self._chains:
                return {}
            counted = self._counted.get(agent)
            if counted is None:
                counted = self._counted[agent] = self._count(agent)
            return dict(counted)

    def blocks(self) -> dict[KvTier, int]:
        """How many each KV tier holds, of all agents and groups."""
        with self._lock:
            return dict(self._blocks)

    def _count(self, agent: AgentName) -> dict[KvTier, int]:
        """By the group that has most from the beginning: one with a sliding window gives up its beginning,
        which it does not need, long before the others."""
        best: dict[KvTier, int] = {}
        for chain in self._chains[agent].values():
            found = dict.fromkeys(KvTier, 0)
            for key in chain.keys:
                tier = FASTEST[self._where.get(key, 0)]
                if tier is None:
                    break
                found[tier] += chain.block_tokens
            if not best or sum(found.values()) > sum(best.values()):
                best = found
        return best

    def _stored(self, event: Stored) -> None:
        self._change(event.group_idx, event.block_hashes, event.medium, held=True)
        agent = agent_of(event.session_id)
        if agent is None or not event.block_size or MEDIA.get(event.medium or "") is not KvTier.DEVICE:
            return
        group = event.group_idx or 0
        chains = self._chains.setdefault(agent, {})
        self._chains.move_to_end(agent)
        chain = chains.setdefault(group, Chain(event.block_size))
        parent = event.parent_block_hash
        kept = 0 if parent is None else _after(chain.keys, (group, parent))
        if kept is None:  # its beginning was not told: nothing can be said of the rest
            return
        self._cut(agent, chain, kept)
        keys = [(group, one) for one in event.block_hashes]
        chain.keys += keys
        self._in_chains += len(keys)
        for key in keys:
            self._users.setdefault(key, set()).add(agent)
        self._counted.pop(agent, None)
        while self._in_chains > self._most and len(self._chains) > 1:
            self._forget(next(iter(self._chains)))

    def _cut(self, agent: AgentName, chain: Chain, kept: int) -> None:
        """Only so many of its blocks are its context still."""
        for key in chain.keys[kept:]:
            users = self._users.get(key, set())
            users.discard(agent)
            if not users:
                self._users.pop(key, None)
        self._in_chains -= len(chain.keys) - kept
        del chain.keys[kept:]

    def _forget(self, agent: AgentName) -> None:
        for chain in self._chains[agent].values():
            self._cut(agent, chain, 0)
        del self._chains[agent]
        self._counted.pop(agent, None)

    def _change(
        self, group: int | None, hashes: Iterable[BlockHash], medium: str | None, *, held: bool
    ) -> None:
        tier = MEDIA.get(medium or "")
        if tier is None:
            return
        for one in hashes:
            key = (group or 0, one)
            before = self._where.get(key, 0)
            self._set(key, before, before | BITS[tier] if held else before & ~BITS[tier])
        while len(self._where) > self._most:
            key = next(iter(self._where))
            self._set(key, self._where[key], 0)

    def _set(self, key: Key, before: int, after: int) -> None:
        if after == before:
            return
        for tier, bit in BITS.items():
            self._blocks[tier] += bool(after & bit) - bool(before & bit)
        if after:
            self._where[key] = after
        else:
            del self._where[key]
        for agent in self._users.get(key, ()):
            self._counted.pop(agent, None)

    def _cleared(self) -> None:
        for key, mask in [(key, mask) for key, mask in self._where.items() if mask & BITS[KvTier.DEVICE]]:
            self._set(key, mask, mask & ~BITS[KvTier.DEVICE])


def _after(keys: list[Key], parent: Key) -> int | None:
    """How many of the keys end with the parent; mostly all do."""
    for position in range(len(keys), 0, -1):
        if keys[position - 1] == parent:
            return position
    return None
