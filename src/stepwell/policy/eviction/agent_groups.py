"""Blocks ranked by the agents that hold them.

All blocks of one agent share its next use, so what is ranked is agents, not blocks: a *group* is an
agent's path of blocks, and gives up its deepest block first. A block that several agents hold is
listed under one of them; when it comes up there although another holder is worth more, it moves to
that one's list. Blocks that no agent holds are in ``orphans.py``.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Final

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.base import EvictionContext
from stepwell.policy.eviction.falling import cost_below, is_flat
from stepwell.policy.eviction.forecast import IdlePeriod
from stepwell.policy.eviction.orphans import KV_TIERS
from stepwell.policy.eviction.value import EvictionTuning, eviction_key, is_stale
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import KvTier

AT: Final = {kv_tier: position for position, kv_tier in enumerate(KV_TIERS)}
Entry = tuple[int, int, "Group"]
Ranked = tuple[int, Block]
"""A key, and the block that it is of."""
_MAX_HOLDERS: Final = 8  # of one block; the ones that used it last


@dataclass(slots=True, eq=False)
class Group:
    """One agent's blocks. ``keys``: its place in the ranking of each KV tier, None while not in it."""

    record: AgentRecord
    seq: int
    service_tier: str
    rankings: tuple[Ranking, ...]
    """Of its service tier, per KV tier."""
    held: tuple[dict[str, int], ...]
    """Likewise: how many blocks each tenant has there."""
    path: Sequence[Block] = ()
    first: int = 0
    """So many of its blocks it had after its first turn: others of its kind may begin alike."""
    listed: list[int] = field(default_factory=lambda: [0, 0, 0])
    """Blocks listed under it, per KV tier."""
    keys: list[int | None] = field(default_factory=lambda: [None, None, None])
    top: list[int] = field(default_factory=lambda: [-1, -1, -1])
    """Per KV tier: no listed block lies deeper."""
    value: int = 0
    """What holding it is worth: ``agent_value``, or ACTIVE or DEAD."""
    chance: int = 1 << 20
    """Of 2**20: that its agent comes back, as of ``keyed_at_us``."""
    fork: int = 0
    """Of an agent that is not expected back itself: how many of its blocks its heirs hold (``heirs.py``)."""
    keyed_at_us: int = 0
    idle: IdlePeriod | None = None
    """None while a turn of the agent is open."""
    timer_us: int | None = None
    wake_us: int | None = None
    """The last of its timers that wakes the scheduler."""

    def __lt__(self, other: Group) -> bool:
        return self.seq < other.seq

    def spare(self, kv_tier: KvTier) -> Iterator[Block]:
        """Its listed blocks on a KV tier, the deepest first."""
        at = AT[kv_tier]
        depth, left = min(self.top[at], len(self.path) - 1), self.listed[at]
        found = False
        path, bit = self.path, 1 << at
        while depth >= 0 and left > 0:
            block = path[depth]
            if block.listed is self and block.ranked & bit:
                if not found:
                    self.top[at], found = depth, True
                left -= 1
                yield block
            depth -= 1


class Ranking:
    """The groups of one service tier on one KV tier, the least valuable first."""

    def __init__(self, weight: int = 1) -> None:
        self.weight = weight
        """How many times over its groups count beside those of other service tiers."""
        self.entries: list[Entry] = []
        self.blocks = 0
        """Listed blocks, of agents that work and that rest."""
        self.idle_blocks = 0
        """Those of agents that rest."""
        self.looked_us = -1
        """When its heads were last looked at; -1: something has come, gone or moved since."""

    def idle_entries(self) -> Iterator[Entry]:
        """Its groups at rest, by what they count beside those of other service tiers."""
        for key, seq, group in self.entries:
            if group.idle is None:
                return  # all that follow are at work
            yield key * self.weight, seq, group

    def put(self, key: int, group: Group) -> None:
        self.looked_us = -1
        insort(self.entries, (key, group.seq, group))

    def take(self, key: int, group: Group) -> None:
        self.looked_us = -1
        del self.entries[bisect_left(self.entries, (key, group.seq, group))]


def first_at_rest(rankings: Sequence[Ranking]) -> Group | None:
    """The group at rest that stands first in some rankings together; None: there is none."""
    best: tuple[int, int] | None = None
    first: Group | None = None
    for ranking in rankings:
        if ranking.idle_blocks and ranking.entries:
            key, seq, group = ranking.entries[0]
            standing = key * ranking.weight, seq
            if group.idle is not None and (best is None or standing < best):
                best, first = standing, group
    return first


def _height(context: EvictionContext, group: Group, at: int, flat: bool) -> int:
    """How high the group stands on KV tier number ``at`` among those of every service tier, listed there
    or not. ``flat``: see ``is_flat``."""
    key = group.keys[at]
    if key is None:
        key = eviction_key(group.value, 1 if flat else cost_below(context, len(group.path), at))
    return key * group.rankings[at].weight


def needed_more(context: EvictionContext, block: Block, group: Group, at: int) -> Group | None:
    """The holder that needs the block most, if that is another one than the ``group`` it is listed under: of
    those that stand highest the one named last. So a block never goes before what grows from it."""
    flat = is_flat(context, at)
    highest, seq, best = _height(context, group, at, flat), group.seq, None
    for holder in block.holders:
        if holder is not group:
            height = _height(context, holder, at, flat)
            if height > highest or (height == highest and holder.seq > seq):
                highest, seq, best = height, holder.seq, holder
    return best


def is_old(group: Group, now_us: int, tuning: EvictionTuning) -> bool:
    """Whether its value is: its rest has gone on for an eighth since."""
    idle = group.idle
    return idle is not None and is_stale(group.keyed_at_us, idle.since_us, now_us, tuning)


def join(block: Block, group: Group) -> None:
    """The group holds the block from now on."""
    if group not in block.holders:
        block.holders = (*block.holders[1 - _MAX_HOLDERS :], group)


def is_nameless(block: Block) -> bool:
    """Whether conversations without a name hold it, and no agent does."""
    return bool(block.holders) and all(holder.record.unknown for holder in block.holders)


def quit_holding(block: Block, group: Group) -> None:
    block.holders = tuple(holder for holder in block.holders if holder is not group)


def merged(orphans: Iterator[Ranked], held: Iterator[Ranked]) -> Iterator[Block]:
    """All of ``held``, and before each what is worth less of ``orphans``, which is left where it stopped."""
    waiting = next(orphans, None)
    for key, block in held:
        while waiting is not None and waiting[0] <= key:
            yield waiting[1]
            waiting = next(orphans, None)
        yield block
    if waiting is not None:
        yield waiting[1]
