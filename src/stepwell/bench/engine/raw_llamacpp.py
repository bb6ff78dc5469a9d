"""llama.cpp without Stepwell: the bare loop that our engine is measured against.

``llama_decode`` and llama.cpp's greedy sampler through ctypes, with the context our engine uses (one
unified cache, flash attention, all positions kept). The batch is filled in place and nothing else is
done per token, so this is as quick as Python can drive the library.
"""

from __future__ import annotations

import ctypes
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from stepwell.basics.this_machine import usable_cores
from stepwell.errors import StepwellError

BATCH_TOKENS = 512
Token = tuple[int, int, int, bool]
"""(sequence, position, token id, whether its logits are wanted)"""


@lib.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
def _say_nothing(level: int, text: bytes, user_data: Any) -> None:
    """llama.cpp tells a page about every model; a benchmark's output is its table."""


class RawLlama:
    """One model, one context, many sequences."""

    def __init__(
        self, model_path: Path, *, n_cells: int, max_sequences: int = 32, threads: int | None = None
    ) -> None:
        lib.llama_log_set(_say_nothing, ctypes.c_void_p(0))
        lib.llama_backend_init()
        model_params = lib.llama_model_default_params()
        model_params.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(os.fsencode(model_path), model_params)
        if not self._model:
            raise StepwellError(f"llama.cpp cannot load {model_path}")
        self._ctx = lib.llama_init_from_model(
            self._model, _params(n_cells, max_sequences, threads or usable_cores())
        )
        self._memory = lib.llama_get_memory(self._ctx)
        self.vocab_size: int = lib.llama_vocab_n_tokens(lib.llama_model_get_vocab(self._model))
        self._batch = lib.llama_batch_init(BATCH_TOKENS, 0, 1)
        self._greedy = lib.llama_sampler_chain_init(lib.llama_sampler_chain_default_params())
        lib.llama_sampler_chain_add(self._greedy, lib.llama_sampler_init_greedy())

    def decode(self, tokens: Sequence[Token]) -> None:
        """One ``llama_decode``; at most ``BATCH_TOKENS`` tokens."""
        batch = self._batch
        batch.n_tokens = len(tokens)
        for i, (sequence, position, token, wanted) in enumerate(tokens):
            batch.token[i] = token
            batch.pos[i] = position
            batch.n_seq_id[i] = 1
            batch.seq_id[i][0] = sequence
            batch.logits[i] = wanted
        code = lib.llama_decode(self._ctx, batch)
        if code:
            raise StepwellError(f"llama_decode returned {code}")

    def prefill(self, sequence: int, prompt: Sequence[int]) -> int:
        """Compute a prompt in pieces; returns the greedy next token."""
        for start in range(0, len(prompt), BATCH_TOKENS):
            piece = prompt[start : start + BATCH_TOKENS]
            last = len(prompt) - 1
            self.decode([(sequence, start + i, t, start + i == last) for i, t in enumerate(piece)])
        return self.sample(-1)

    def sample(self, index: int) -> int:
        """The greedy token at an index of the last batch (-1: its last output)."""
        return int(lib.llama_sampler_sample(self._greedy, self._ctx, index))

    def logits(self, index: int) -> NDArray[np.float32]:
        pointer = lib.llama_get_logits_ith(self._ctx, index)
        return np.ctypeslib.as_array(pointer, (self.vocab_size,)).copy()

    def save(self, sequence: int, first: int, end: int, scratch: int) -> Any:
        """The state of positions [first, end) of a sequence."""
        lib.llama_memory_seq_cp(self._memory, sequence, scratch, first, end)
        size = lib.llama_state_seq_get_size(self._ctx, scratch)
        data = (ctypes.c_uint8 * size)()
        lib.llama_state_seq_get_data(self._ctx, data, size, scratch)
        self.remove(scratch)
        return data

    def restore(self, sequence: int, data: Any, scratch: int) -> None:
        """Put a saved range behind a sequence, in whatever cells llama.cpp finds."""
        if not lib.llama_state_seq_set_data(self._ctx, data, len(data), scratch):
            raise StepwellError("llama.cpp did not take a saved range back")
        lib.llama_memory_seq_cp(self._memory, scratch, sequence, -1, -1)
        self.remove(scratch)

    def remove(self, sequence: int, first: int = -1, end: int = -1) -> None:
        lib.llama_memory_seq_rm(self._memory, sequence, first, end)

    def close(self) -> None:
        lib.llama_sampler_free(self._greedy)
        lib.llama_batch_free(self._batch)
        lib.llama_free(self._ctx)
        lib.llama_model_free(self._model)


def misplaced_blocks(model_path: Path, threads: int | None = None) -> dict[str, Any]:
    """The control of the exactness benchmark: the same blocks put back without care for their place.

    928 tokens are saved in blocks of 64, dropped, and put back last block first, behind 650 cells of
    another one. The bytes are the same; the order in which attention adds them up is not.
    """
    prompt = [1000 + 7 * i % 20_000 for i in range(928)]
    raw = RawLlama(model_path, n_cells=4096, threads=threads)
    try:
        raw.prefill(0, prompt)
        before = _continued(raw, 0, len(prompt))
        blocks = [raw.save(0, p, min(p + 64, len(prompt)), 31) for p in range(0, len(prompt), 64)]
        raw.remove(0)
        raw.prefill(1, [1000 + 11 * i % 20_000 for i in range(650)])
        for block in reversed(blocks):
            raw.restore(2, block, 31)
        after = _continued(raw, 2, len(prompt))
    finally:
        raw.close()
    largest = float(np.abs(before - after).max())
    changed = int((before.argmax(1) != after.argmax(1)).sum())
    sentence = (
        f"blocks put back in any order into any cells: logits differ by up to {largest:.2g}, "
        f"{changed} of {len(before)} greedy tokens change"
    )
    return {"largest_difference": largest, "changed_tokens": changed, "of": len(before), "sentence": sentence}


def _continued(raw: RawLlama, sequence: int, position: int) -> NDArray[np.float32]:
    """Logits of 64 further tokens, the same ones for every caller; the sequence is left as it was."""
    raw.decode([(sequence, position + i, 2000 + 13 * i, True) for i in range(64)])
    logits = np.stack([raw.logits(i) for i in range(64)])
    raw.remove(sequence, position)
    return logits


def _params(n_cells: int, max_sequences: int, threads: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = n_cells
    params.n_batch = params.n_ubatch = BATCH_TOKENS
    params.n_seq_max = max_sequences
    params.n_threads = params.n_threads_batch = threads
    params.kv_unified = True
    params.swa_full = True
    params.flash_attn_type = 1
    params.no_perf = True
    return params
