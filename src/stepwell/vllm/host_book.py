"""The book of vLLM's host memory, kept by Stepwell's own eviction policy. Knows nothing of vLLM.

vLLM tells of single chunks and of requests; the policy thinks in agents and their contexts. In this book,
between them, a chunk is a block on the host, a request is a turn of the agent that its owner names, and the
chunks a request has used, in the order of its prompt, are that agent's context.

    vLLM                          policy
    first word of a request       the agent is active
    chunk stored, chunk used      the block has come, was used; it is part of the context
    request finished              the agent is idle, and waits for what its hint says
    room for n chunks             the n blocks that can best be spared
    a cold tier has the chunk     the block is on disk; it stays in the book when the host gives it up,
                                  and for a while before, because a cold tier tells late what it has written
    time passes                   blocks on disk alone that are worth a place on the host now

Which cold tier it is, a disk or an object store, makes no difference here: both are "disk".
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from operator import attrgetter

from stepwell.policy.block_index import Block
from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import Costs
from stepwell.policy.eviction import EvictionContext, make_eviction
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import BlockId, BlockMeta, Caller, Hint, KvTier

_TOKENS = 32
"""Of a chunk, for the policy: only ratios of depths decide."""
_MOST_AGENTS = 10_000
HOST, DISK = KvTier.HOST, KvTier.DISK
COLD_FACTOR, MOST_COLD = 16, 100_000
"""So many times the host's chunks are remembered that lie in a cold tier alone, and at most so many."""
MOST_UNTOLD = 10_000
"""At most so many chunks are remembered that have left the host and of which no cold tier has told, and never
more than the host has."""
SHUN_US = 5_000_000
"""So long a chunk that could not be fetched is not asked for again."""
Position = tuple[int, int]
"""The chunk's last token, and its KV cache group: the order of a prompt."""


@dataclass(slots=True)
class _Open:
    """A request that has not finished."""

    record: AgentRecord
    hint: Hint
    positions: dict[BlockId, Position] = field(default_factory=dict)
    grown: bool = False
    """Its context has grown since the policy was told."""


@dataclass(frozen=True, slots=True)
class Fetch:
    """A chunk that is worth a place in host memory before its agent comes back."""

    key: BlockId
    caller: Caller
    """The caller whose context it is."""
    depth: int
    """Its place in that context."""


class HostBook:
    """Which chunks are in host memory, their owners, and which go first. ``now_us`` never goes back."""

    def __init__(self, chunks: int, *, eviction: str = "stepwell", disk: bool = True) -> None:
        config = PolicyConfig(
            _TOKENS, _TOKENS, 1, _TOKENS, 1, chunks * _TOKENS, chunks * _TOKENS * 100 if disk else 0
        )
        self._eviction_name, self._config, self._chunks = eviction, config, chunks
        self.clear()

    def clear(self) -> None:
        """Nothing is there and no agent is known."""
        self._context = EvictionContext(self._config, Costs())
        self._eviction = make_eviction(self._eviction_name, self._context)
        self._blocks: dict[BlockId, Block] = {}
        self._cold: OrderedDict[BlockId, None] = OrderedDict()
        """Those of them that a cold tier has and the host has not, the one that fell first in front."""
        self._untold: OrderedDict[BlockId, None] = OrderedDict()
        """Those of them that the host has not and that a cold tier may be writing, the one that fell first in
        front."""
        self._callers: dict[tuple[str, str], Caller] = {}
        self._free: dict[BlockId, None] = {}
        """Chunks that no transfer uses, in the order in which they became so."""
        self._open: dict[str, _Open] = {}
        self._records: OrderedDict[tuple[str, str], AgentRecord] = OrderedDict()
        self._unnamed = 0

    def __contains__(self, key: BlockId) -> bool:
        """Whether the host has it."""
        return (block := self._blocks.get(key)) is not None and block.host

    def __len__(self) -> int:
        """How many the host has."""
        return len(self._blocks) - len(self._cold) - len(self._untold)

    # --- requests -----------------------------------------------------------------------------

    def begin(self, request: str, caller: Caller, hint: Hint, now_us: int) -> None:
        """A request is heard of. Again: nothing happens."""
        self._context.now_us = now_us
        if request in self._open:
            return
        self._unnamed += 1
        record = self._record(caller)
        record.idle_since_us = None
        record.open_turns[self._unnamed] = None
        self._open[request] = _Open(record, hint)
        self._eviction.agent_active(record)

    def _record(self, caller: Caller) -> AgentRecord:
        key = (caller.tenant, caller.agent or f"request-{self._unnamed}")
        record = self._records.get(key)
        if record is None:
            record = AgentRecord(
                caller.tenant, caller.service_tier, caller.session, key[1], caller.parent_agent
            )
            self._records[key] = record
            self._forget_oldest()
        record.service_tier, record.role = caller.service_tier, caller.role or record.role
        record.unknown = not caller.agent and not record.role
        self._records.move_to_end(key)
        self._callers[key] = caller
        return record

    def _forget_oldest(self) -> None:
        if len(self._records) <= _MOST_AGENTS:
            return
        oldest = next((key for key, record in self._records.items() if not record.open_turns), None)
        if oldest is not None:
            del self._callers[oldest]
            self._eviction.agent_forgotten(self._records.pop(oldest))

    def used(self, request: str, keys: Iterable[tuple[BlockId, Position]], now_us: int) -> None:
        """A request uses chunks, or is about to store them: they belong to its context."""
        self._context.now_us = now_us
        one = self._open.get(request)
        path = []
        for key, position in keys:
            if one is not None:
                one.positions[key] = position
                one.grown = True
            if (block := self._blocks.get(key)) is not None:
                block.last_use_us = now_us
                path.append(block)
        self._eviction.path_used(path)

    def finish(self, request: str, now_us: int) -> None:
        """The agent has its answer, and is idle unless another turn of it is open."""
        self._context.now_us = now_us
        one = self._open.get(request)
        if one is None:
            return
        self._tell_context(one)
        del self._open[request]
        record = one.record
        record.open_turns.pop(next(iter(record.open_turns)))
        record.turns += 1
        record.hint = one.hint
        if not record.open_turns:
            record.idle_since_us = record.last_use_us = now_us
            self._eviction.agent_idle(record)
        if record.unknown:  # no agent comes back under a name that we made up
            del self._records[record.tenant, record.agent], self._callers[record.tenant, record.agent]

    def hinted(self, tenant: str, agent: str, hint: Hint, now_us: int) -> None:
        """More is known about what an agent waits for. How long its context is kept, only its turns say."""
        self._context.now_us = now_us
        record = self._records.get((tenant, agent))
        if record is None:
            return
        record.hint = replace(hint, retain_us=record.hint.retain_us)
        if record.idle_since_us is not None:
            self._eviction.agent_idle(record)

    def _tell_context(self, one: _Open) -> None:
        if one.grown:
            one.grown = False
            order = sorted(one.positions, key=lambda key: (one.positions[key], key))
            path = [self._blocks[key] for key in order if key in self._blocks]
            self._eviction.agent_continued(one.record, path)
            for block in path:
                self._rank_on_disk(block)

    # --- chunks -------------------------------------------------------------------------------

    def insert(self, key: BlockId, request: str, now_us: int) -> None:
        """A chunk has got its place; it is written to and cannot go yet."""
        self._context.now_us = now_us
        one = self._open.get(request)
        if one is not None and key not in one.positions:
            one = None  # vLLM has not said for which request it is
        if one is not None:
            one.grown = True
        if (known := self._blocks.get(key)) is not None:
            self._back_on_host(known)
            return
        position = (0, 0) if one is None else one.positions[key]
        tenant = "" if one is None else one.record.tenant
        depth = position[0] // _TOKENS
        parent = None if depth == 0 else b"\0"
        block = Block(BlockMeta(key, parent, depth, _TOKENS, (key,), tenant, _TOKENS))
        block.host, block.last_use_us, block.pins = True, now_us, 1
        self._blocks[key] = block
        self._eviction.block_used(block, HOST)

    def _back_on_host(self, block: Block) -> None:
        """From a cold tier, or computed again."""
        self._cold.pop(block.id, None)
        self._untold.pop(block.id, None)
        block.host = True
        self._eviction.block_used(block, HOST)

    def free(self, key: BlockId, now_us: int) -> None:
        """No transfer uses the chunk: it may go."""
        self._context.now_us = now_us
        block = self._blocks[key]
        self._free[key] = None
        if block.pins:
            block.pins = 0
            if block.listed is None and not block.holders:
                self._eviction.path_used([block])

    def busy(self, key: BlockId) -> None:
        """A transfer uses the chunk: it must stay."""
        self._free.pop(key, None)

    def remove(self, key: BlockId) -> None:
        """The chunk is not on the host any more. What a cold tier has of an agent's context is remembered,
        and for a while what it may have: an upload ends after the chunk has left."""
        block = self._blocks.get(key)
        if block is None or not block.host:
            return
        self._free.pop(key, None)
        self._eviction.block_left(block, HOST)
        block.host = False
        if block.ranked:
            self._fell(block)
        elif block.holders:
            self._untold[key] = None
            if len(self._untold) > min(self._chunks, MOST_UNTOLD):
                self._drop(self._blocks[next(iter(self._untold))])
        else:
            self._drop(block)

    def _fell(self, block: Block) -> None:
        """A cold tier has it, and the host has not."""
        self._cold[block.id] = None
        if len(self._cold) > min(COLD_FACTOR * self._chunks, MOST_COLD):
            self.cold(next(iter(self._cold)), held=False, now_us=self._context.now_us)

    def _drop(self, block: Block) -> None:
        self._eviction.block_left(block, DISK)
        block.disk = False
        del self._blocks[block.id]
        self._cold.pop(block.id, None)
        self._untold.pop(block.id, None)

    # --- cold tiers ---------------------------------------------------------------------------

    def knows(self, key: BlockId) -> bool:
        """Whether it matters to this book what a cold tier has of the chunk."""
        return key in self._blocks

    def cold(self, key: BlockId, *, held: bool, now_us: int) -> None:
        """A cold tier has the chunk from now on, or none has it any more."""
        self._context.now_us = now_us
        block = self._blocks.get(key)
        if block is None or block.disk == held:
            return
        block.disk = held
        if held:
            self._rank_on_disk(block)
            self._told_late(block)
        elif block.host:
            self._eviction.block_left(block, DISK)
        else:
            self._drop(block)

    def _told_late(self, block: Block) -> None:
        if block.id not in self._untold:
            return None
        if not block.ranked:  # its agent has gone on without it
            return self._drop(block)
        del self._untold[block.id]
        return self._fell(block)

    def _rank_on_disk(self, block: Block) -> None:
        """What no agent's context has is not ranked there: it is never fetched."""
        if block.disk and block.listed is not None:
            self._eviction.block_used(block, DISK)

    def worth_fetching(self, most: int, now_us: int) -> list[Fetch]:
        """What the policy wants on the host before it is used, the first first: into room that is free, or
        held by copies of what is worth less. Nothing is lost for it, and nothing has changed yet."""
        self._context.now_us = now_us
        self._eviction.tick()
        found: list[Fetch] = []
        room, leaving = self._chunks - len(self), None
        for block in self._eviction.promotable():
            if len(found) == most:
                break
            if block.host or not block.holders or now_us < block.shunned_until_us:
                continue
            record = max(block.holders, key=attrgetter("value")).record
            if len(found) >= room:
                leaving = leaving or self._leaving(record.service_tier)
                victim = next(leaving, None)
                if victim is None or not self._eviction.gives_way_to_promotion(victim, block):
                    break
            found.append(Fetch(block.id, self._caller_of(record), block.meta.depth))
        return found

    def _leaving(self, taker: str) -> Iterator[Block]:
        """In the order in which ``evict`` would choose them."""
        for key in self._eviction.victims(HOST, taker):
            if key in self._free:
                yield self._blocks[key]

    def _caller_of(self, record: AgentRecord) -> Caller:
        caller = self._callers.get((record.tenant, record.agent))
        return caller or Caller(record.tenant, record.service_tier, record.session, record.agent)

    def shun(self, key: BlockId, now_us: int) -> None:
        """A chunk could not be fetched."""
        if (block := self._blocks.get(key)) is not None:
            block.shunned_until_us = now_us + SHUN_US

    def expects(self, now_us: int) -> bool:
        """Whether an agent with a declared return has chunks in a cold tier alone: what they are
        worth rises until then, so that another look pays although nothing happens."""
        self._context.now_us = now_us
        holders = [holder for block in self._eviction.promotable() for holder in block.holders]
        return any(holder.idle is not None and holder.idle.rises(now_us) for holder in holders)

    # --- room ---------------------------------------------------------------------------------

    def evict(
        self, count: int, protected: Collection[BlockId], taker: str, now_us: int
    ) -> Sequence[BlockId] | None:
        """The ``count`` chunks that can best be spared, which are gone with this. None: so many cannot go,
        and nothing has changed. ``taker``: the service tier that needs the room."""
        self._context.now_us = now_us
        if count > len(self._free):
            return None
        self._eviction.tick()
        for one in self._open.values():
            self._tell_context(one)
        chosen: dict[BlockId, None] = {}
        for key in (*self._ranked(count, protected, taker), *self._free):
            if len(chosen) == count:
                break
            if key in self._free and key not in protected:
                chosen[key] = None
        if len(chosen) < count:
            return None
        for key in chosen:
            self.remove(key)
        return list(chosen)

    def _ranked(self, count: int, protected: Collection[BlockId], taker: str) -> Sequence[BlockId]:
        """As far as the policy names what may go. What it does not name is in no context: it goes last."""
        named: dict[BlockId, None] = {}
        for key in self._eviction.victims(HOST, taker):
            if key in self._free and key not in protected:
                named[key] = None
                if len(named) == count:
                    break
        return list(named)

    def check(self) -> None:
        """Assert that the book hangs together."""
        on_host = {key for key, block in self._blocks.items() if block.host}
        assert set(self._free) <= on_host
        assert set(self._cold) | set(self._untold) == set(self._blocks) - on_host
        assert not set(self._cold) & set(self._untold)
        assert not any(self._blocks[key].disk or self._blocks[key].ranked for key in self._untold)
        assert all(self._blocks[key].disk for key in self._cold)
        assert all(block.id == key for key, block in self._blocks.items())
        self._context.now_us = 1 << 60
        named = list(self._eviction.victims(HOST))
        assert len(named) == len(set(named)), "a chunk is named twice"
        assert set(named) <= on_host, "a chunk is named that is not there"
        on_disk = list(self._eviction.victims(DISK))
        assert all(self._blocks[key].disk for key in on_disk), "a chunk is named that no cold tier has"
