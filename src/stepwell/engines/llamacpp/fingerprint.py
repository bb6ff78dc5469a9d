"""What must be equal for KV of one run to be right in another."""

from __future__ import annotations

import hashlib
from pathlib import Path

import llama_cpp as lib

from stepwell.engines.llamacpp.config import LlamaCppConfig

_FORMAT = "llamacpp-1"
"""Raise when this engine's own use of the bytes changes."""


def file_digest(path: Path | str) -> str:
    """SHA-256 of the whole file: fine-tunes of a model differ in nothing but some of the weights."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(config: LlamaCppConfig, digest: str) -> str:
    """Weights, KV types, state format, and the build that computed the KV.

    A build may round differently, so KV of another build would still be right, but tokens could
    differ from what this one computes. Threads do not matter: see docs/adr/0002-frames.md.
    """
    parts = (
        _FORMAT,
        digest,
        config.kv_type_k,
        config.kv_type_v,
        str(lib.LLAMA_STATE_SEQ_VERSION),
        lib.__version__,
        lib.llama_print_system_info().decode(),
        f"gpu_layers={config.n_gpu_layers}",
    )
    return "llamacpp-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]
