"""Blocks that no agent holds: found on disk at start, of agents long forgotten, or left behind.

What an agent leaves behind when it goes on with another context is a *departure*. Most are for good: an
answer that its next prompt does not contain, a side call. Some are not: agents make calls beside their
conversation and go on with it. How often and when each kind comes back is learned per tenant as rests are
(``gaps.py``): departures that have not come back count for every bin they outlasted, whether their blocks are
still there or not. Blocks that hardly ever come back are *dead*: they are never written to disk and leave
every KV tier first.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from enum import StrEnum
from heapq import merge
from typing import Final

from stepwell.policy.block_index import Block
from stepwell.policy.eviction.base import EvictionContext
from stepwell.policy.eviction.falling import cost_below, is_flat
from stepwell.policy.eviction.forecast import STRANGER, Forecaster, Left, Watch
from stepwell.policy.eviction.gaps import TIME_EDGES_US, bin_of
from stepwell.policy.eviction.value import eviction_key
from stepwell.policy.types import BlockId, KvTier

KV_TIERS: Final = (KvTier.DEVICE, KvTier.HOST, KvTier.DISK)
_GROWN_USES: Final = 2
"""A turn uses a block when it begins with it and when it leaves: above this, one has gone on from it."""
_MOST_WATCHED: Final = 4_096
_LOOKED_AT_PER_STEP: Final = 4
_TWICE: Final = 0b11  # ranked on the device and on the host


_WORTHS: Final = tuple([STRANGER.worth(k, TIME_EDGES_US) for k in range(len(TIME_EDGES_US))])
"""Of a stranger's block by the bin of its age: what is expected of a stranger never changes."""


class _Stream(StrEnum):
    DEAD = "dead"
    LEFT = "left"
    STRANGER = "stranger"


@dataclass(slots=True, eq=False)
class Departure:
    """What an agent left behind at one time."""

    watch: Watch
    head: BlockId
    """The block nearest to the root: the others come back only with it."""
    chance: int = 0
    """Of 2**20: that it comes back, as of the last look; and what holding it is worth."""
    value: int = 0
    blocks: dict[BlockId, Block] = field(default_factory=dict)
    """Those that some KV tier still holds and that no agent has used since."""
    returned: bool = False


def kind_of(gone: Sequence[Block], same: int) -> Left:
    """What an agent has left behind: ``gone`` (root first, not empty), where it keeps ``same`` blocks."""
    grown = gone[0].uses > _GROWN_USES
    if same >= len(gone):
        return Left.BRANCH if grown else Left.ANSWER
    return Left.CONTEXT if grown else Left.SIDE_CALL


class Orphans:
    """See the module. ``dead_below``: the chance of 2**20 below which a departure is dead."""

    def __init__(self, forecaster: Forecaster, dead_below: int) -> None:
        self._forecaster, self._dead_below = forecaster, dead_below
        self._order = tuple({stream: OrderedDict[BlockId, Block]() for stream in _Stream} for _ in KV_TIERS)
        self._of: dict[BlockId, Departure] = {}
        """The departure that a block belongs to; of strangers there is none."""
        self._heads: dict[BlockId, Departure] = {}
        self._watched: deque[Departure] = deque()

    # --- blocks come and go -------------------------------------------------------------------

    def add(self, block: Block) -> None:
        """No agent holds the block any more; it was used last of all."""
        for at, kv_tier in enumerate(KV_TIERS):
            if block.is_on(kv_tier):
                self.came(block, at)

    def came(self, block: Block, at: int) -> None:
        """The block has come to KV tier number ``at``."""
        order = self._order[at][self._stream_of(block.id)]
        order[block.id] = block
        order.move_to_end(block.id)

    def drop(self, block: Block) -> None:
        """An agent holds the block again."""
        stream = self._stream_of(block.id)
        for orders in self._order:
            orders[stream].pop(block.id, None)
        self._forget(block)

    def block_left(self, block: Block, at: int) -> None:
        """The block is no longer on KV tier number ``at``."""
        self._order[at][self._stream_of(block.id)].pop(block.id, None)
        if not block.ranked:
            self._forget(block)

    def used(self, block: Block, now_us: int) -> None:
        """A turn has begun with the block."""
        self.drop(block)
        self.add(block)
        self.returned(block.id, now_us)

    def count(self, at: int) -> int:
        return sum([len(order) for order in self._order[at].values()])

    def _forget(self, block: Block) -> None:
        departure = self._of.pop(block.id, None)
        if departure is not None:
            del departure.blocks[block.id]

    def _stream_of(self, block: BlockId) -> _Stream:
        departure = self._of.get(block)
        if departure is None:
            return _Stream.STRANGER
        return _Stream.DEAD if self._is_dead(departure) else _Stream.LEFT

    # --- departures ---------------------------------------------------------------------------

    def leave(self, gone: Sequence[Block], tenant: str, kind: Left, now_us: int) -> None:
        """No agent holds ``gone`` (root first, not empty) since its agent went on without it."""
        departure = Departure(self._forecaster.left(tenant, kind, now_us), gone[0].id)
        self._look(departure, now_us)
        for block in reversed(gone):
            if block.ranked:
                self._of[block.id] = departure
                departure.blocks[block.id] = block
                self.add(block)
        self._heads[departure.head] = departure
        self._watched.append(departure)
        if len(self._watched) > _MOST_WATCHED:
            self._end(self._watched.popleft())

    def returned(self, head: BlockId, now_us: int) -> None:
        """A block is used: if it is the head of a departure, that one has come back. Its blocks may have been
        lost meanwhile, so this is told of what is computed again as well."""
        departure = self._heads.pop(head, None)
        if departure is not None:
            departure.returned = True
            departure.watch.end(now_us)

    def look(self, now_us: int) -> None:
        """Look at the departures in turn, a few at a time: note how long they have lasted."""
        for _ in range(min(_LOOKED_AT_PER_STEP, len(self._watched))):
            departure = self._watched.popleft()
            goes_on = not departure.returned and departure.watch.advance(now_us) is not None
            self._look(departure, now_us)
            if goes_on or departure.blocks:
                self._watched.append(departure)
            else:
                self._end(departure)

    def _look(self, departure: Departure, now_us: int) -> None:
        was_dead = self._is_dead(departure)
        departure.chance, departure.value = departure.watch.outlook(now_us)
        if was_dead == self._is_dead(departure):
            return
        streams = (_Stream.DEAD, _Stream.LEFT) if was_dead else (_Stream.LEFT, _Stream.DEAD)
        for block in departure.blocks.values():
            for orders in self._order:
                if orders[streams[0]].pop(block.id, None) is not None:
                    orders[streams[1]][block.id] = block

    def _end(self, departure: Departure) -> None:
        if self._heads.get(departure.head) is departure:
            del self._heads[departure.head]

    def _is_dead(self, departure: Departure) -> bool:
        return departure.chance < self._dead_below

    # --- what it is worth ---------------------------------------------------------------------

    def chance(self, block: Block) -> int:
        """Of 2**20: that it is used again. Of strangers nothing is known, and a write costs little beside
        what it may save: being choosy there loses to LRU where prompts of strangers share their
        beginnings."""
        departure = self._of.get(block.id)
        return 1 << 19 if departure is None else departure.chance

    def value(self, block: Block, now_us: int) -> int:
        """What holding it is worth; a stranger's block is judged by its age, as are those of agents without a
        history."""
        departure = self._of.get(block.id)
        if departure is not None:
            return 0 if self._is_dead(departure) else departure.value
        return _WORTHS[bin_of(TIME_EDGES_US, max(0, now_us - block.last_use_us))]

    def is_hopeless(self, block: Block) -> bool:
        """Whether it hardly ever comes back: ``chance`` is below what the dead have."""
        return self.chance(block) < self._dead_below

    def any_dead(self, at: int) -> bool:
        """Whether dead ones lie on KV tier number ``at``."""
        return bool(self._order[at][_Stream.DEAD])

    def any_alive(self, at: int) -> bool:
        """Whether others do."""
        return bool(self._order[at][_Stream.STRANGER] or self._order[at][_Stream.LEFT])

    def dead(self, at: int) -> Iterator[Block]:
        """Dead blocks of KV tier number ``at``, the first to go first."""
        yield from self._order[at][_Stream.DEAD].values()

    def alive(self, at: int, now_us: int) -> Iterator[tuple[int, Block]]:
        """The others with their values, about in the order of these."""
        left, strangers = self._order[at][_Stream.LEFT], self._order[at][_Stream.STRANGER]
        if not left or not strangers:  # as a rule: most walks are over one of them
            for block in (left or strangers).values():
                yield self.value(block, now_us), block
            return
        for value, _, block in merge(*(self._valued(order.values(), now_us) for order in (left, strangers))):
            yield value, block

    def ranked(self, context: EvictionContext, at: int) -> Iterator[tuple[int, Block]]:
        """``alive`` with their places in the ranking, but on the host those that the device has as well."""
        flat = is_flat(context, at)
        for value, block in self.alive(at, context.now_us):
            if at != 1 or block.ranked & _TWICE != _TWICE:
                cost = 1 if flat else cost_below(context, block.meta.depth + 1, at)
                yield eviction_key(value, cost), block

    def _valued(self, blocks: Iterable[Block], now_us: int) -> Iterator[tuple[int, BlockId, Block]]:
        for block in blocks:
            yield self.value(block, now_us), block.id, block
