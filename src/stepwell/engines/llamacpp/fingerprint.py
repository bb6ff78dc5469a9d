"""What must be equal for KV of one run to be right in another."""

from __future__ import annotations

import hashlib
import re
from functools import cache
from pathlib import Path

import llama_cpp as lib

from stepwell.engines.llamacpp.config import LlamaCppConfig

_MOST_PARTS = 4096
_FORMAT = "llamacpp-2"
"""Raise when this engine's own use of the bytes changes."""


_SPLIT = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")
"""Names of ``llama_split_path``: llama.cpp loads all parts when it is given the first."""


def file_digest(path: Path | str) -> str:
    """SHA-256 of the whole model: fine-tunes differ in nothing but some of the weights.

    Of a model in several files every part counts, in order. ``OSError`` when one cannot be read.
    """
    digests = []
    for part in model_files(path):
        with part.open("rb") as file:
            digests.append(hashlib.file_digest(file, "sha256").hexdigest())
    if len(digests) == 1:
        return digests[0]
    return hashlib.sha256("\n".join(digests).encode()).hexdigest()


def model_files(path: Path | str) -> list[Path]:
    """All files of a model, the one given and its further parts."""
    first = Path(path)
    name = _SPLIT.fullmatch(first.name)
    if name is None:
        return [first]
    parts = int(name[3])
    if not 1 <= parts <= _MOST_PARTS:
        return [first]
    return [first.with_name(f"{name[1]}-{part:05d}-of-{parts:05d}.gguf") for part in range(1, parts + 1)]


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
        build(),
        lib.__version__,
        lib.llama_print_system_info().decode(),
        f"gpu_layers={config.n_gpu_layers}",
    )
    return "llamacpp-" + hashlib.sha256("\n".join(parts).encode()).hexdigest()[:32]


@cache
def build() -> str:
    """Digest of the libraries that compute: two builds of one version may round differently."""
    found = sorted((Path(lib.__file__).parent / "lib").glob("*.so*"))
    return hashlib.sha256("".join(file_digest(library) for library in found).encode()).hexdigest()
