"""What this build of llama.cpp can compute on, and how much memory each device has.

Source: ggml's include/ggml-backend.h. The Python package binds none of it, so the library is asked directly.
"""

from __future__ import annotations

import ctypes
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import llama_cpp

from stepwell.engines.llamacpp.native import start_backend

KINDS = ("cpu", "gpu", "igpu", "accelerator")
"""``enum ggml_backend_dev_type``, in its order."""


@dataclass(frozen=True, slots=True)
class GgmlDevice:
    """One device as ggml knows it. Memory is what its driver reports; 0: it does not say."""

    name: str
    description: str
    kind: str
    free_bytes: int
    total_bytes: int


def devices() -> list[GgmlDevice]:
    """All devices of this build; empty when the library does not tell."""
    start_backend()
    try:
        ggml = _library()
        count = int(ggml.ggml_backend_dev_count())
    except (OSError, AttributeError, StopIteration):
        return []
    return [_device(ggml, ctypes.c_void_p(ggml.ggml_backend_dev_get(at))) for at in range(count)]


def _library() -> Any:
    folder = Path(llama_cpp.__file__).parent / "lib"
    path = next(one for one in sorted(folder.iterdir()) if one.name.startswith(("libggml.", "ggml.")))
    ggml = ctypes.CDLL(str(path))
    ggml.ggml_backend_dev_count.restype = ctypes.c_size_t
    ggml.ggml_backend_dev_get.argtypes = [ctypes.c_size_t]
    ggml.ggml_backend_dev_get.restype = ctypes.c_void_p
    for name in ("name", "description"):
        ask = getattr(ggml, f"ggml_backend_dev_{name}")
        ask.argtypes, ask.restype = [ctypes.c_void_p], ctypes.c_char_p
    ggml.ggml_backend_dev_type.argtypes = [ctypes.c_void_p]
    ggml.ggml_backend_dev_type.restype = ctypes.c_int
    size = ctypes.POINTER(ctypes.c_size_t)
    ggml.ggml_backend_dev_memory.argtypes = [ctypes.c_void_p, size, size]
    ggml.ggml_backend_dev_memory.restype = None
    return ggml


def _device(ggml: Any, device: ctypes.c_void_p) -> GgmlDevice:
    free, total = ctypes.c_size_t(), ctypes.c_size_t()
    ggml.ggml_backend_dev_memory(device, ctypes.byref(free), ctypes.byref(total))
    kind = int(ggml.ggml_backend_dev_type(device))
    return GgmlDevice(
        (ggml.ggml_backend_dev_name(device) or b"").decode("utf-8", "replace"),
        (ggml.ggml_backend_dev_description(device) or b"").decode("utf-8", "replace"),
        KINDS[kind] if 0 <= kind < len(KINDS) else f"type {kind}",
        free.value,
        total.value,
    )
