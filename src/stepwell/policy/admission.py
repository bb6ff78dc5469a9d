"""Admission: first come, first served. Who gets a place on the device, and what is loaded for it."""

from __future__ import annotations

from collections.abc import Sequence

from stepwell.policy.board import Board
from stepwell.policy.costs import best_cut
from stepwell.policy.index import Block, Match
from stepwell.policy.memory import blocks_of, ids_of
from stepwell.policy.turns import Turn, TurnState
from stepwell.policy.types import KvTier, Open


class Admission:
    """Opens waiting turns as long as they fit beside those that run."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.config = board.config
        self.memory = board.memory
        self.recomputed_tokens = 0

    def admit(self) -> None:
        """First come, first served. Who waits for disk or for another's prefix lets others pass;
        who waits for room does not, or large requests would starve. Blocks that wait on the host for
        turns in the queue may take half of it, or they would drive out what has just come down."""
        blocked = False
        budget_bytes = self.config.host_bytes // 2
        window = self.board.waiting[: self.config.scan_waiting]
        for position, request in enumerate(window):
            if position and budget_bytes <= 0:
                window = window[:position]
                break
            turn = self.board.turns[request]
            path = self._usable_path(turn)
            budget_bytes -= sum(m.block.meta.size_bytes for m in path if not m.block.device)
            if self._must_wait(turn, path):
                continue
            if blocked or len(self.board.running) >= self.config.max_running:
                blocked = True
                continue
            blocked = not self._try_open(turn, path)
        self.board.release_claims_beyond(window)

    def _usable_path(self, turn: Turn) -> list[Match]:
        """The stored path as far as loading it beats recomputing and its bytes can be had."""
        path = self.board.stored_path(turn)
        if not self.config.always_load:
            path = path[: best_cut(self.memory.steps(path), turn.total, self.memory.costs)]
        path = path[: self.config.device_blocks - 1]
        self.board.claim(turn, path)  # before fetching: room for one block must not cost the next one
        for depth, match in enumerate(path):
            block = match.block
            if not block.device and not block.host and not self._fetch(turn, block):
                self.board.claim(turn, path[:depth])
                return path[:depth]
        return path

    def _fetch(self, turn: Turn, block: Block) -> bool:
        """Have a disk block brought up, for as long as the turn waits; False if that cannot be."""
        if self.board.now_us < block.shunned_until_us:
            return False
        if block.moving is KvTier.HOST or self.memory.start_read(block, self.board.now_us):
            turn.from_disk[block.id] = None
            return True
        return bool(self.memory.reads_in_flight) and block.meta.size_bytes <= self.config.host_bytes

    def _must_wait(self, turn: Turn, path: Sequence[Match]) -> bool:
        """Whether blocks are on their way from disk, or somebody is computing the next one now."""
        if any(not m.block.device and not m.block.host for m in path):
            if turn.state is TurnState.WAITING:
                turn.state = TurnState.LOADING
            return True
        if turn.state is TurnState.LOADING:
            turn.state = TurnState.WAITING
        return self._promised_by_other(turn, path)

    def _promised_by_other(self, turn: Turn, path: Sequence[Match]) -> bool:
        whole = sum(1 for m in path if m.n_tokens == self.config.block_tokens)
        last = (whole + 1) * self.config.units_per_block
        if last > len(turn.units):
            return False
        return self.board.promised.get(turn.units[last - 1], turn.id) != turn.id

    def _try_open(self, turn: Turn, path: list[Match]) -> bool:
        """Give the turn a place if it fits beside those who run. False: it waits for room."""
        if not self._fits(turn, path):
            if self.board.running or not path:
                return False
            path = self._shrink(turn, path)
        if not self.memory.can_make_room(self._frames_at_once(turn, path), self.board.now_us):
            return False
        self._open(turn, path)
        return True

    def _frames_at_once(self, turn: Turn, path: Sequence[Match]) -> int:
        to_load = sum(1 for m in path if not m.block.device)
        return to_load + self._private_frames(turn, path)

    def _shrink(self, turn: Turn, path: list[Match]) -> list[Match]:
        """Nobody runs and it still does not fit: the copy of a shared tail is one frame too many."""
        while path and not self._fits(turn, path):
            path = path[:-1]
        self.board.claim(turn, path)
        return path

    def _fits(self, turn: Turn, path: Sequence[Match]) -> bool:
        promised = sum(self._still_reserved(self.board.turns[r]) for r in self.board.running)
        return self._frames_at_once(turn, path) + promised <= self.memory.room_on_device(blocks_of(path))

    def _private_frames(self, turn: Turn, path: Sequence[Match]) -> int:
        """Frames of its own the turn will need, with room for what it generates first."""
        whole = sum(1 for m in path if m.n_tokens == self.config.block_tokens)
        return self._reserved_blocks(turn) - whole

    def _reserved_blocks(self, turn: Turn) -> int:
        ceiling = turn.arrival.prompt_tokens + turn.arrival.max_new_tokens
        tokens = max(turn.total, min(ceiling, turn.total + self.config.reserve_tokens))
        return min(self.config.blocks_for(tokens), self.config.device_blocks)

    def _still_reserved(self, turn: Turn) -> int:
        """Frames a running turn was admitted for and has not taken yet."""
        ceiling = turn.arrival.prompt_tokens + turn.arrival.max_new_tokens
        first = turn.arrival.prompt_tokens + self.config.reserve_tokens
        blocks = self.config.blocks_for(max(turn.total, min(ceiling, first)))
        return max(0, min(blocks, self.config.device_blocks) - turn.blocks_held)

    def _open(self, turn: Turn, path: list[Match]) -> None:
        sources = [self._source_of(turn, match.block) for match in path]
        for match in path:  # first all pins, so that making room for one never evicts another
            self.memory.pin(match.block)
        for match in path:
            if not match.block.device:
                self._need(self.memory.take_frames(1, self.board.now_us))
                self.memory.load(match.block, self.board.now_us)
        self.memory.touch(blocks_of(path), self.board.now_us)
        cached = sum(m.n_tokens for m in path)
        tokens = dict.fromkeys(KvTier, 0)
        for match, source in zip(path, sources, strict=True):
            tokens[source] += match.n_tokens
        again = self._computed_again(turn, cached)
        self._enter(turn, path, cached)
        from_device, from_host, from_disk = tokens[KvTier.DEVICE], tokens[KvTier.HOST], tokens[KvTier.DISK]
        self.memory.actions.append(
            Open(turn.id, ids_of(path), cached, from_device, from_host, from_disk, again)
        )

    def _source_of(self, turn: Turn, block: Block) -> KvTier:
        """Where the block lay when the turn came: one that was fetched counts as from disk."""
        return KvTier.DISK if block.id in turn.from_disk else block.fastest()

    def _need(self, done: bool) -> None:
        assert done, "the policy admitted a request for which there was no room"

    def _computed_again(self, turn: Turn, cached: int) -> int:
        first = cached // self.config.unit_tokens
        again = self.memory.computed_before(turn.units[first:]) * self.config.unit_tokens
        self.recomputed_tokens += again
        return again

    def _enter(self, turn: Turn, path: list[Match], cached: int) -> None:
        self.board.waiting.remove(turn.id)
        self.board.running.append(turn.id)
        turn.state = TurnState.RUNNING
        turn.computed = cached
        turn.from_disk = {}
        turn.resume = None
        turn.path = blocks_of(path)
        if path and path[-1].n_tokens < self.config.block_tokens:
            tail = turn.path.pop()
            turn.opened_tail = tail
            self._need(self.memory.take_frames(1, self.board.now_us))
            turn.frames = 1  # the tail is copied into it; only then may the tail leave
            self.memory.unpin(tail)
        self.board.unclaim(turn)
        self.board.promise(turn)
