"""Contexts of models with a running state (state-space layers, RWKV, delta nets, short convolutions).

llama.cpp keeps one state per sequence id, at the id's newest token only, beside the attention's cells or in
their place. The engine wants ids that hold cells without a state (homes), and states as bytes that can be put
back (checkpoints). How the public API gives both, with the names of src/llama-memory-hybrid.cpp and
src/llama-memory-recurrent.cpp:

- ``seq_cp`` over an empty range shares the state alone; from an id that has none it drops the target's.
- ``seq_rm`` of a part does nothing while the id has a state, so the state is parked meanwhile.
- The highest position of an id is the lower one of both halves: it is asked with a far-away state there.
- ``LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY`` saves and restores the state without the attention's cells.
"""

from __future__ import annotations

import ctypes
import struct
from collections.abc import Sequence

import llama_cpp as lib
import numpy as np

from stepwell.engines.base import Buffer
from stepwell.engines.llamacpp.cells import SCRATCH
from stepwell.engines.llamacpp.config import LlamaCppConfig
from stepwell.engines.llamacpp.native import NativeContext, NativeModel

MARKS = 4
"""Ids that the context keeps for itself, the last ones."""
_FAR = 1 << 24
_ONLY_STATE = lib.LLAMA_STATE_SEQ_FLAGS_PARTIAL_ONLY


class StatefulContext(NativeContext):
    """Memory with states. Attention cells and states move apart from each other."""

    def __init__(
        self, model: NativeModel, config: LlamaCppConfig, n_cells: int, threads: int, n_ids: int
    ) -> None:
        super().__init__(model, config, n_cells, threads, n_ids)
        self.n_ids = n_ids - MARKS
        self._empty, self._parked, self._low, self._high = range(self.n_ids, n_ids)
        self._stated: set[int] = set()
        self._mark()
        self.checkpoint_bytes = int(lib.llama_state_seq_get_size_ext(self.handle, self._low, _ONLY_STATE))

    def _mark(self) -> None:
        """Two states that no sequence goes on from, at the first position and far behind all others."""
        for mark, position in ((self._low, 0), (self._high, _FAR)):
            status = self.decode([0], [position], [SCRATCH], [])
            assert status == 0, f"llama.cpp cannot run this model (status {status})"
            self._share_state(SCRATCH, mark)
            self.remove(SCRATCH)

    # --- states -------------------------------------------------------------------------------

    def take_state(self, seq: int) -> bytearray:
        """The state at the sequence's newest token, as bytes of its own."""
        data = bytearray(self.checkpoint_bytes)
        view = (ctypes.c_uint8 * len(data)).from_buffer(data)
        written = lib.llama_state_seq_get_data_ext(self.handle, view, len(data), seq, _ONLY_STATE)
        assert written == len(data), f"a state has {written} bytes, not {len(data)}"
        return data

    def put_state(self, seq: int, data: Buffer) -> bool:
        """Give the sequence a state that was taken at its newest token. False: refused."""
        array = np.frombuffer(data, np.uint8)
        view = array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        read = lib.llama_state_seq_set_data_ext(self.handle, view, len(array), seq, _ONLY_STATE)
        if read == len(array):
            self._stated.add(seq)
        return bool(read == len(array))

    def forget_state(self, seq: int) -> None:
        self._share_state(self._empty, seq)
        self._stated.discard(seq)

    def _share_state(self, source: int, target: int) -> None:
        lib.llama_memory_seq_cp(self._memory, source, target, 0, 0)

    def _park(self, seq: int) -> None:
        self._share_state(seq, self._parked)
        self._share_state(self._empty, seq)

    def _unpark(self, seq: int) -> None:
        self._share_state(self._parked, seq)
        self._share_state(self._empty, self._parked)

    # --- cells.Kv -----------------------------------------------------------------------------

    def copy(self, source: int, target: int, first: int, end: int) -> None:
        """Cells alone: whatever state the target has it keeps."""
        if target in self._stated:
            self._park(target)
            super().copy(source, target, first, end)
            self._unpark(target)
        else:
            super().copy(source, target, first, end)
            self._share_state(self._empty, target)

    def remove(self, seq: int, first: int = -1, end: int = -1) -> None:
        """Of all positions: the state goes as well."""
        if first < 0:
            super().remove(seq)
            self._stated.discard(seq)
        elif seq in self._stated:
            self._park(seq)
            super().remove(seq, first, end)
            self._unpark(seq)
        else:
            super().remove(seq, first, end)

    def span(self, seq: int) -> tuple[int, int]:
        if seq in self._stated:
            self._park(seq)
        self._share_state(self._high, seq)
        high = super().span(seq)[1]
        self._share_state(self._low, seq)
        low = super().span(seq)[0]
        self._share_state(self._empty, seq)
        if seq in self._stated:
            self._unpark(seq)
        return (low, high) if high >= 0 else (-1, -1)

    def can_shift(self) -> bool:
        return False

    def clear(self) -> None:
        super().clear()
        self._stated.clear()
        self._mark()

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], seqs: Sequence[int], outputs: Sequence[int]
    ) -> int:
        status = super().decode(tokens, positions, seqs, outputs)
        if status == 0:
            self._stated.update(seqs)
        return status


class PureStateContext(StatefulContext):
    """A model without attention: there are no cells, so what is held where is only written down here."""

    by_id = True

    def __init__(
        self, model: NativeModel, config: LlamaCppConfig, n_cells: int, threads: int, n_ids: int
    ) -> None:
        self._held: dict[int, set[int]] = {}
        super().__init__(model, config, n_cells, threads, n_ids)

    def copy(self, source: int, target: int, first: int, end: int) -> None:
        shared = {position for position in range(first, end) if position in self._held.get(source, ())}
        self._held.setdefault(target, set()).update(shared)

    def remove(self, seq: int, first: int = -1, end: int = -1) -> None:
        if first < 0:
            self._held.pop(seq, None)
            super().remove(seq)
        elif seq in self._held:
            self._held[seq].difference_update(range(first, end))

    def save(self, seq: int, size_bytes: int) -> bytearray:
        """A byte for every token, behind where they begin: the token itself is in the state."""
        low, high = self.span(seq)
        assert size_bytes == self.state_bytes(seq), f"a block has {self.state_bytes(seq)} bytes"
        return bytearray(_HEADER.pack(low)) + bytearray(high - low + 1)

    def restore(self, seq: int, data: Buffer) -> bool:
        if len(data) <= _HEADER.size:
            return False
        (low,) = _HEADER.unpack_from(data)
        self._held[seq] = set(range(low, low + len(data) - _HEADER.size))
        return True

    def span(self, seq: int) -> tuple[int, int]:
        held = self._held.get(seq)
        return (min(held), max(held)) if held else (-1, -1)

    def state_bytes(self, seq: int) -> int:
        return _HEADER.size + len(self._held.get(seq, ()))

    def clear(self) -> None:
        self._held.clear()
        super().clear()

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], seqs: Sequence[int], outputs: Sequence[int]
    ) -> int:
        status = super().decode(tokens, positions, seqs, outputs)
        if status == 0:
            for seq, position in zip(seqs, positions, strict=True):
                self._held.setdefault(seq, set()).add(position)
        return status


_HEADER = struct.Struct("<q")
