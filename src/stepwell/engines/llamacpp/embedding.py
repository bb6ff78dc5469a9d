"""Embedding and reranking models as GGUF files: a context of their own that keeps nothing between calls.

Source: include/llama.h. The pooling that a file names decides what it is: mean, first or last token give
vectors, ``rank`` gives scores, and a file without any writes text and belongs to the chat engine.
"""

from __future__ import annotations

import math
import os
import time
from array import array
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np

from stepwell.engines.llamacpp.config import ModelError
from stepwell.engines.llamacpp.header import inspect
from stepwell.engines.llamacpp.native import NativeBatch, complaint, start_backend

MAX_TOKENS = 2_048
"""Of one input at most, whatever the model was trained for: llama.cpp reserves its memory for this many."""
MAX_TEXTS = 16
"""In one batch."""
_NONE, _RANK = lib.LLAMA_POOLING_TYPE_NONE, lib.LLAMA_POOLING_TYPE_RANK


class GgufEmbedding:
    """One model and its context. One thread."""

    def __init__(self, path: Path | str, threads: int = 1, max_tokens: int = MAX_TOKENS) -> None:
        """``ModelError`` with one sentence for what is no embedding model."""
        inspect(path)
        start_backend()
        params = lib.llama_model_default_params()
        params.n_gpu_layers = 0
        self._model = lib.llama_model_load_from_file(os.fsencode(path), params)
        if not self._model:
            raise ModelError(f"model {path} is damaged or of a kind llama.cpp does not know{complaint()}")
        self.vocab = lib.llama_model_get_vocab(self._model)
        self.vocab_size = int(lib.llama_vocab_n_tokens(self.vocab))
        self.max_tokens = min(int(lib.llama_model_n_ctx_train(self._model)), max_tokens)
        self._context = lib.llama_init_from_model(self._model, self._params(threads))
        if not self._context:
            raise ModelError(
                f"llama.cpp cannot make a context of {self.max_tokens} tokens for {path}{complaint()}"
            )
        self._memory = lib.llama_get_memory(self._context)
        pooling = lib.llama_pooling_type(self._context)
        if pooling == _NONE:
            raise ModelError(
                f"model {path} names no pooling, so it writes text and makes no embeddings: give it as the "
                "chat model (engine.model) and choose an embedding model here"
            )
        self.ranks = pooling == _RANK
        self._size = int(
            lib.llama_model_n_cls_out(self._model) if self.ranks else lib.llama_model_n_embd_out(self._model)
        )
        self.dimensions = 0 if self.ranks else self._size
        self._template = self._rerank_template()
        self._batch = NativeBatch(self.max_tokens)
        self.spent_us = 0
        """How long its context has computed."""

    def _params(self, threads: int) -> Any:
        params = lib.llama_context_default_params()
        # Attention in both directions needs all tokens of an input in one micro-batch.
        params.n_ctx = params.n_batch = params.n_ubatch = self.max_tokens
        params.n_seq_max = MAX_TEXTS
        params.n_threads = params.n_threads_batch = threads
        params.kv_unified = True
        params.embeddings = True
        params.no_perf = True
        params.op_offload = False
        return params

    # --- reading --------------------------------------------------------------------------------

    def tokenize(self, text: str, *, marks: bool = True) -> list[int]:
        """What looks like a mark in a text is text."""
        data, room = text.encode("utf-8", "replace"), len(text.encode("utf-8", "replace")) + 8
        while True:
            tokens = (lib.llama_token * room)()
            n = lib.llama_tokenize(self.vocab, data, len(data), tokens, room, marks, False)
            if n >= 0:
                return list(tokens[:n])
            room = -n

    def pair(self, query: str, document: str) -> list[int]:
        """By the file's own template for ranking, else as BERT reads two sentences."""
        if self._template:
            return self._templated(query, document)
        bos, eos, sep = (
            int(f(self.vocab)) for f in (lib.llama_vocab_bos, lib.llama_vocab_eos, lib.llama_vocab_sep)
        )
        ends = eos if eos >= 0 else sep
        parts = [
            [bos] if lib.llama_vocab_get_add_bos(self.vocab) else [],
            self.tokenize(query, marks=False),
            [ends] if lib.llama_vocab_get_add_eos(self.vocab) else [],
            [sep] if lib.llama_vocab_get_add_sep(self.vocab) else [],
            self.tokenize(document, marks=False),
            [ends] if lib.llama_vocab_get_add_eos(self.vocab) else [],
        ]
        return [token for part in parts for token in part if token >= 0]

    def _rerank_template(self) -> str:
        found = lib.llama_model_chat_template(self._model, b"rerank")
        return found.decode("utf-8", "replace") if found else ""

    def _templated(self, query: str, document: str) -> list[int]:
        """The template's own marks are marks; those in the question and the document are text."""
        tokens: list[int] = []
        rest = self._template
        while rest:
            places = [(rest.find(mark), mark, text) for mark, text in _filled(query, document)]
            found = min((place for place in places if place[0] >= 0), default=None)
            if found is None:
                return tokens + self._special(rest)
            at, mark, text = found
            tokens += self._special(rest[:at]) + self.tokenize(text, marks=False)
            rest = rest[at + len(mark) :]
        return tokens

    def _special(self, text: str) -> list[int]:
        data = text.encode()
        tokens = (lib.llama_token * (len(data) + 8))()
        n = lib.llama_tokenize(self.vocab, data, len(data), tokens, len(tokens), False, True)
        return list(tokens[:n])

    # --- computing ------------------------------------------------------------------------------

    def vectors(self, inputs: Sequence[Sequence[int]]) -> list[array[float]]:
        """As the model gives them, not scaled. No input may be longer than ``max_tokens``."""
        return [array("f", row.tolist()) for row in self._rows(inputs)]

    def scores(self, inputs: Sequence[Sequence[int]]) -> list[float]:
        """Between 0 and 1: of one output its sigmoid; of several, which are shares, the first (yes)."""
        first = (float(row[0]) for row in self._rows(inputs))
        return [value if self._size > 1 else 1 / (1 + math.exp(-max(-80.0, value))) for value in first]

    def _rows(self, inputs: Sequence[Sequence[int]]) -> Iterator[Any]:
        for some in self._batches(inputs):
            if self._memory:
                lib.llama_memory_clear(self._memory, True)
            tokens = [token for one in some for token in one]
            places = [place for one in some for place in range(len(one))]
            seqs = [seq for seq, one in enumerate(some) for _ in one]
            batch = self._batch.fill(tokens, places, seqs, range(len(tokens)))
            status = self._compute(batch)
            if status != 0:
                raise ModelError(f"llama.cpp could not compute the embeddings (status {status}){complaint()}")
            for seq in range(len(some)):
                pointer = lib.llama_get_embeddings_seq(self._context, seq)
                if not pointer:
                    raise ModelError("llama.cpp gave no embedding for an input")
                yield np.ctypeslib.as_array(pointer, (self._size,)).copy()

    def _compute(self, batch: Any) -> int:
        compute = lib.llama_decode if self._memory else lib.llama_encode
        started_ns = time.perf_counter_ns()
        status = int(compute(self._context, batch))
        lib.llama_synchronize(self._context)
        self.spent_us += (time.perf_counter_ns() - started_ns) // 1000
        return status

    def _batches(self, inputs: Sequence[Sequence[int]]) -> Iterator[list[Sequence[int]]]:
        """In order, as many as there is room for."""
        some: list[Sequence[int]] = []
        for one in inputs:
            if some and (len(some) == MAX_TEXTS or sum(map(len, some)) + len(one) > self.max_tokens):
                yield some
                some = []
            some.append(one)
        if some:
            yield some

    def close(self) -> None:
        """Free everything."""
        lib.llama_free(self._context)
        lib.llama_model_free(self._model)


def _filled(query: str, document: str) -> tuple[tuple[str, str], ...]:
    return ("{query}", query), ("{document}", document)
