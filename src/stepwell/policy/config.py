"""What the policy is told about the machine and about its own limits. Integers only."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from stepwell.policy.contracts import DEFAULT_CONTRACTS, Contract, validate_contracts

FIRST_COME_FIRST_SERVED: Final = frozenset(
    {"arc", "idleness", "lru", "oracle", "priority-lru", "steps", "ttl"}
)
"""Eviction policies that stand for servers without contracts."""


@dataclass(slots=True)
class PolicyConfig:
    """Sizes are bytes, counts are counts; everything that decides is in here or in an event.

    It never changes, but for the two bounds in a scheduler's own copy, see ``Resized``.
    """

    block_tokens: int
    unit_tokens: int
    """Granularity at which prompts may share part of a block; divides ``block_tokens``."""
    device_blocks: int
    block_bytes: int
    token_bytes: int
    host_bytes: int
    disk_bytes: int
    disk_overhead_bytes: int = 0
    """Most that one block takes on disk beyond its own size."""
    context_tokens: int = 1 << 30
    max_running: int = 32
    max_waiting: int = 1024
    step_tokens: int = 256
    """Tokens per engine step. Larger fills prompts faster and makes streams stutter more."""
    reserve_tokens: int = 64
    """Room set aside at admission for what a request will generate; growing past it may preempt."""
    scan_waiting: int = 8
    """How far behind the head of the queue a step looks, and fetches from disk for."""
    disk_writes_in_flight: int = 8
    disk_reads_in_flight: int = 64
    max_agents: int = 10_000
    max_ghost_units: int = 200_000
    """How many hashes of lost units are remembered, to count what is computed twice."""
    always_load: bool = False
    """Skip the load-or-recompute gate: copies are made and loaded at any price (the exactness benchmark)."""
    eviction: str = "stepwell"
    """The eviction policy by name; ``policy/eviction/__init__.py`` lists them."""
    contracts: tuple[Contract, ...] = DEFAULT_CONTRACTS
    disk_write_bytes_per_day: int | None = None
    """Most bytes written to disk in a day, spread evenly with a tenth of a day in advance; None: no limit."""

    draft_tokens: int = 0
    """Most drafted tokens that one turn has checked in a step; 0: none, see ``drafting``."""
    step_draft_tokens: int = 0
    """Most tokens of a step that checks any: a larger one may round otherwise than plain decoding."""
    depth_frames: int = 0
    """How many frames may hold blocks of one depth at a time; 0: any number. See ``depth_limit.py``."""

    checkpoint_bytes: int = 0
    """Of ``block_bytes``: the running state at a block's end, of models that have one (``checkpoints``)."""
    device_states: int = 0
    """How many running states the device holds at a time; 0: one for every block. See ``device_states``."""
    checkpoint_growth: int = 8
    """Between the ends of turns a state is kept no nearer to the one before than this part of its depth: an
    eighth. 0: every block keeps one."""

    def __post_init__(self) -> None:
        if self.block_tokens % self.unit_tokens:
            raise ValueError("unit_tokens must divide block_tokens")
        if self.device_blocks < 1 or self.step_tokens < 1 or self.max_running < 1:
            raise ValueError("device_blocks, step_tokens and max_running must be at least 1")
        if self.host_bytes < 0 or self.disk_bytes < 0:
            raise ValueError("host_bytes and disk_bytes must not be negative")
        validate_contracts(self.contracts)

    @property
    def units_per_block(self) -> int:
        return self.block_tokens // self.unit_tokens

    @property
    def ordered(self) -> bool:
        """Whether contracts order the queue and the batch. Only under Stepwell's own eviction policy: what
        the baselines stand for serves first come, first served."""
        return self.eviction not in FIRST_COME_FIRST_SERVED

    def blocks_for(self, tokens: int) -> int:
        """Frames that ``tokens`` tokens of one sequence take."""
        return -(-tokens // self.block_tokens)

    @property
    def checkpoints(self) -> bool:
        """Whether there are running states, which blocks keep or do not."""
        return self.checkpoint_bytes > 0

    def keeps_state(self, size_bytes: int, tokens: int) -> bool:
        """Whether a block of so many bytes and tokens keeps a running state."""
        return self.checkpoint_bytes > 0 and size_bytes >= self.size_of(tokens)

    def size_of(self, tokens: int) -> int:
        """Bytes of a stored block of ``tokens`` tokens, with its running state; never less than its real
        size."""
        return self.block_bytes - (self.block_tokens - tokens) * self.token_bytes

    def disk_size_of(self, size_bytes: int) -> int:
        return size_bytes + self.disk_overhead_bytes
