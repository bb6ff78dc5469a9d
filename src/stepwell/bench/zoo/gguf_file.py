"""Writing GGUF files (ggml's docs/gguf.md, version 3): what a tiny model needs and no more."""

from __future__ import annotations

import struct
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Tensors = Mapping[str, NDArray[np.float32]]
"""In numpy's order: the last dimension is the one that ggml calls the first."""
_ALIGNMENT = 32


def write(path: Path, settings: Mapping[str, object], tensors: Tensors) -> Path:
    """Write all tensors as f32."""
    header, data = parts(settings, tensors)
    path.write_bytes(header + data)
    return path


def parts(settings: Mapping[str, object], tensors: Tensors) -> tuple[bytes, bytes]:
    """(header with its padding, weights)."""
    head = [b"GGUF", struct.pack("<IQQ", 3, len(tensors), len(settings))]
    head += [_text(key) + _value(value) for key, value in settings.items()]
    data, at = [], 0
    for name, array in tensors.items():
        dims = array.shape[::-1]
        head.append(_text(name) + struct.pack(f"<I{len(dims)}QIQ", len(dims), *dims, 0, at))
        data.append(_padded(array.astype(np.float32).tobytes()))
        at += len(data[-1])
    return _padded(b"".join(head)), b"".join(data)


def _padded(data: bytes) -> bytes:
    return data + bytes(-len(data) % _ALIGNMENT)


def _text(text: str) -> bytes:
    data = text.encode()
    return struct.pack("<Q", len(data)) + data


def _value(value: object) -> bytes:
    match value:
        case bool():
            return struct.pack("<I?", 7, value)
        case int():
            return struct.pack("<II", 4, value)
        case float():
            return struct.pack("<If", 6, value)
        case str():
            return struct.pack("<I", 8) + _text(value)
        case [str(), *_]:
            return _array(8, value, b"".join(_text(str(text)) for text in value))
        case [bool(), *_]:
            return _array(7, value, struct.pack(f"<{len(value)}?", *value))
        case [int(), *_]:
            return _array(5, value, struct.pack(f"<{len(value)}i", *value))
        case [float(), *_]:
            return _array(6, value, struct.pack(f"<{len(value)}f", *value))
    raise TypeError(value)


def _array(kind: int, values: Sequence[object], data: bytes) -> bytes:
    return struct.pack("<IIQ", 9, kind, len(values)) + data
