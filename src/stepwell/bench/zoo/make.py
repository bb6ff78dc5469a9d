"""Making a tiny model: llama.cpp itself says which tensors an architecture wants, and in which shapes.

``llama_model_init_from_user`` builds a model from a header alone and calls back for each tensor. llama.cpp
ends the process when a header makes no sense to it, so callers do this in a child process.
"""

from __future__ import annotations

import ctypes
import os
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import llama_cpp as lib
import numpy as np
from numpy.typing import NDArray

from stepwell.bench.zoo import gguf_file
from stepwell.bench.zoo.shapes import ModelShape, settings, shape_of

FILE_TYPES = {"f16": 1, "q4_0": 2, "q8_0": 7, "q4_k_m": 15}
"""``enum llama_ftype``."""
_MEAN_SIZE = 0.1


class ZooError(Exception):
    """llama.cpp does not make a model of this architecture from the header that the zoo has for it."""


@dataclass(frozen=True, slots=True)
class ZooKind:
    """One model of the zoo: ``ARCHITECTURE[:VARIANT...]``, as in ``gemma3:q4_k_m:window512``."""

    name: str
    architecture: str
    shape: ModelShape
    file_type: str = "f16"
    kv_type: str = "f16"
    tied: bool = False
    states: int | None = None
    """Most running states on the device; None: one for every block."""


def kind_of(name: str) -> ZooKind:
    """``ValueError`` with one sentence when a variant is none."""
    architecture, *variants = name.split(":")
    kind = ZooKind(name, architecture, shape_of(architecture))
    for variant in variants:
        shape = kind.shape
        if variant in {"f32", *FILE_TYPES}:
            kind = replace(kind, file_type=variant)
        elif variant == "moe":
            kind = replace(kind, shape=replace(shape, experts=True))
        elif variant == "tied":
            kind = replace(kind, tied=True)
        elif variant in {"kv_q8_0", "kv_q4_0", "kv_f32"}:
            kind = replace(kind, kv_type=variant.removeprefix("kv_"))
        elif variant.startswith("pool") and variant[4:].isdecimal():
            kind = replace(kind, shape=replace(shape, pooling=int(variant[4:])))
        elif variant.startswith("window") and variant[6:].isdecimal():
            kind = replace(kind, shape=replace(shape, window=int(variant[6:])))
        elif variant.startswith("states") and variant[6:].isdecimal():
            kind = replace(kind, states=int(variant[6:]))
        elif variant.startswith("heads") and variant[5:].isdecimal():
            kind = replace(kind, shape=replace(shape, heads=int(variant[5:]), kv_heads=0))
        else:
            raise ValueError(
                f"{variant!r} in {name!r} is not a variant: moe, tied, f32, {', '.join(FILE_TYPES)}, "
                "kv_q8_0, kv_q4_0, kv_f32, windowN, headsN, statesN or poolN"
            )
    return kind


def make(kind: ZooKind, path: Path, *, seed: int = 1) -> Path:
    """Write the model to ``path``. ``ZooError`` when llama.cpp does not want it."""
    header = settings(kind.architecture, kind.shape)
    wanted = _wanted(header, path.with_suffix(".header"))
    if kind.tied:
        wanted.pop("output.weight", None)
    draw = np.random.default_rng(seed)
    plain = path if kind.file_type == "f32" else path.with_suffix(".f32")
    gguf_file.write(plain, header, {name: _values(name, shape, draw) for name, shape in wanted.items()})
    if plain != path:
        _quantize(plain, path, kind.file_type)
        plain.unlink()
    return path


# --- tensors ----------------------------------------------------------------------------------


class _Tensor(ctypes.Structure):
    """The beginning of ``struct ggml_tensor`` (ggml.h)."""

    _fields_ = (("type", ctypes.c_int), ("buffer", ctypes.c_void_p), ("sizes", ctypes.c_int64 * 4))


class _GgufParams(ctypes.Structure):
    """``struct gguf_init_params``."""

    _fields_ = (("no_alloc", ctypes.c_bool), ("context", ctypes.c_void_p))


@cache
def _ggml() -> Any:
    base = ctypes.CDLL(os.fspath(next((Path(lib.__file__).parent / "lib").glob("libggml-base.so"))))
    base.gguf_init_from_file.restype = ctypes.c_void_p
    base.gguf_init_from_file.argtypes = [ctypes.c_char_p, _GgufParams]
    base.gguf_free.argtypes = [ctypes.c_void_p]
    base.ggml_get_name.restype = ctypes.c_char_p
    base.ggml_get_name.argtypes = [ctypes.c_void_p]
    return base


def _wanted(header: dict[str, object], scratch: Path) -> dict[str, tuple[int, ...]]:
    """Names and shapes (numpy's order) of the tensors that llama.cpp creates for this header."""
    base, found = _ggml(), dict[str, tuple[int, ...]]()

    def note(tensor: int, _user_data: int) -> None:
        sizes = list(_Tensor.from_address(tensor).sizes)
        while len(sizes) > 1 and sizes[-1] == 1:
            sizes.pop()
        found[base.ggml_get_name(tensor).decode()] = tuple(reversed(sizes))

    callback = ctypes.CFUNCTYPE(None, ctypes.c_void_p, ctypes.c_void_p)(note)
    gguf_file.write(scratch, header, {})
    meta = base.gguf_init_from_file(os.fsencode(scratch), _GgufParams(True, None))
    scratch.unlink()
    params = lib.llama_model_default_params()
    params.n_gpu_layers = 0
    params.use_extra_bufts = False
    build = lib.llama_cpp._lib.llama_model_init_from_user
    build.restype = ctypes.c_void_p
    build.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_void_p, lib.llama_model_params]
    model = build(meta, ctypes.cast(callback, ctypes.c_void_p), None, params)
    if not model:
        raise ZooError("llama.cpp refused the header")
    lib.llama_model_free(model)
    base.gguf_free(meta)
    return found


def _values(name: str, shape: tuple[int, ...], draw: np.random.Generator) -> NDArray[np.float32]:
    """Random weights of a size that keeps activations near 1, so that no layer drowns the others."""
    if "rope_factors" in name or "rope_freqs" in name:
        return np.ones(shape, np.float32)
    drawn = draw.standard_normal(shape, dtype=np.float32)
    if "ssm_a" in name:
        return np.asarray(-0.02 * np.exp(0.5 * drawn), np.float32)  # a state that remembers for long
    if "norm" in name and name.endswith(".weight"):
        return np.asarray(1 + _MEAN_SIZE * drawn, np.float32)
    if name.endswith(".bias") or len(shape) == 1:
        return np.asarray(_MEAN_SIZE * drawn, np.float32)
    scale = 8 if name.startswith("token_embd") else 1
    return np.asarray(scale * drawn / np.sqrt(shape[-1]), np.float32)


def _quantize(source: Path, target: Path, file_type: str) -> None:
    params = lib.llama_model_quantize_default_params()
    params.ftype = FILE_TYPES[file_type]
    params.nthread = 1
    status = lib.llama_model_quantize(os.fsencode(source), os.fsencode(target), ctypes.byref(params))
    if status != 0:
        raise ZooError(f"llama.cpp does not write it as {file_type}")
