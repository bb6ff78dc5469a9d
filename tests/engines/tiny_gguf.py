"""Tiny llama models with random weights, written byte by byte, to be mutated."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from stepwell.bench.zoo import gguf_file
from stepwell.bench.zoo.words import CHAT, letters


@dataclass(frozen=True)
class Shape:
    heads: int = 4
    kv_heads: int = 2
    head_size: int = 16
    layers: int = 2
    ff: int = 96
    experts: int = 0
    tied: bool = True
    template: str = CHAT

    @property
    def width(self) -> int:
        return self.heads * self.head_size


def write(path: Path, shape: Shape = Shape(), *, seed: int = 1) -> Path:
    header, data = parts(shape, seed)
    path.write_bytes(header + data)
    return path


def parts(shape: Shape = Shape(), seed: int = 1) -> tuple[bytes, bytes]:
    """(header with its padding, weights)."""
    return gguf_file.parts(_settings(shape), _tensors(shape, np.random.default_rng(seed)))


def _settings(shape: Shape) -> dict[str, object]:
    tokens = [*letters(), "th", "in", "<|end|>", "<|im_start|>", "<|im_end|>"]
    llama: dict[str, object] = {
        "context_length": 4096,
        "embedding_length": shape.width,
        "block_count": shape.layers,
        "feed_forward_length": shape.ff,
        "attention.head_count": shape.heads,
        "attention.head_count_kv": shape.kv_heads,
        "attention.layer_norm_rms_epsilon": 1e-5,
        "rope.dimension_count": shape.head_size,
        "vocab_size": len(tokens),
    }
    if shape.experts:
        llama |= {"expert_count": shape.experts, "expert_used_count": 2}
    return {
        "general.architecture": "llama",
        **{f"llama.{key}": value for key, value in llama.items()},
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "gpt-2",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [1] * 258 + [3] * 3,
        "tokenizer.ggml.merges": ["t h", "i n"],
        "tokenizer.ggml.bos_token_id": 258,
        "tokenizer.ggml.eos_token_id": 260,
        "tokenizer.ggml.add_bos_token": False,
        "tokenizer.chat_template": shape.template,
    }


def _tensors(shape: Shape, draw: np.random.Generator) -> dict[str, NDArray[np.float32]]:
    def matrix(rows: int, columns: int, *many: int) -> NDArray[np.float32]:
        return draw.standard_normal((*many, rows, columns), dtype=np.float32) / np.float32(columns**0.5)

    width, kv, ones = shape.width, shape.kv_heads * shape.head_size, np.ones(shape.width, np.float32)
    found = {"token_embd.weight": 8 * matrix(261, width), "output_norm.weight": ones}
    if not shape.tied:
        found["output.weight"] = matrix(261, width)
    experts, ending = ((shape.experts,), "_exps") if shape.experts else ((), "")
    for layer in range(shape.layers):
        made = {
            "attn_norm": ones,
            "attn_q": matrix(width, width),
            "attn_k": matrix(kv, width),
            "attn_v": matrix(kv, width),
            "attn_output": matrix(width, width),
            "ffn_norm": ones,
            f"ffn_gate{ending}": matrix(shape.ff, width, *experts),
            f"ffn_up{ending}": matrix(shape.ff, width, *experts),
            f"ffn_down{ending}": matrix(width, shape.ff, *experts),
        }
        if shape.experts:
            made["ffn_gate_inp"] = matrix(shape.experts, width)
        found |= {f"blk.{layer}.{name}.weight": array for name, array in made.items()}
    return found
