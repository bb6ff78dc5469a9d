"""Running states on the device are a resource of their own: the engine holds so many and no more.

A large model's state is as heavy as thousands of tokens of KV, so the device has room for a state in some of
its frames and not in all. Only going on from a block takes its state; while a turn runs, those of its path
are not used. So a state leaves the device by itself, and its block stays (*bare*): the state lies on the host
or on disk with the rest of the block, and comes up again when a turn goes on from there. Where nothing
below takes it, the block goes on without (``BlockMeta.size_bytes`` says so from then on).

    held     states of blocks on the device
    pending  states that running turns were told to keep, of blocks that are not sealed yet

One place is never promised to a turn that runs: so one that is opened always finds room for its state.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from stepwell.policy.block_index import Block
from stepwell.policy.types import BlockId, DropState, KvTier, LoadState, RequestId, StateLost

if TYPE_CHECKING:
    from stepwell.policy.block_manager import BlockManager

_SHUN_US: Final = 250_000
"""After a state that did not load, and twice as long after the next."""


class DeviceStates:
    """Counts states. ``limited``: whether there are fewer places than blocks; else nothing here decides."""

    def __init__(self, memory: BlockManager) -> None:
        self.memory = memory
        self.config = memory.config
        self.limited = memory.config.checkpoints and memory.config.device_states > 0
        self.held: dict[BlockId, Block] = {}
        self.pending: dict[RequestId, int] = {}

    # --- what is there ------------------------------------------------------------------------

    def keeps(self, block: Block) -> bool:
        """Whether the block keeps a state, wherever it lies."""
        return self.config.keeps_state(block.meta.size_bytes, block.meta.n_tokens)

    def placed(self, block: Block, present: bool) -> None:
        """A block has come to the device as it is, or has gone from it."""
        if not self.limited:
            return
        block.bare = False
        if present and self.keeps(block):
            self.held[block.id] = block
        else:
            self.held.pop(block.id, None)

    def changed(self, block: Block) -> None:
        """A block on the device keeps a state now that it did not, or the other way round."""
        self.placed(block, block.device)

    def copy_went(self, block: Block) -> None:
        """A copy below the device has gone. If it was the last one with the state, the block has none now."""
        if block.bare and not (block.host or block.disk or block.moving):
            self._goes_on_without(block)

    def _goes_on_without(self, block: Block) -> None:
        block.bare = False
        size_bytes = block.meta.size_bytes - self.config.checkpoint_bytes
        block.meta = replace(block.meta, size_bytes=size_bytes)

    # --- room ---------------------------------------------------------------------------------

    @property
    def free(self) -> int:
        """Places that no block has."""
        return self.config.device_states - len(self.held) - sum(self.pending.values())

    def promise(self, request: RequestId) -> bool:
        """A place for a state that a running turn will keep; False: it has to do without."""
        if not self.limited:
            return True
        if sum(self.pending.values()) + 1 >= self.config.device_states or not self.make_room():
            return False
        self.pending[request] = self.pending.get(request, 0) + 1
        return True

    def pends(self, request: RequestId, count: int) -> None:
        """A running turn has so many states that no block has yet."""
        if self.limited and count:
            self.pending[request] = count
        else:
            self.pending.pop(request, None)

    def make_room(self, spared: Block | None = None) -> bool:
        """A free place, if need be that of a state which leaves; ``spared`` keeps its own."""
        while self.limited and self.free < 1:
            others = [block for block in self.held.values() if block is not spared]
            if not others:
                return False
            self.leave(min(others, key=self._worth))
        return True

    def _worth(self, block: Block) -> tuple[bool, bool, bool, int, int, BlockId]:
        """Smaller leaves first: what no turn wants; what lies in the middle of a path, where none part; what
        waits for no other agent; the coldest."""
        memory = self.memory
        between = block.device_children == 1
        claimed = block.claims > 0 and not (block.host or block.disk)
        dead = memory.eviction.is_dead(block)
        return not dead, claimed, not between, block.last_use_us, -block.meta.depth, block.id

    def leave(self, block: Block) -> None:
        """The block stays on the device without its state, which lies below from now on, or nowhere."""
        if not self.limited or block.id not in self.held:
            return
        memory = self.memory
        below = block.host or block.disk or memory.copy_to_host(block)
        memory.actions.append(DropState(block.id))
        del self.held[block.id]
        if below:
            memory.set_bare(block, True)
        else:
            self._goes_on_without(block)

    # --- going on from a block ----------------------------------------------------------------

    def load(self, block: Block) -> None:
        """Bring the state of a bare block up from the host; the caller has made room."""
        assert block.bare and block.host
        self.memory.actions.append(LoadState(block.meta))
        self.memory.set_bare(block, False)
        self.held[block.id] = block

    def gets(self, block: Block) -> None:
        """A bare block on the device has been given the state of a turn that stands at its end."""
        self.memory.set_bare(block, False)
        self.held[block.id] = block

    def lost(self, event: StateLost) -> None:
        """A state did not come up."""
        memory, block = self.memory, self.memory.index.get(event.block)
        if block is None:
            return
        if self.held.pop(block.id, None) is not None:
            memory.set_bare(block, True)
        block.failed_loads += 1
        block.unloadable_until_us = self.memory.now_us + (_SHUN_US << block.failed_loads)
        if event.gone and block.failed_loads > 2 and block.host and block.moving is None:
            memory.drop(block, KvTier.HOST)
        self.copy_went(block)

    # --- invariants ---------------------------------------------------------------------------

    def check(self, blocks: Iterable[Block]) -> None:
        """Assert that the count is right and within what the engine holds."""
        bare = [block for block in blocks if block.bare]
        assert all(b.device and self.keeps(b) and (b.host or b.disk or b.moving) for b in bare)
        assert self.limited or not (bare or self.held or self.pending)
        if self.limited:
            there = [b.id for b in blocks if b.device and not b.bare and self.keeps(b)]
            assert sorted(there) == sorted(self.held)
            assert self.free >= 0, "more states on the device than the engine holds"
