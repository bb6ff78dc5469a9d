"""Tiny LoRA adapters with random weights for the models of ``tiny_gguf``."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from tests.engines.tiny_gguf import Shape

from stepwell.bench.zoo import gguf_file


def write_adapter(path: Path, seed: int, shape: Shape | None = None, **settings: object) -> Path:
    shape = shape or Shape()
    draw = np.random.default_rng(seed)
    rank, tensors = 4, {}
    for layer in range(shape.layers):
        for name, rows in (("attn_q", shape.width), ("attn_v", shape.kv_heads * shape.head_size)):
            where = f"blk.{layer}.{name}.weight"
            tensors[f"{where}.lora_a"] = draw.standard_normal((rank, shape.width), dtype=np.float32)
            tensors[f"{where}.lora_b"] = draw.standard_normal((rows, rank), dtype=np.float32)
    about = {"general.architecture": "llama", "general.type": "adapter", "adapter.type": "lora"}
    return gguf_file.write(path, {**about, "adapter.lora.alpha": 4.0, **settings}, tensors)
