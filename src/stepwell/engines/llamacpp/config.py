"""What the operator chooses about llama.cpp, and the one error for a model that cannot be served."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from stepwell.errors import UnfitModel


class ModelError(UnfitModel):
    """The model cannot be loaded or served. One sentence: what, where, what to do."""


@dataclass(frozen=True, slots=True)
class LlamaCppConfig:
    """``device_kv_tokens`` is rounded down to whole blocks of 64 tokens."""

    model_path: Path | str
    model_name: str
    device_kv_tokens: int = 8192
    context_tokens: int | None = None
    """Longest prompt plus answer; None: what the model was trained for. Never more than the device."""
    max_sequences: int = 32
    threads: int | None = None
    """None: all cores this process may use."""
    adapters: tuple[tuple[str, Path], ...] = ()
    """LoRA adapters that requests may name: name and GGUF file."""
    n_gpu_layers: int = 0
    kv_type_k: str = "f16"
    kv_type_v: str = "f16"
    most_states: int | None = None
    """Of a model with a running state: how many the device holds at most; None: as many as memory allows."""
    exact_lone_decode: bool = True
    """A step of a single token adds up in the same order wherever its KV lies. False: a little
    faster when only one agent streams, and its tokens may depend on where its KV lies."""
