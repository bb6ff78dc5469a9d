"""Checkpoints: at the end of which blocks the running state of a model is kept, for models that have one.

State-space layers, delta nets, RWKV and short convolutions keep a state per sequence, at its newest token
only. A prompt can go on from a stored prefix only where that state was kept, and a large model's is as heavy
as thousands of tokens of KV. So a block's attention is kept always, and its state only

    at ends      of a prompt's last whole block, and of the last whole block of a turn
    at branches  where another prompt leaves a stored prefix, or one that is being computed now
    between      where computing from the state before costs no less than computing the KV that the state
                 displaces, and no nearer than an eighth of the way (``checkpoint_growth``)

What stands behind the deepest state of a path is computed again, and grafted: the turn gives its frames back
and goes on with the blocks that are there (``Adopt``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from stepwell.policy.block_index import Block, Match
from stepwell.policy.block_manager import BlockManager
from stepwell.policy.config import PolicyConfig
from stepwell.policy.costs import Step
from stepwell.policy.turns import Turn
from stepwell.policy.types import Adopt, BlockId, BlockMeta, KeepState, KvTier, Piece, RequestId


class Checkpoints:
    """The rules, over the blocks of one ``BlockManager``. Nothing here is asked of a model without states."""

    def __init__(self, config: PolicyConfig, block_manager: BlockManager) -> None:
        self.active = config.checkpoints
        self.config = config
        self.block_manager = block_manager
        self.wanted: dict[BlockId, None] = {}
        """Blocks that are being computed, at whose end another prompt will part."""

    # --- what is stored -----------------------------------------------------------------------

    def kept_by(self, meta: BlockMeta) -> bool:
        """Whether the block keeps a state."""
        return self.config.keeps_state(meta.size_bytes, meta.n_tokens)

    def usable(self, path: list[Match]) -> list[Match]:
        """As much of a path as a turn can go on from: it ends where a state is kept."""
        count = len(path)
        while self.active and count and not self.kept_by(path[count - 1].block.meta):
            count -= 1
        return path[:count]

    def strides(self, path: Sequence[Match], steps: Sequence[Step]) -> list[Step]:
        """What the gate of ``costs`` may choose between: from each state to the next."""
        strides: list[Step] = []
        tokens, load_us = 0, 0
        for match, step in zip(path, steps, strict=True):
            tokens, load_us = tokens + step[0], load_us + step[1]
            if self.kept_by(match.block.meta):
                strides.append((tokens, load_us))
                tokens, load_us = 0, 0
        return strides

    def first_strides(self, path: list[Match], count: int) -> list[Match]:
        """The path as far as its first ``count`` strides go."""
        for length, match in enumerate(path, start=1):
            count -= self.kept_by(match.block.meta)
            if count < 0:
                return path[: length - 1]
        return path

    # --- which turn waits for which -------------------------------------------------------------------

    def computed_by(self, turn: Turn, promised: dict[BlockId, RequestId]) -> RequestId:
        """The request that is computing what ``turn`` will begin with, the state at the end of what is
        stored of its prompt included; the turn itself: none is. It is made to keep a state where they part.
        """
        block_tokens, names = self.config.block_tokens, turn.units
        reach = turn.stored_tokens // block_tokens
        if reach and turn.planned_tokens < turn.stored_tokens and names[reach - 1] in promised:
            return promised[names[reach - 1]]
        by = promised.get(names[reach], turn.id) if reach < len(names) else turn.id
        last = reach
        while last < (turn.total - 1) // block_tokens and promised.get(names[last]) == by:
            last += 1
        if last > reach:
            self.wanted[names[last - 1]] = None
        return by if last > reach else turn.id

    # --- what a turn keeps --------------------------------------------------------------------

    def opened(self, turn: Turn, cached: int) -> None:
        """The turn goes on from ``cached`` tokens."""
        whole = len(self.block_manager.index.walk(turn.units, turn.total - 1)) * self.config.block_tokens
        turn.branch_tokens = whole if whole > cached else 0
        turn.keeps, turn.state_tokens, turn.behind = [], cached, False
        self.count(turn)

    def count(self, turn: Turn) -> None:
        """How many states the turn keeps on the device for blocks that are not sealed."""
        sealed = len(turn.path) * self.config.block_tokens
        self.block_manager.states.pends(turn.id, len([end for end in turn.keeps if end > sealed]))

    def plan(self, turn: Turn, piece: Piece) -> None:
        """Tell the engine where to keep the turn's state in a piece of its prompt. A turn that writes keeps
        it at the end of every block until the next one is full: it may end there."""
        block_tokens, end = self.config.block_tokens, self._end_behind(piece.start)
        last = end if not turn.prefilling else piece.start + piece.count
        while end <= last:
            told = turn.keeps and turn.keeps[-1] >= end
            wants = not told and (end > self._prompt_end(turn) or self._wants(turn, end))
            if wants and self.block_manager.states.promise(turn.id):
                turn.keeps.append(end)
                self.block_manager.actions.append(KeepState(turn.id, end))
                if end <= self._prompt_end(turn):
                    turn.state_tokens = end
            end += block_tokens

    def piece_tokens(self, turn: Turn, count: int) -> int:
        """A piece through a block that is stored ends where that does, so that it can be adopted. (Also below
        the device: where KV lies changes no batch, or it would change how sums are rounded.)"""
        end = self._end_behind(turn.computed)
        return count if self._named(turn, end) is None else min(count, end - turn.computed)

    def _end_behind(self, tokens: int) -> int:
        return (tokens // self.config.block_tokens + 1) * self.config.block_tokens

    def _prompt_end(self, turn: Turn) -> int:
        """The end of the last whole block of what it knew when it was opened."""
        return turn.opened_at // self.config.block_tokens * self.config.block_tokens

    def _named(self, turn: Turn, end: int) -> Block | None:
        """The stored block that ends after so many of the turn's tokens."""
        depth = end // self.config.block_tokens - 1
        return self.block_manager.index.get(turn.units[depth]) if depth < len(turn.units) else None

    def _wants(self, turn: Turn, end: int) -> bool:
        """Whether a state is to be kept where the turn passes by."""
        if end in (self._prompt_end(turn), turn.branch_tokens) or end - turn.state_tokens >= self._gap(end):
            return True
        known = self._named(turn, end)
        return turn.units[end // self.config.block_tokens - 1] in self.wanted or (
            known is not None and self.kept_by(known.meta)
        )

    def _gap(self, end: int) -> int:
        """Tokens that a state between ends has to spare. Its bytes are KV of so many tokens that have to go
        for it; where there is next to no KV, what goes are other contexts' states, and the distance doubles.
        """
        config = self.config
        if not config.checkpoint_growth:
            return config.block_tokens
        displaced = config.checkpoint_bytes // config.token_bytes
        if displaced >= config.context_tokens:
            displaced = end // 2
        return max(config.block_tokens, displaced, end // config.checkpoint_growth)

    # --- sealing ------------------------------------------------------------------------------

    def defers(self, turn: Turn) -> bool:
        """Whether the next full block of a turn is not sealed yet. What the turn writes is sealed when the
        block behind it is full: only then is it known that the turn does not end there. A block that is on
        its way between host and disk and is to have a state waits until it is there."""
        end = (len(turn.path) + 1) * self.config.block_tokens
        known = self._named(turn, end)
        if known is not None and known.moving and end in turn.keeps and not self.kept_by(known.meta):
            return True
        if end <= self._prompt_end(turn) or end + self.config.block_tokens <= turn.computed:
            return False
        return known is None or not known.device or end != turn.computed

    def size_for(self, turn: Turn, known: Block | None, n_tokens: int) -> int | None:
        """Bytes of the block that the turn seals next, with a state or without; None: it cannot, because a
        copy that lies below the device keeps one and the turn has none."""
        end = len(turn.path) * self.config.block_tokens + n_tokens
        tail = n_tokens < self.config.block_tokens
        has = self.block_manager.states.make_room() if tail else end in turn.keeps
        keeps = has and (tail or end <= self._prompt_end(turn) or self._keeps_written(turn, end))
        if known is not None and self.kept_by(known.meta):
            if not has:
                return None
            keeps = True
        elif known is not None and keeps:
            keeps = self.can_gain(known)
        if keeps:
            turn.state_tokens = end
        full_bytes = self.config.size_of(n_tokens)
        return full_bytes if keeps else full_bytes - self.config.checkpoint_bytes

    def _keeps_written(self, turn: Turn, end: int) -> bool:
        """Of a block that the turn wrote: it is its last one, or far enough from the one before."""
        is_last = end + self.config.block_tokens > turn.computed
        return is_last or end - turn.state_tokens >= self._gap(end)

    @staticmethod
    def can_gain(block: Block) -> bool:
        """Whether a block can be given a state: copies below the device have none and can go."""
        return not (block.moving or (block.claims and (block.host or block.disk)))

    def give(self, block: Block, meta: BlockMeta) -> None:
        """The block, which lies on the device, is ``meta`` from now on."""
        if block.meta.size_bytes == meta.size_bytes:
            return
        if block.host:
            self.block_manager.evict_from_host(block)
        if block.disk:
            self.block_manager.evict_from_disk(block)
        block.meta = meta
        self.block_manager.states.changed(block)

    def adopt(self, turn: Turn, known: Block) -> bool:
        """Go on with a block of the same name in place of the turn's own frame; False if it is too late."""
        end = (len(turn.path) + 1) * self.config.block_tokens
        if not known.device or turn.computed != end or turn.frames != 1:
            return False
        told = end in turn.keeps
        if told and known.bare:
            self.block_manager.states.gets(known)
        elif told and not self.kept_by(known.meta) and self.can_gain(known):
            self.give(known, replace(known.meta, size_bytes=self.config.block_bytes))
        self.block_manager.actions.append(Adopt(turn.id, known.meta))
        self.block_manager.pin(known)
        self.block_manager.give_frames(1)
        self.block_manager.eviction.block_used(known, KvTier.DEVICE)
        turn.path.append(known)
        turn.frames -= 1
        if self.kept_by(known.meta):
            turn.state_tokens = end
        self.count(turn)
        return True
