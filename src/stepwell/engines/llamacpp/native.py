"""llama.cpp through its public C API, with types: one model, one context, nothing clever.

Source: include/llama.h of the llama.cpp that llama-cpp-python brings. The high-level ``Llama`` class
is not used: it knows one sequence, we need many.
"""

from __future__ import annotations

import ctypes
import logging
import os
import weakref
from collections import deque
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from stepwell.engines.base import Buffer
from stepwell.engines.llamacpp.config import LlamaCppConfig, ModelError
from stepwell.engines.llamacpp.header import inspect
from stepwell.engines.llamacpp.repack import must_not_repack, rows_differ

Logits = NDArray[np.float32]

MAX_SEQUENCES = 256
"""LLAMA_MAX_SEQ (src/llama-cparams.h)."""
UBATCH_TOKENS = 512
"""Tokens that llama.cpp computes at once. A decode call here is never larger, see ``Engine.run``."""
KV_TYPES = {
    "f32": 0,
    "f16": 1,
    "q4_0": 2,
    "q4_1": 3,
    "q5_0": 6,
    "q5_1": 7,
    "q8_0": 8,
    "iq4_nl": 20,
    "bf16": 30,
}
"""Names and numbers of ``enum ggml_type`` that a KV cache may have."""
_FLASH_ATTENTION_ON = 1
_WHOLE_ONLY = frozenset({"deepseek4", "qwen4exp"})
"""Their states refer to cells of the attention's cache."""
_UNFIT = {
    "cogvlm": "is a cogvlm, whose graph in llama.cpp gives wrong logits in batches",
    "chameleon": "is a chameleon, whose graph in llama.cpp fails where a batch asks for no logits",
    "llama4": "has chunked attention, which this engine cannot keep in blocks",
}

_LEVEL_ERROR = 4
"""GGML_LOG_LEVEL_ERROR."""

_log = logging.getLogger("stepwell.llamacpp")
_complaints: deque[str] = deque(maxlen=4)


@lib.llama_log_callback  # type: ignore[untyped-decorator,unused-ignore]
def _on_log(level: int, text: bytes, _user_data: Any) -> None:
    """llama.cpp has one log for the whole process; it goes to Python's, at debug level."""
    line = text.decode("utf-8", "replace").strip()
    if line.strip("."):
        _log.debug("%s", line)
        if level == _LEVEL_ERROR:
            _complaints.append(line)


def start_backend() -> None:
    """Once per process; again does no harm."""
    lib.llama_log_set(_on_log, ctypes.c_void_p(0))
    lib.llama_backend_init()
    _complaints.clear()


def complaint() -> str:
    """What llama.cpp last said was wrong, for an error message."""
    return f" (llama.cpp: {_complaints[0]})" if _complaints else ""


class NativeModel:
    """Weights and vocabulary. Its vocabulary functions may be called from any thread."""

    def __init__(self, config: LlamaCppConfig) -> None:
        path = Path(config.model_path)
        self.header = inspect(path)
        start_backend()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = config.n_gpu_layers
        params.use_extra_bufts = not must_not_repack(self.header.weights)
        self.handle = lib.llama_model_load_from_file(os.fsencode(path), params)
        self.stateful = bool(self.handle) and self._has_states()
        """Whether it keeps a running state, beside the KV of tokens or in its place."""
        if self.stateful and params.use_extra_bufts and rows_differ(self.header.weights):
            # Padding would be a sequence of its own in every batch, which models with states do not bear.
            lib.llama_model_free(self.handle)
            params.use_extra_bufts = False
            self.handle = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self.handle:
            raise ModelError(f"model {path} is damaged or of a kind llama.cpp does not know{complaint()}")
        # Engine and text side share the weights; the last user frees them.
        weakref.finalize(self, lib.llama_model_free, self.handle).atexit = False
        self._refuse_unfit(path)
        self.vocab = lib.llama_model_get_vocab(self.handle)
        self.vocab_size: int = lib.llama_vocab_n_tokens(self.vocab)
        self.trained_context: int = lib.llama_model_n_ctx_train(self.handle)
        self.window_tokens: int = lib.llama_model_n_swa(self.handle)
        """Length of the sliding window some layers have; 0: none has."""

    def _has_states(self) -> bool:
        return bool(lib.llama_model_is_recurrent(self.handle) or lib.llama_model_is_hybrid(self.handle))

    @property
    def pure_state(self) -> bool:
        """Whether it has no attention at all."""
        return bool(lib.llama_model_is_recurrent(self.handle))

    def _refuse_unfit(self, path: Path) -> None:
        architecture = self.meta("general.architecture")
        if self.stateful and (architecture in _WHOLE_ONLY or lib.llama_model_n_swa(self.handle) > 0):
            raise ModelError(
                f"model {path} keeps a running state that llama.cpp saves only together with its attention, "
                "so it cannot be kept in blocks: choose a hybrid without a sliding window"
            )
        pooling = self.meta(f"{architecture}.pooling_type")
        if pooling not in ("", "0"):
            makes, setting = ("rankings", "rerank_model") if pooling == "4" else ("embeddings", "model")
            raise ModelError(
                f"model {path} makes {makes}, not text: name it as embeddings.{setting} in the settings and "
                "choose a chat model here"
            )
        encoder = lib.llama_model_has_encoder(self.handle) or not lib.llama_model_has_decoder(self.handle)
        if encoder or lib.llama_model_is_diffusion(self.handle) or "bert" in architecture:
            raise ModelError(f"model {path} does not generate text token by token: choose a decoder model")
        if architecture in _UNFIT:
            raise ModelError(f"model {path} {_UNFIT[architecture]}")

    def meta(self, key: str) -> str:
        """A value of the GGUF header as text; empty when it is absent."""
        buffer = ctypes.create_string_buffer(1024)
        length = lib.llama_model_meta_val_str(self.handle, key.encode(), buffer, len(buffer))
        return buffer.value.decode("utf-8", "replace") if length >= 0 else ""

    def chat_template(self) -> str | None:
        found = lib.llama_model_chat_template(self.handle, None)
        return found.decode("utf-8", "replace") if found else None

    # --- vocabulary ---------------------------------------------------------------------------

    def tokenize(self, text: bytes, *, add_special: bool, parse_special: bool) -> list[int]:
        """Text to tokens; ``add_special`` adds what the model wants around a text (BOS, if any)."""
        room = len(text) + 8
        while True:
            tokens = (lib.llama_token * room)()
            n = lib.llama_tokenize(self.vocab, text, len(text), tokens, room, add_special, parse_special)
            if n >= 0:
                return list(tokens[:n])
            room = -n

    def piece(self, token: int, *, special: bool) -> bytes:
        """The bytes of a token; control tokens have some only if ``special``."""
        room = 64
        while True:
            buffer = ctypes.create_string_buffer(room)
            n = lib.llama_token_to_piece(self.vocab, token, buffer, room, 0, special)
            if n >= 0:
                return buffer.raw[:n]
            room = -n

    def controls(self) -> dict[int, str]:
        """Control tokens and their texts: turn marks, and whatever else content must not turn into."""
        tokens = [t for t in range(self.vocab_size) if lib.llama_vocab_is_control(self.vocab, t)]
        return {token: self.piece(token, special=True).decode("utf-8", "replace") for token in tokens}

    def is_end(self, token: int) -> bool:
        return bool(lib.llama_vocab_is_eog(self.vocab, token))

    def bos(self) -> int:
        """The begin-of-sequence token, -1 when the model has none."""
        return int(lib.llama_vocab_bos(self.vocab))

    def eos(self) -> int:
        return int(lib.llama_vocab_eos(self.vocab))

    def eot(self) -> int:
        """The end-of-turn token of chats, -1 when the model has none beside ``eos``."""
        return int(lib.llama_vocab_eot(self.vocab))


class NativeVocabulary(NativeModel):
    """The vocabulary and the header alone: what texts need while a model's weights are unloaded."""

    def __init__(self, config: LlamaCppConfig) -> None:
        self.header = inspect(Path(config.model_path))
        start_backend()
        params = lib.llama_model_default_params()
        params.vocab_only = True
        self.handle = lib.llama_model_load_from_file(os.fsencode(config.model_path), params)
        if not self.handle:
            raise ModelError(f"the vocabulary of {config.model_path} cannot be loaded{complaint()}")
        weakref.finalize(self, lib.llama_model_free, self.handle).atexit = False
        self.stateful, self.trained_context, self.window_tokens = False, 0, 0
        self.vocab = lib.llama_model_get_vocab(self.handle)
        self.vocab_size = lib.llama_vocab_n_tokens(self.vocab)


class NativeContext:
    """One KV cache and one decode call at a time. Obeys ``cells.Kv``. One thread only."""

    by_id = False
    """Whether a batch is in the order of its sequence ids, not of its cells."""
    checkpoint_bytes = 0
    """Of one running state; 0: the model has none."""

    def __init__(
        self,
        model: NativeModel,
        config: LlamaCppConfig,
        n_cells: int,
        threads: int,
        n_ids: int = MAX_SEQUENCES,
    ) -> None:
        self.threads = threads
        self.vocab_size = model.vocab_size
        self.n_ids = n_ids
        """Sequence ids for the engine to use, from 0 on."""
        params = _context_params(config, n_cells, threads)
        # Logits are wanted for one token per sequence at most. The default reserves them for every token
        # of a batch: half a gigabyte with a vocabulary of 262k.
        params.n_seq_max = params.n_outputs_max = n_ids
        if model.stateful and config.exact_lone_decode:
            params.n_threads = 1
        self.handle = lib.llama_init_from_model(model.handle, params)
        if not self.handle:
            raise ModelError(
                f"llama.cpp cannot make a KV cache of {n_cells} tokens ({config.kv_type_k}/"
                f"{config.kv_type_v}) for this model{complaint()}"
            )
        self._memory = lib.llama_get_memory(self.handle)
        if not self._memory:
            self.free()
            raise ModelError(f"model {config.model_path} has no KV cache: choose a decoder model")
        self._batch = NativeBatch(UBATCH_TOKENS)

    # --- cells.Kv -----------------------------------------------------------------------------

    def copy(self, source: int, target: int, first: int, end: int) -> None:
        lib.llama_memory_seq_cp(self._memory, source, target, first, end)

    def remove(self, seq: int, first: int = -1, end: int = -1) -> None:
        lib.llama_memory_seq_rm(self._memory, seq, first, end)

    def save(self, seq: int, size_bytes: int) -> bytearray:
        data = bytearray(size_bytes)
        view = (ctypes.c_uint8 * size_bytes).from_buffer(data)
        written = lib.llama_state_seq_get_data(self.handle, view, size_bytes, seq)
        assert written == size_bytes, f"a block has {written} bytes, not {size_bytes}"
        return data

    def restore(self, seq: int, data: Buffer) -> bool:
        # numpy lends the address of read-only memory as well; ctypes' from_buffer would not.
        array = np.frombuffer(data, np.uint8)
        view = array.ctypes.data_as(ctypes.POINTER(ctypes.c_uint8))
        return bool(lib.llama_state_seq_set_data(self.handle, view, len(array), seq) == len(array))

    def span(self, seq: int) -> tuple[int, int]:
        low = lib.llama_memory_seq_pos_min(self._memory, seq)
        return low, lib.llama_memory_seq_pos_max(self._memory, seq)

    # --- states: see ``states``; a model of attention only has none ----------------------------

    def take_state(self, seq: int) -> bytearray:
        return bytearray()

    def put_state(self, seq: int, data: Buffer) -> bool:
        return not len(data)

    def forget_state(self, seq: int) -> None:
        pass

    # --- set-up -------------------------------------------------------------------------------

    def state_bytes(self, seq: int) -> int:
        """How many bytes ``save`` would give."""
        return int(lib.llama_state_seq_get_size(self.handle, seq))

    def can_shift(self) -> bool:
        return bool(lib.llama_memory_can_shift(self._memory))

    def shift(self, seq: int, delta: int) -> None:
        """Renumber positions. Their keys are not rotated before the next decode."""
        lib.llama_memory_seq_add(self._memory, seq, -1, -1, delta)

    def clear(self) -> None:
        lib.llama_memory_clear(self._memory, True)

    # --- computing ----------------------------------------------------------------------------

    def decode(
        self, tokens: Sequence[int], positions: Sequence[int], seqs: Sequence[int], outputs: Sequence[int]
    ) -> int:
        """Run a batch; ``outputs`` are the indices whose logits are wanted. 0: done, else see llama.h."""
        batch = self._batch.fill(tokens, positions, seqs, outputs)
        return int(lib.llama_decode(self.handle, batch))

    def logits(self, index: int) -> Logits:
        """Logits of one token of the last batch; valid until the next ``decode``."""
        pointer = lib.llama_get_logits_ith(self.handle, index)
        assert pointer, "no logits were asked for at this index"
        return np.ctypeslib.as_array(pointer, (self.vocab_size,))

    def free(self) -> None:
        if self.handle:
            lib.llama_free(self.handle)
            self.handle = None


def _context_params(config: LlamaCppConfig, n_cells: int, threads: int) -> Any:
    params = lib.llama_context_default_params()
    params.n_ctx = n_cells
    params.n_batch = params.n_ubatch = UBATCH_TOKENS
    # A step of one token splits the cells between the threads and adds up the parts, so that its
    # result depends on where the cells lie; one thread does not. llama.cpp takes ``n_threads`` for
    # such steps only. With more than two threads the engine pads the step instead.
    params.n_threads = 1 if config.exact_lone_decode and threads <= 2 else threads
    params.n_threads_batch = threads
    params.kv_unified = True
    params.swa_full = True
    params.flash_attn_type = _FLASH_ATTENTION_ON
    params.type_k, params.type_v = KV_TYPES[config.kv_type_k], KV_TYPES[config.kv_type_v]
    params.no_perf = True
    # A build with a GPU backend would otherwise compute large batches there even with no layer on it.
    params.op_offload = config.n_gpu_layers != 0
    return params


class NativeBatch:
    """A ``llama_batch`` over numpy arrays: filled by slices instead of a loop of ctypes stores."""

    def __init__(self, room: int) -> None:
        self._tokens = np.zeros(room, np.int32)
        self._positions = np.zeros(room, np.int32)
        self._n_seqs = np.ones(room, np.int32)
        self._seqs = np.zeros(room, np.int32)
        self._outputs = np.zeros(room, np.int8)
        # One pointer per token, each to its own entry of ``_seqs``.
        self._seq_pointers = self._seqs.ctypes.data + 4 * np.arange(room, dtype=np.uintp)
        self._batch = lib.llama_batch()
        int32_p = ctypes.POINTER(ctypes.c_int32)
        self._batch.token = self._tokens.ctypes.data_as(int32_p)
        self._batch.pos = self._positions.ctypes.data_as(int32_p)
        self._batch.n_seq_id = self._n_seqs.ctypes.data_as(int32_p)
        self._batch.seq_id = self._seq_pointers.ctypes.data_as(ctypes.POINTER(int32_p))
        self._batch.logits = self._outputs.ctypes.data_as(ctypes.POINTER(ctypes.c_int8))

    def fill(
        self, tokens: Sequence[int], positions: Sequence[int], seqs: Sequence[int], outputs: Sequence[int]
    ) -> Any:
        n = len(tokens)
        self._tokens[:n], self._positions[:n], self._seqs[:n] = tokens, positions, seqs
        self._outputs[:n] = 0
        self._outputs[list(outputs)] = 1
        self._batch.n_tokens = n
        return self._batch
