"""The seam at which placement is decided: which block leaves a KV tier when room is needed.

The machine tells a placement what is used and which agents rest, and asks it for victims; blocks
that must stay (pinned, claimed, moving) it passes over by itself. The yardsticks and Stepwell's own
rule stand behind this seam, by name, and nothing else differs between them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import Costs
from stepwell.policy.index import Block
from stepwell.policy.turns import AgentRecord
from stepwell.policy.types import BlockId, KvTier

Future = Callable[[Block, int], int | None]
"""``(block, now_us) -> when it will really be used next``; None: never again. Only a simulation has one."""


@dataclass(slots=True)
class Outlook:
    """What a placement may look at besides what it is told."""

    config: PolicyConfig
    costs: Costs
    waiting: int = 0
    """Turns in the queue now."""
    future: Future | None = None


class Placement(Protocol):
    """Ranks the blocks of each KV tier by how well they can be spared."""

    orders_compute: bool
    """Whether contracts order who runs as well; False: first come, first served."""

    def used(self, block: Block, kv_tier: KvTier, now_us: int) -> None:
        """The block has come to ``kv_tier``, or (``PlainPlacement``) has been used while there."""

    def touched(self, path: Sequence[Block], now_us: int) -> None:
        """A turn has begun with this path (root first), or has left the device with it."""

    def left(self, block: Block, kv_tier: KvTier) -> None:
        """The block is no longer in ``kv_tier``."""

    def victims(self, kv_tier: KvTier, now_us: int, taker: str = "") -> Iterator[BlockId]:
        """Blocks of ``kv_tier``, the one that can best be spared first.

        ``taker`` is the service tier that wants the room; empty: nobody in particular.
        """

    def outranks(self, block: Block, other: Block, kv_tier: KvTier, now_us: int, margin: int = 1) -> bool:
        """Whether ``block`` is worth more than ``margin`` times what ``other`` is, on ``kv_tier``."""

    def withheld(self, kv_tier: KvTier, taker: str) -> int:
        """Blocks of room that ``taker`` must not count on: what others are guaranteed."""

    def wants_disk(self, block: Block, now_us: int) -> bool:
        """Whether a block that leaves host memory is worth writing to disk."""

    def continued(self, holder: AgentRecord, path: Sequence[Block], now_us: int) -> None:
        """The agent's context is now ``path`` (root first); blocks of an earlier path it may have left."""

    def works(self, holder: AgentRecord, now_us: int) -> None:
        """A turn of the agent has arrived: its rest is over."""

    def rests(self, holder: AgentRecord, now_us: int) -> None:
        """The agent's last open turn has ended, or more is known about what it waits for."""

    def forgotten(self, holder: AgentRecord) -> None:
        """The agent's record is dropped; its blocks are nobody's."""

    def promotable(self, now_us: int) -> Iterator[Block]:
        """Blocks on disk that are worth a place in host memory now, the most valuable first."""

    def tick(self, now_us: int) -> None:
        """Time has passed. Called once a step, before anything is decided."""

    def wake_at_us(self) -> int | None:
        """When the ranking changes by itself next, so that something may be promoted."""

    def expectation(self, holder: AgentRecord, now_us: int) -> tuple[int | None, str]:
        """When the agent's next turn is expected (None: nobody knows), and why, in one plain sentence."""


class PlainPlacement:
    """A placement that looks at blocks alone: everything about agents passes it by."""

    orders_compute = False

    def __init__(self, outlook: Outlook) -> None:
        self.outlook = outlook

    def used(self, block: Block, kv_tier: KvTier, now_us: int) -> None:
        """What ``touched`` tells block by block; every plain placement has its own."""
        raise NotImplementedError

    def touched(self, path: Sequence[Block], now_us: int) -> None:
        """Deepest block first, so that among equals the leaves go before the root."""
        for block in reversed(path):
            for kv_tier in KvTier:
                if block.is_on(kv_tier):
                    self.used(block, kv_tier, now_us)

    def outranks(self, block: Block, other: Block, kv_tier: KvTier, now_us: int, margin: int = 1) -> bool:
        """Later used is worth more; of one path the root is worth more than its leaves."""
        if kv_tier is KvTier.HOST:
            return True
        return (block.last_use_us, -block.meta.depth) > (other.last_use_us, -other.meta.depth)

    def withheld(self, kv_tier: KvTier, taker: str) -> int:
        return 0

    def wants_disk(self, block: Block, now_us: int) -> bool:
        return True

    def continued(self, holder: AgentRecord, path: Sequence[Block], now_us: int) -> None:
        """Nothing to note."""

    def works(self, holder: AgentRecord, now_us: int) -> None:
        """Nothing to note."""

    def rests(self, holder: AgentRecord, now_us: int) -> None:
        """Nothing to note."""

    def forgotten(self, holder: AgentRecord) -> None:
        """Nothing to note."""

    def promotable(self, now_us: int) -> Iterator[Block]:
        return iter(())

    def tick(self, now_us: int) -> None:
        """Nothing changes by itself."""

    def wake_at_us(self) -> int | None:
        return None

    def expectation(self, holder: AgentRecord, now_us: int) -> tuple[int | None, str]:
        return None, ""
