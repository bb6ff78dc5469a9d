"""Tokens that no sequence sees, so that a token's result does not depend on its place in the batch.

Two things in llama.cpp's CPU code make it depend, and a batch is in the order of the cells:

- A batch of one token splits the cells between the threads and adds up the parts. With up to two
  threads one thread does the work instead (measured: 11.1 against 9.2 ms); with more, a second token
  in the batch keeps llama.cpp from splitting.
- Weights in some formats (Q4_K, Q4_0, IQ4_NL...) are repacked so that four tokens are multiplied at
  once, and what is left of the batch is multiplied one by one, with other roundings. Batches of four
  and more are therefore filled up to a multiple of four. ``repack`` knows which types do this;
  SmolLM2's (Q4_1) does not.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from stepwell.engines.llamacpp.native import NativeContext

PAD = 1
"""The sequence id of the padding. It always holds ``PAD_CELLS`` cells, the first ones of the cache."""
PAD_CELLS = 3


@dataclass(slots=True)
class Padding:
    """How batches are filled up."""

    lone: bool
    """A single token gets a companion."""
    rows: int
    """Batches of at least this many tokens are filled up to a multiple of it; 1: none is."""
    _cells: bytearray = field(default_factory=bytearray)

    @property
    def any(self) -> bool:
        return self.lone or self.rows > 1

    def missing(self, n_tokens: int) -> int:
        """How many tokens of padding a batch gets."""
        if n_tokens < self.rows:
            return int(self.lone and n_tokens == 1)
        return -n_tokens % self.rows if n_tokens > 1 else int(self.lone)

    def before(self, context: NativeContext, n_tokens: int) -> range:
        """Free the padding's cells for this batch; return the positions to put before its tokens."""
        missing = self.missing(n_tokens)
        if missing:
            context.remove(PAD, PAD_CELLS - missing, PAD_CELLS)
        return range(PAD_CELLS - missing, PAD_CELLS)

    def fill(self, context: NativeContext) -> None:
        """Occupy the padding's cells for the first time; they are the only free ones."""
        positions = range(PAD_CELLS)
        status = context.decode([0] * PAD_CELLS, positions, [PAD] * PAD_CELLS, [])
        assert status == 0, f"llama.cpp cannot run this model (status {status})"
        self._cells = context.save(PAD, context.state_bytes(PAD))

    def repair(self, context: NativeContext) -> None:
        """Occupy the cells again after a batch that did not run; no free cells lie below them."""
        if self.any:
            context.remove(PAD)
            taken = context.restore(PAD, self._cells)
            assert taken, "llama.cpp refused cells it had written itself"
