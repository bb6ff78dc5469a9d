"""The batch of a step: one token for everybody who streams, then pieces of prompts."""

from __future__ import annotations

from stepwell.policy.board import Board
from stepwell.policy.turns import Turn, TurnState
from stepwell.policy.types import Piece, RequestId


class Composer:
    """Fills a step up to ``step_tokens`` and makes room for what it runs, by preemption if need be."""

    def __init__(self, board: Board) -> None:
        self.board = board
        self.config = board.config
        self.memory = board.memory

    def compose(self) -> tuple[Piece, ...]:
        """One token for all who stream, then prompts in order of admission, up to ``step_tokens``."""
        pieces: dict[RequestId, Piece] = {}
        budget = self.config.step_tokens
        for prefilling in (False, True):
            for request in list(self.board.running):
                turn = self.board.turns[request]
                if turn.state is TurnState.RUNNING and turn.prefilling is prefilling and budget > 0:
                    piece = self._piece(turn, budget, pieces)
                    if piece is not None:
                        pieces[request] = piece
                        budget -= piece.count
        return tuple(pieces.values())

    def _piece(self, turn: Turn, budget: int, pieces: dict[RequestId, Piece]) -> Piece | None:
        count = min(turn.remaining, budget)
        if count < turn.remaining:
            count = self._to_block_border(turn.computed, count)
        needed = self.config.blocks_for(turn.computed + count) - turn.blocks_held
        if needed > 0 and not self._grow(turn, needed, pieces):
            return None
        return Piece(turn.id, turn.computed, count)

    def _to_block_border(self, start: int, count: int) -> int:
        """End a piece where a block ends if it can: what is whole can be shared at once."""
        end = (start + count) // self.config.block_tokens * self.config.block_tokens
        return end - start if end > start else count

    def _grow(self, turn: Turn, needed: int, pieces: dict[RequestId, Piece]) -> bool:
        """Take frames; the youngest running turn makes room, and if that is ``turn``, it goes."""
        while not self.memory.take_frames(needed, self.board.now_us):
            victim = self.board.turns[self.board.running[-1]]
            pieces.pop(victim.id, None)
            self.board.preempt(victim)
            if victim is turn:
                return False
        turn.frames += needed
        return True
