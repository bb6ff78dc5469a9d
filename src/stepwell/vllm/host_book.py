"""The book of vLLM's host memory, kept by Stepwell's own eviction policy. Knows nothing of vLLM.

vLLM tells of single chunks and of requests; the policy thinks in agents and their contexts. In this book,
between them, a chunk is a block on the host, a request is a turn of the agent that its owner names, and the
chunks a request has used, in the order of its prompt, are that agent's context.

    vLLM                          policy
    first word of a request       the agent is active
    chunk stored, chunk used      the block has come, was used; it is part of the context
    request finished              the agent is idle, and waits for what its hint says
    room for n chunks             the n blocks that can best be spared
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, field

from stepwell.policy.block_index import Block
from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import Costs
from stepwell.policy.eviction import EvictionContext, make_eviction
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import BlockId, BlockMeta, Caller, Hint, KvTier

_TOKENS = 32
"""Of a chunk, for the policy: only ratios of depths decide."""
_MOST_AGENTS = 10_000
HOST = KvTier.HOST
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


class HostBook:
    """Which chunks are in host memory, whose they are, and which go first. ``now_us`` never goes back."""

    def __init__(self, chunks: int, *, eviction: str = "stepwell", disk: bool = True) -> None:
        config = PolicyConfig(
            _TOKENS, _TOKENS, 1, _TOKENS, 1, chunks * _TOKENS, chunks * _TOKENS * 100 if disk else 0
        )
        self._eviction_name, self._config = eviction, config
        self.clear()

    def clear(self) -> None:
        """Nothing is there and nobody is known."""
        self._eviction = make_eviction(self._eviction_name, EvictionContext(self._config, Costs()))
        self._blocks: dict[BlockId, Block] = {}
        self._free: dict[BlockId, None] = {}
        """Chunks that no transfer uses, in the order in which they became so."""
        self._open: dict[str, _Open] = {}
        self._records: OrderedDict[tuple[str, str], AgentRecord] = OrderedDict()
        self._unnamed = 0

    def __contains__(self, key: BlockId) -> bool:
        return key in self._blocks

    def __len__(self) -> int:
        return len(self._blocks)

    # --- requests -----------------------------------------------------------------------------

    def begin(self, request: str, caller: Caller, hint: Hint, now_us: int) -> None:
        """A request is heard of. Again: nothing happens."""
        if request in self._open:
            return
        self._unnamed += 1
        record = self._record(caller)
        record.idle_since_us = None
        record.open_turns[self._unnamed] = None
        self._open[request] = _Open(record, hint)
        self._eviction.agent_active(record, now_us)

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
        return record

    def _forget_oldest(self) -> None:
        if len(self._records) <= _MOST_AGENTS:
            return
        oldest = next((key for key, record in self._records.items() if not record.open_turns), None)
        if oldest is not None:
            self._eviction.agent_forgotten(self._records.pop(oldest))

    def used(self, request: str, keys: Iterable[tuple[BlockId, Position]], now_us: int) -> None:
        """A request uses chunks, or is about to store them: they belong to its context."""
        one = self._open.get(request)
        path = []
        for key, position in keys:
            if one is not None:
                one.positions[key] = position
                one.grown = True
            if (block := self._blocks.get(key)) is not None:
                block.last_use_us = now_us
                path.append(block)
        self._eviction.path_used(path, now_us)

    def finish(self, request: str, now_us: int) -> None:
        """The agent has its answer, and is idle unless another turn of it is open."""
        one = self._open.get(request)
        if one is None:
            return
        self._tell_context(one, now_us)
        del self._open[request]
        record = one.record
        record.open_turns.pop(next(iter(record.open_turns)))
        record.turns += 1
        record.hint = one.hint
        if not record.open_turns:
            record.idle_since_us = record.last_use_us = now_us
            self._eviction.agent_idle(record, now_us)
        if record.unknown:  # nobody comes back under a name that we made up
            del self._records[record.tenant, record.agent]

    def _tell_context(self, one: _Open, now_us: int) -> None:
        if one.grown:
            one.grown = False
            order = sorted(one.positions, key=lambda key: (one.positions[key], key))
            path = [self._blocks[key] for key in order if key in self._blocks]
            self._eviction.agent_continued(one.record, path, now_us)

    # --- chunks -------------------------------------------------------------------------------

    def insert(self, key: BlockId, request: str, now_us: int) -> None:
        """A chunk has got its place; it is written to and cannot go yet."""
        one = self._open.get(request)
        if one is not None and key not in one.positions:
            one = None  # vLLM has not said for whom it is
        position = (0, 0) if one is None else one.positions[key]
        tenant = "" if one is None else one.record.tenant
        depth = position[0] // _TOKENS
        parent = None if depth == 0 else b"\0"
        block = Block(BlockMeta(key, parent, depth, _TOKENS, (key,), tenant, _TOKENS))
        block.host, block.last_use_us, block.pins = True, now_us, 1
        self._blocks[key] = block
        self._eviction.block_used(block, HOST, now_us)
        if one is not None:
            one.grown = True

    def free(self, key: BlockId, now_us: int) -> None:
        """No transfer uses the chunk: it may go."""
        block = self._blocks[key]
        self._free[key] = None
        if block.pins:
            block.pins = 0
            if block.listed is None and not block.holders:
                self._eviction.path_used([block], now_us)

    def busy(self, key: BlockId) -> None:
        """A transfer uses the chunk: it must stay."""
        self._free.pop(key, None)

    def remove(self, key: BlockId) -> None:
        """The chunk is gone for another reason than room."""
        block = self._blocks.pop(key, None)
        if block is None:
            return
        self._free.pop(key, None)
        self._eviction.block_left(block, HOST)
        block.host = False

    def evict(
        self, count: int, protected: Collection[BlockId], taker: str, now_us: int
    ) -> Sequence[BlockId] | None:
        """The ``count`` chunks that can best be spared, which are gone with this. None: so many cannot go,
        and nothing has changed. ``taker``: the service tier that needs the room."""
        if count > len(self._free):
            return None
        self._eviction.tick(now_us)
        for one in self._open.values():
            self._tell_context(one, now_us)
        chosen: dict[BlockId, None] = {}
        for key in (*self._ranked(count, protected, taker, now_us), *self._free):
            if len(chosen) == count:
                break
            if key in self._free and key not in protected:
                chosen[key] = None
        if len(chosen) < count:
            return None
        for key in chosen:
            self.remove(key)
        return list(chosen)

    def _ranked(
        self, count: int, protected: Collection[BlockId], taker: str, now_us: int
    ) -> Sequence[BlockId]:
        """As far as the policy names what may go. What it does not name is in no context: it goes last."""
        named: dict[BlockId, None] = {}
        for key in self._eviction.victims(HOST, now_us, taker):
            if key in self._free and key not in protected:
                named[key] = None
                if len(named) == count:
                    break
        return list(named)

    def check(self) -> None:
        """Assert that the book hangs together."""
        assert set(self._free) <= set(self._blocks)
        assert all(block.host and block.id == key for key, block in self._blocks.items())
        named = list(self._eviction.victims(HOST, 1 << 60))
        assert len(named) == len(set(named)), "a chunk is named twice"
        assert set(named) <= set(self._blocks), "a chunk is named that is not there"
