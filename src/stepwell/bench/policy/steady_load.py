"""A policy under steady pressure without an engine: agents come back, run and rest, and nothing computes.

Contexts lie on disk first, as after a restart. Then turns arrive so fast that the device is always full:
blocks step down, are written and read, and every step is one that a busy server would take.
"""

from __future__ import annotations

import random
import struct
from collections.abc import Iterator
from dataclasses import dataclass, field

from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import (
    BlockMeta,
    Caller,
    Close,
    Computed,
    Event,
    Hint,
    KvTier,
    Move,
    Moved,
    Open,
    Piece,
    Plan,
    Progressed,
    Recovered,
    Refuse,
    RequestArrived,
    RequestCancelled,
    RequestId,
    Wait,
)

BLOCK_TOKENS, UNIT_TOKENS = 64, 16
TOKEN_BYTES = 23_040  # SmolLM2-135M with an f16 KV cache
DEVICE_PART, HOST_PART = 8, 4  # one eighth of all blocks fits on the device, a quarter in host memory
OPEN_TURNS = 48
ADDED_TOKENS, ANSWER_TOKENS = (32, 256), (64, 432)  # in the agentic trace the median answer is 248
FAMILY = 25  # agents that share their first blocks
SHARED_PART = 16  # of a context
STEP_US, PREFILL_US_PER_TOKEN = 10_000, 80
DISK_US_PER_BLOCK = 700
TENANTS = 8
SERVICE_TIERS = ("priority", "default", "default", "default", "flex")


@dataclass(frozen=True, slots=True)
class PolicySize:
    """How much the policy has to keep in mind."""

    agents: int
    blocks: int

    @property
    def context_tokens(self) -> int:
        """Mean length of a context."""
        return self.blocks * BLOCK_TOKENS // self.agents

    def __str__(self) -> str:
        return f"{self.agents:,} agents, {self.blocks:,} blocks"


@dataclass(slots=True)
class _Agent:
    """A context as the hashes of its units. ``epoch`` changes when a context is cut and goes on anew."""

    number: int
    tokens: int
    units: list[bytes]
    epoch: int = 0

    @property
    def tenant(self) -> str:
        return f"tenant-{self.number // FAMILY % TENANTS}"

    @property
    def name(self) -> str:
        return f"agent-{self.number}"

    def grow(self, tokens: int) -> None:
        self.tokens += tokens
        for index in range(len(self.units), self.tokens // UNIT_TOKENS):
            self.units.append(_name(self.number, self.epoch, index))

    def name_of(self, tokens: int) -> bytes:
        """What names exactly the first ``tokens`` tokens."""
        if tokens % UNIT_TOKENS == 0:
            return self.units[tokens // UNIT_TOKENS - 1]
        return _name(self.number, self.epoch, (1 << 40) + tokens)

    def cut(self, tokens: int) -> None:
        self.epoch += 1
        del self.units[tokens // UNIT_TOKENS :]
        self.tokens = len(self.units) * UNIT_TOKENS


@dataclass(slots=True)
class _Turn:
    agent: _Agent
    computed: int
    last_tokens: int
    """Known tokens when it ends."""


@dataclass(slots=True)
class PolicyLoad:
    """The policy and its world. ``step`` takes one step with what the last one has led to."""

    size: PolicySize
    eviction: str
    seed: int = 20261122
    now_us: int = 1_000_000
    scheduler: Scheduler = field(init=False)
    blocks_moved: int = 0
    """Between KV tiers, in all."""
    turns_ended: int = 0
    _agents: list[_Agent] = field(init=False)
    _resting: list[_Agent] = field(init=False)
    _rng: random.Random = field(init=False)
    _turns: dict[RequestId, _Turn] = field(default_factory=dict)
    _events: list[Event] = field(default_factory=list)
    _requests: int = 0

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._agents = [_Agent(number, 0, []) for number in range(self.size.agents)]
        self._resting = list(self._agents)
        self.scheduler = Scheduler(config_for(self.size, self.eviction))

    # --- filling ------------------------------------------------------------------------------

    def fill(self) -> int:
        """Put every context on disk and let its agent be known; returns how many blocks there are."""
        for agent in self._agents:
            self._begin_context(agent)
            metas = tuple(self._blocks_of(agent))
            events = [*self._events, Recovered(metas), *self._come_and_go(agent)]
            self._events = []
            self.carry_out(self.scheduler.step(self.now_us, events))
            self._adopt(agent, metas)
        return len(self.scheduler.block_manager.index)

    def _begin_context(self, agent: _Agent) -> None:
        mean = self.size.context_tokens
        family = agent.number // FAMILY
        shared = mean // SHARED_PART // BLOCK_TOKENS * BLOCK_TOKENS
        agent.units = [_name((1 << 31) + family, 0, index) for index in range(shared // UNIT_TOKENS)]
        agent.tokens = shared
        agent.grow(self._between((mean // 2, mean + mean // 2)) - shared)

    def _blocks_of(self, agent: _Agent) -> Iterator[BlockMeta]:
        per_block, parent = BLOCK_TOKENS // UNIT_TOKENS, None
        for depth in range(agent.tokens // BLOCK_TOKENS):
            units = tuple(agent.units[depth * per_block : (depth + 1) * per_block])
            size_bytes = BLOCK_TOKENS * TOKEN_BYTES
            yield BlockMeta(units[-1], parent, depth, BLOCK_TOKENS, units, agent.tenant, size_bytes)
            parent = units[-1]

    def _come_and_go(self, agent: _Agent) -> tuple[Event, Event]:
        """A turn that is cancelled at once: from then on the agent is known, and rests."""
        arrived = self._arrival(agent, 1)
        return arrived, RequestCancelled(arrived.request)

    def _adopt(self, agent: _Agent, metas: tuple[BlockMeta, ...]) -> None:
        """What a turn does when it leaves the device: the agent's context is these blocks."""
        record = self.scheduler.agents.records[agent.tenant, agent.name]
        record.path = [self.scheduler.block_manager.index.blocks[meta.id] for meta in metas]
        self.scheduler.block_manager.eviction.agent_continued(record, record.path)
        self.scheduler.block_manager.eviction.agent_idle(record)

    # --- running ------------------------------------------------------------------------------

    def next_events(self) -> list[Event]:
        """What has happened since the last step: transfers ended, tokens came, turns arrived."""
        open_turns = min(OPEN_TURNS, max(1, self.size.agents // 4))
        while len(self._turns) < open_turns:
            self._arrive()
        events, self._events = self._events, []
        return events

    def carry_out(self, plan: Plan) -> None:
        for action in plan.actions:
            match action:
                case Move(block, source, target):
                    self.blocks_moved += 1
                    if KvTier.DEVICE not in (source, target):
                        moved = Moved(block.id, source, target, True, block.size_bytes, DISK_US_PER_BLOCK)
                        self._events.append(moved)
                case Open(request, _, cached_tokens):
                    self._turns[request].computed = cached_tokens
                case Close() | Refuse():
                    pass
        self._run(plan.batch)

    def _run(self, batch: tuple[Piece, ...]) -> None:
        prefill = sum(piece.count for piece in batch if piece.count > 1)
        depth = sum(piece.count * piece.start + piece.count**2 // 2 for piece in batch)
        duration_us = STEP_US + prefill * PREFILL_US_PER_TOKEN
        self.now_us += duration_us
        if batch:
            self._events.append(Computed(prefill, len(batch), depth, duration_us))
        for piece in batch:
            self._events.append(self._progress(piece))

    def _progress(self, piece: Piece) -> Progressed:
        turn = self._turns[piece.request]
        agent = turn.agent
        turn.computed = piece.start + piece.count
        known = len(agent.units)
        if turn.computed == agent.tokens:
            agent.grow(1)
        ended = agent.tokens >= turn.last_tokens
        if ended:
            del self._turns[piece.request]
            self._resting.append(agent)
            self.turns_ended += 1
        tail = agent.name_of(turn.computed)
        news = tuple(agent.units[known:])
        return Progressed(piece.request, turn.computed, agent.tokens, news, tail, "stop" if ended else None)

    def _arrive(self) -> None:
        """Most turns belong to agents that have just rested, some to those that were long away."""
        place = int(len(self._resting) * self._rng.random() ** 3)
        agent = self._resting.pop(len(self._resting) - 1 - place)
        if agent.tokens > self.size.context_tokens * 3 // 2:
            agent.cut(self.size.context_tokens * 3 // 4)
        agent.grow(self._between(ADDED_TOKENS))
        answer_tokens = self._between(ANSWER_TOKENS)
        arrived = self._arrival(agent, answer_tokens)
        self._turns[arrived.request] = _Turn(agent, 0, agent.tokens + answer_tokens)
        self._events.append(arrived)

    def _arrival(self, agent: _Agent, answer_tokens: int) -> RequestArrived:
        self._requests += 1
        said = self._rng.random() < 0.5
        hint = Hint(Wait.TOOL, self._between((100_000, 20_000_000))) if said else Hint()
        return RequestArrived(
            self._requests,
            Caller(
                agent.tenant,
                SERVICE_TIERS[agent.number % len(SERVICE_TIERS)],
                f"session-{agent.number // FAMILY}",
                agent.name,
                role=f"role-{agent.number % 5}",
            ),
            agent.tokens,
            answer_tokens,
            tuple(agent.units),
            hint=hint,
        )

    def _between(self, bounds: tuple[int, int]) -> int:
        return bounds[0] + int(self._rng.random() * (bounds[1] - bounds[0] + 1))

    @property
    def full(self) -> bool:
        """Whether device and host have no room left, so that every newcomer displaces another agent."""
        config, memory = self.scheduler.config, self.scheduler.block_manager
        device_full = memory.device_used * 20 > config.device_blocks * 19
        return device_full and memory.host_used * 20 > config.host_bytes * 19


def config_for(size: PolicySize, eviction: str) -> PolicyConfig:
    """A machine on which everything fits on disk, and little above it; all else as a server has it."""
    block_bytes = BLOCK_TOKENS * TOKEN_BYTES
    return PolicyConfig(
        block_tokens=BLOCK_TOKENS,
        unit_tokens=UNIT_TOKENS,
        device_blocks=size.blocks // DEVICE_PART,
        block_bytes=block_bytes,
        token_bytes=TOKEN_BYTES,
        host_bytes=size.blocks // HOST_PART * block_bytes,
        disk_bytes=size.blocks * 5 // 4 * block_bytes,
        max_agents=max(10_000, size.agents),
        eviction=eviction,
    )


def _name(owner: int, epoch: int, index: int) -> bytes:
    """16 bytes that no other prefix has; what a chained hash would be."""
    return struct.pack("<IIQ", owner, epoch, index)
