"""Choosing the next token: llama.cpp's sampler chain, one per request, kept across preemptions.

The order is llama.cpp's default: bias, penalties, top-k, top-p, min-p, temperature, draw. Penalties
see what the request has generated, not its prompt (as OpenAI describes them).
"""

from __future__ import annotations

import ctypes
import math
from collections.abc import Sequence
from typing import Any

import llama_cpp as lib
import numpy as np

from stepwell.engines.base import SamplingParams, TokenLogprob
from stepwell.engines.llamacpp.constraints import Constraints, is_constrained
from stepwell.engines.llamacpp.matching import ConstraintFailed, Matching
from stepwell.engines.llamacpp.native import Logits, NativeModel
from stepwell.engines.llamacpp.thought import Thought

_TOKEN_DATA = np.dtype([("id", np.int32), ("logit", np.float32), ("p", np.float32)])
"""``llama_token_data``."""
_RANDOM_SEED = 0xFFFFFFFF
"""LLAMA_DEFAULT_SEED: llama.cpp draws one itself."""
MAX_LOGPROBS = 100
MAX_BIASES = 4096


class Candidates:
    """The array samplers work on, as large as the vocabulary; one per engine, used in turn."""

    def __init__(self, vocab_size: int) -> None:
        self._ids = np.arange(vocab_size, dtype=np.int32)
        self._data = np.zeros(vocab_size, _TOKEN_DATA)
        self._in_order = False
        self._array = lib.llama_token_data_array()

    def of(self, logits: Logits, *, reorders: bool) -> Any:
        """All tokens with these logits, for samplers that leave them in order or do not."""
        if not self._in_order:
            self._data["id"] = self._ids
        self._in_order = not reorders
        self._data["logit"] = logits
        return self._point_at(self._data)

    def _point_at(self, data: Any) -> Any:
        self._array.data = ctypes.cast(data.ctypes.data, ctypes.POINTER(lib.llama_token_data))
        self._array.size = len(data)
        self._array.selected = -1
        self._array.sorted = False
        return ctypes.byref(self._array)

    def chosen(self) -> int:
        return int(self._array.data[self._array.selected].id)


class Sampler:
    """The state of one request's sampling. ``free`` it when the request has ended for good."""

    def __init__(
        self,
        model: NativeModel,
        sampling: SamplingParams,
        candidates: Candidates,
        end_tokens: Sequence[int],
        memory_tokens: int,
        constraints: Constraints,
    ) -> None:
        """``memory_tokens``: how many generated tokens the penalties look back on."""
        self._candidates = candidates
        self._end_tokens = end_tokens
        self._matching = (
            Matching(constraints.compiled(sampling), end_tokens) if is_constrained(sampling) else None
        )
        self._thought = Thought(model, sampling.thinking) if sampling.thinking is not None else None
        self.failed = ""
        """Why the last token ends an answer that its constraint does not let end."""
        banned = end_tokens if sampling.ignore_eos and self._matching is None else ()
        self._biases = _biases(sampling, banned)
        self._barred = {token for token, _ in self._biases}
        self._only_bars = all(bias <= 0 for _, bias in self._biases)
        self._best_wins = sampling.temperature <= 0 and self._matching is None and not _penalises(sampling)
        self._reorders = sampling.top_k > 0 or sampling.top_p < 1 or sampling.min_p > 0
        self._chain = _chain(model, sampling, self._biases, memory_tokens)

    def choose(self, logits: Logits) -> int:
        """Pick a token and remember it."""
        if self._thought is None:
            return self._free_choice(logits)
        token = self._thought.forced()
        if token is None:
            token = self._free_choice(logits)
            self._thought.take(token)
        elif not self._best_wins:
            lib.llama_sampler_accept(self._chain, token)
        return token

    def _free_choice(self, logits: Logits) -> int:
        if self._best_wins:
            return self._best(logits)
        lib.llama_sampler_apply(self._chain, self._candidates.of(logits, reorders=self._reorders))
        token = self._candidates.chosen()
        if self._matching is not None:
            token = self._obey(self._matching, token, logits)
        lib.llama_sampler_accept(self._chain, token)
        return token

    def _best(self, logits: Logits) -> int:
        """What the chain would pick, in a tenth of its time with a vocabulary of 262k."""
        best = int(np.argmax(logits))
        if not self._biases or (self._only_bars and best not in self._barred):
            return best
        logits = logits.copy()
        for token, bias in self._biases:
            logits[token] += np.float32(bias)
        return int(np.argmax(logits))

    def _obey(self, matching: Matching, token: int, logits: Logits) -> int:
        """Keep the token if the constraint takes it, else choose again among those it takes.

        Most proposals are taken, and asking for one costs microseconds. An answer that can neither go on nor
        end has failed.
        """
        try:
            if matching.take(token):
                return token
            allowed = matching.allowed(len(logits))
            masked = np.where(allowed, logits, np.float32(-math.inf))
            everything = self._candidates.of(masked, reorders=self._reorders)
            lib.llama_sampler_apply(self._chain, everything)
            token = self._candidates.chosen()
            if not allowed[token] or not matching.take(token):
                raise ConstraintFailed("what its constraint allows is barred by logit_bias")
            return token
        except ConstraintFailed as error:
            self.failed = str(error)
            return self._end_tokens[0]

    def free(self) -> None:
        if self._chain:
            lib.llama_sampler_free(self._chain)
        self._chain = self._matching = None


def _penalises(sampling: SamplingParams) -> bool:
    penalties = (sampling.frequency_penalty, sampling.presence_penalty, sampling.repeat_penalty)
    return penalties != (0.0, 0.0, 1.0)


def _biases(sampling: SamplingParams, banned: Sequence[int]) -> list[tuple[int, float]]:
    return [*sampling.logit_bias, *((token, -math.inf) for token in banned)]


def _chain(
    model: NativeModel, sampling: SamplingParams, biases: Sequence[tuple[int, float]], memory_tokens: int
) -> Any:
    params = lib.llama_sampler_chain_default_params()
    params.no_perf = True
    chain = lib.llama_sampler_chain_init(params)
    for link in _links(model.vocab_size, sampling, biases, memory_tokens):
        lib.llama_sampler_chain_add(chain, link)
    return chain


def _links(
    vocab_size: int, sampling: SamplingParams, biases: Sequence[tuple[int, float]], memory_tokens: int
) -> list[Any]:
    links = []
    if biases:
        pairs = (lib.llama_logit_bias * len(biases))(*biases)
        links.append(lib.llama_sampler_init_logit_bias(vocab_size, len(biases), pairs))
    if _penalises(sampling):
        repeat, frequency = sampling.repeat_penalty, sampling.frequency_penalty
        presence = sampling.presence_penalty
        links.append(lib.llama_sampler_init_penalties(vocab_size, memory_tokens, repeat, frequency, presence))
    if sampling.temperature <= 0:
        return [*links, lib.llama_sampler_init_greedy()]
    if sampling.top_k > 0:
        links.append(lib.llama_sampler_init_top_k(sampling.top_k))
    if sampling.top_p < 1:
        links.append(lib.llama_sampler_init_top_p(sampling.top_p, 1))
    if sampling.min_p > 0:
        links.append(lib.llama_sampler_init_min_p(sampling.min_p, 1))
    seed = _RANDOM_SEED if sampling.seed is None else sampling.seed % _RANDOM_SEED
    return [*links, lib.llama_sampler_init_temp(sampling.temperature), lib.llama_sampler_init_dist(seed)]


def validate(model: NativeModel, sampling: SamplingParams, constraints: Constraints) -> None:
    """``ValueError`` with one sentence for parameters that cannot be honoured. Any thread; a constraint is
    compiled here, so that ``Sampler`` finds it ready."""
    _require(math.isfinite(sampling.temperature) and sampling.temperature >= 0, "temperature", "at least 0")
    _require(0 < sampling.top_p <= 1, "top_p", "above 0 and at most 1")
    _require(0 <= sampling.min_p <= 1, "min_p", "from 0 to 1")
    _require(0 <= sampling.top_k < 2**31, "top_k", "at least 0")
    _require(0 < sampling.repeat_penalty < math.inf, "repeat_penalty", "above 0")
    for name in ("frequency_penalty", "presence_penalty"):
        _require(math.isfinite(getattr(sampling, name)), name, "a number")
    _require(0 <= (sampling.logprobs or 0) <= MAX_LOGPROBS, "logprobs", f"from 0 to {MAX_LOGPROBS}")
    _require(0 <= (sampling.prompt_logprobs or 0) <= MAX_LOGPROBS, "logprobs", f"from 0 to {MAX_LOGPROBS}")
    _require(len(sampling.logit_bias) <= MAX_BIASES, "logit_bias", f"at most {MAX_BIASES} entries")
    for token, bias in sampling.logit_bias:
        _require(0 <= token < model.vocab_size, "logit_bias", f"for tokens 0 to {model.vocab_size - 1}")
        _require(math.isfinite(bias), "logit_bias", "made of finite numbers")
    if is_constrained(sampling):
        _require(sampling.thinking is None, "a budget of reasoning", "without a grammar or schema")
        constraints.compiled(sampling)


def _require(holds: bool, name: str, what: str) -> None:
    if not holds:
        raise ValueError(f"{name} must be {what}")


def logprobs(logits: Logits, token: int, n_top: int) -> tuple[TokenLogprob, tuple[TokenLogprob, ...]]:
    """The chosen token's log-probability and the ``n_top`` likeliest, from the untouched logits."""
    shifted = logits - logits.max()
    log_sum = float(np.log(np.exp(shifted, dtype=np.float64).sum()))
    chosen = TokenLogprob(token, float(shifted[token]) - log_sum)
    if n_top == 0:
        return chosen, ()
    top = np.argpartition(-shifted, min(n_top, len(shifted) - 1))[:n_top]
    # By likelihood, ties by token: the same logits give the same answer everywhere.
    top = top[np.lexsort((top, -shifted[top]))]
    return chosen, tuple(TokenLogprob(int(t), float(shifted[t]) - log_sum) for t in top)
