"""The header of a GGUF file, read before llama.cpp sees it: a model file is foreign input.

Every count and length is held against what is left of the file before anything is allocated, so a hostile
header costs no more than reading it. Format: ggml's docs/gguf.md, versions 2 and 3, little-endian.
"""

from __future__ import annotations

import mmap
import re
import struct
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.engines.llamacpp.config import ModelError
from stepwell.engines.llamacpp.fingerprint import model_files

MOST_PAIRS = 65_536
MOST_TENSORS = 1_000_000
MOST_TEMPLATE_BYTES = 1 << 20
_LONGEST_KEY = 65_535
_LONGEST_NAME = 63
"""GGML_MAX_NAME - 1."""
_MOST_DIMENSIONS = 4
_STRING, _ARRAY = 8, 9
_SCALARS = {
    0: "<B", 1: "<b", 2: "<H", 3: "<h", 4: "<I", 5: "<i", 6: "<f", 7: "<?", 10: "<Q", 11: "<q", 12: "<d",
}  # fmt: skip
_ARCHITECTURE = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
_MOST = {
    "block_count": 4096,
    "context_length": 1 << 30,
    "embedding_length": 1 << 20,
    "feed_forward_length": 1 << 24,
    "attention.head_count": 1 << 16,
    "attention.head_count_kv": 1 << 16,
    "attention.key_length": 1 << 16,
    "attention.value_length": 1 << 16,
    "attention.sliding_window": 1 << 30,
    "expert_count": 1 << 16,
    "expert_used_count": 1 << 16,
    "rope.dimension_count": 1 << 16,
    "vocab_size": 1 << 24,
}
"""Far above every model there is; below it llama.cpp's own checks and the trial load decide."""

Value = int | float | bool | str | None


@dataclass(slots=True)
class Header:
    """``values``: scalars and strings; of an array only ``lengths[key]``. ``weights``: see ``repack``."""

    values: dict[str, Value] = field(default_factory=dict)
    lengths: dict[str, int] = field(default_factory=dict)
    n_tensors: int = 0
    weights: dict[str, tuple[int, int]] = field(default_factory=dict)

    @property
    def architecture(self) -> str:
        return str(self.values["general.architecture"])


class _Damaged(ValueError):
    """What is wrong, without the file's name."""


class _Reader:
    def __init__(self, data: mmap.mmap) -> None:
        self.data, self.at, self.size = data, 0, len(data)

    def take(self, n_bytes: int) -> int:
        """Skip ``n_bytes``; where they begin."""
        if n_bytes > self.size - self.at:
            raise _Damaged("it ends in the middle of its header: download it again")
        start = self.at
        self.at += n_bytes
        return start

    def number(self, form: str) -> int | float | bool:
        found: int | float | bool = struct.unpack_from(form, self.data, self.take(struct.calcsize(form)))[0]
        return found

    def count(self, most: int, what: str) -> int:
        found = int(self.number("<Q"))
        if found > most:
            raise _Damaged(f"its header claims {found} {what}")
        return found

    def text(self, most: int, what: str) -> str:
        start = self.take(self.count(most, f"bytes for {what}"))
        return self.data[start : self.at].decode("utf-8", "replace")

    def skip_strings(self, count: int) -> None:
        """A vocabulary has a quarter of a million of these: no call per string."""
        data, at, size, unpack = self.data, self.at, self.size, struct.Struct("<Q").unpack_from
        for _ in range(count):
            if size - at < 8:
                raise _Damaged("it ends in the middle of its header: download it again")
            (length,) = unpack(data, at)
            at += 8 + length
            if at > size:
                raise _Damaged("it ends in the middle of its header: download it again")
        self.at = at


def inspect(path: Path | str) -> Header:
    """The header of a model, the ones of its further parts checked as well.

    Raises ``ModelError`` with one sentence for everything that cannot be a model.
    """
    header = read_header(path)
    parts = model_files(path)
    if header.values.get("split.no", 0) != 0:
        raise ModelError(f"model {path} is a later part of a split model: give the first part")
    count = header.values.get("split.count", 1)
    if count not in (0, 1, len(parts)):
        raise ModelError(
            f"model {path} is one of {count} parts by its header and of {len(parts)} by its name: keep the "
            "names that the parts came with"
        )
    for number, part in enumerate(parts[1:], 1):
        further = read_header(part, first=False)
        if further.values.get("split.no") != number:
            raise ModelError(f"model {part} is not the part that its name says: download it again")
        header.weights |= further.weights
    return header


def makes_vectors(header: Header) -> bool:
    """Whether the model gives vectors or scores and no text: its file then names a pooling."""
    architecture = header.values.get("general.architecture")
    return header.values.get(f"{architecture}.pooling_type", 0) != 0


def read_header(path: Path | str, *, first: bool = True) -> Header:
    """One file's header; the later parts of a split model name no architecture."""
    path = Path(path)
    try:
        with path.open("rb") as file:
            if file.read(4) != b"GGUF":
                raise ModelError(f"model {path} is not a GGUF file: convert or download it again")
            with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
                return _header(_Reader(data), first)
    except OSError as error:
        raise ModelError(f"model {path} cannot be read: {error.strerror or error}") from None
    except _Damaged as error:
        raise ModelError(f"model {path} is damaged: {error}") from None


def _header(reader: _Reader, first: bool) -> Header:
    reader.take(4)
    version = reader.number("<I")
    if version not in (2, 3):
        raise _Damaged(f"its format is version {version}, and this build reads 2 and 3")
    header = Header(n_tensors=reader.count(MOST_TENSORS, "tensors"))
    for _ in range(reader.count(MOST_PAIRS, "settings")):
        _pair(reader, header)
    if first:
        _refuse_absurd(header)
    _refuse_alignment(header)
    _tensors(reader, header)
    return header


def _pair(reader: _Reader, header: Header) -> None:
    key = reader.text(_LONGEST_KEY, "the name of a setting")
    if not key or key in header.values or key in header.lengths:
        raise _Damaged(f"the setting {key[:80]!r} is there twice" if key else "a setting has no name")
    kind = reader.number("<I")
    if kind == _ARRAY:
        header.lengths[key] = _array(reader, key)
    elif kind == _STRING:
        limit = MOST_TEMPLATE_BYTES if "chat_template" in key else reader.size
        header.values[key] = reader.text(limit, f"the setting {key[:80]!r}")
    elif kind in _SCALARS:
        header.values[key] = reader.number(_SCALARS[int(kind)])
    else:
        raise _Damaged(f"the setting {key[:80]!r} has type {kind}, which does not exist")


def _array(reader: _Reader, key: str) -> int:
    kind = int(reader.number("<I"))
    count = int(reader.number("<Q"))
    if kind not in _SCALARS and kind != _STRING:
        raise _Damaged(f"the list {key[:80]!r} has type {kind}, which does not exist")
    width = 8 if kind == _STRING else struct.calcsize(_SCALARS[kind])
    if count * width > reader.size - reader.at:
        raise _Damaged(f"the list {key[:80]!r} claims {count} entries, more than the file holds")
    if kind == _STRING:
        reader.skip_strings(count)
    else:
        reader.take(count * width)
    return count


def _refuse_absurd(header: Header) -> None:
    architecture = header.values.get("general.architecture")
    if not isinstance(architecture, str) or not _ARCHITECTURE.fullmatch(architecture):
        raise _Damaged("its header names no architecture")
    for name, most in _MOST.items():
        value = header.values.get(f"{architecture}.{name}")
        if value is not None and (isinstance(value, str) or not 0 <= value <= most):
            raise _Damaged(f"its header says {architecture}.{name} = {str(value)[:40]}")


def _refuse_alignment(header: Header) -> None:
    alignment = header.values.get("general.alignment", 32)
    if not isinstance(alignment, int) or not 0 < alignment <= 1 << 20 or alignment & (alignment - 1):
        raise _Damaged("its tensors have no alignment that can be")


def _tensors(reader: _Reader, header: Header) -> None:
    furthest = 0
    for _ in range(header.n_tensors):
        name = reader.text(_LONGEST_NAME, "the name of a tensor")
        if name in header.weights:
            raise _Damaged(f"the tensor {name!r} is there twice")
        n_dimensions = int(reader.number("<I"))
        if not 1 <= n_dimensions <= _MOST_DIMENSIONS:
            raise _Damaged(f"the tensor {name!r} has {n_dimensions} dimensions")
        elements = 1
        for _ in range(n_dimensions):
            elements *= int(reader.number("<Q"))
        if not 0 < elements < 1 << 48:
            raise _Damaged(f"the tensor {name!r} claims {elements} numbers")
        header.weights[name] = n_dimensions, int(reader.number("<I"))
        furthest = max(furthest, int(reader.number("<Q")))
    if furthest > reader.size - reader.at:
        raise _Damaged("its data is corrupted or incomplete: a tensor lies behind its end, download it again")
