"""Texts as vectors: what an embedder is, and how a document's vectors are kept as bytes.

Vectors have length 1, so that their nearness is a sum of products.
"""

from __future__ import annotations

import math
import struct
import sys
from array import array
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from operator import mul
from typing import Protocol

from stepwell.errors import StepwellError
from stepwell.library.errors import DamagedFile

_HEAD = struct.Struct("<8sII")
_MAGIC = b"STEPVEC1"
_FLOAT_BYTES = 4


class EmbeddingsAway(StepwellError):
    """The embedder cannot be asked now, or answers what is no embedding: one sentence."""


class Embedder(Protocol):
    """Safe over threads."""

    model: str
    """Vectors of another model cannot be compared with its own."""

    def embed(self, texts: Sequence[str]) -> list[array[float]]:
        """One vector of length 1 for each text, all with as many numbers. Raises ``EmbeddingsAway``."""


@dataclass(frozen=True, slots=True)
class Vectors:
    """The vectors of a document's passages, in order."""

    dimensions: int
    numbers: array[float]

    def __len__(self) -> int:
        return len(self.numbers) // self.dimensions if self.dimensions else 0

    def nearness(self, query: array[float]) -> list[float]:
        """Cosine of each passage with the query, -1 to 1."""
        if len(query) != self.dimensions:
            raise EmbeddingsAway(f"the question has {len(query)} numbers and the passages {self.dimensions}")
        size, numbers = self.dimensions, self.numbers
        return [sum(map(mul, query, numbers[at : at + size])) for at in range(0, len(numbers), size)]


def unit(numbers: Iterable[float]) -> array[float]:
    """Scaled to length 1. Raises ``EmbeddingsAway`` for what has no direction."""
    vector = array("f", numbers)
    length = math.sqrt(sum(map(mul, vector, vector)))
    if not vector or not math.isfinite(length) or length == 0:
        raise EmbeddingsAway("an embedding is empty, zero or not finite")
    return array("f", (number / length for number in vector))


def packed(vectors: Sequence[array[float]]) -> bytes:
    """As they lie on disk: 32-bit floats, the lowest byte first, behind a head."""
    size = len(vectors[0]) if vectors else 0
    body = array("f")
    for vector in vectors:
        if len(vector) != size:
            raise EmbeddingsAway("embeddings of one model have different lengths")
        body.extend(vector)
    if sys.byteorder == "big":
        body.byteswap()
    return _HEAD.pack(_MAGIC, size, len(vectors)) + body.tobytes()


def unpacked(data: bytes) -> Vectors:
    """Raises ``DamagedFile``."""
    if len(data) < _HEAD.size:
        raise DamagedFile("vectors are damaged on disk")
    magic, size, count = _HEAD.unpack_from(data)
    if magic != _MAGIC or len(data) != _HEAD.size + size * count * _FLOAT_BYTES:
        raise DamagedFile("vectors are damaged on disk")
    numbers = array("f")
    numbers.frombytes(data[_HEAD.size :])
    if sys.byteorder == "big":
        numbers.byteswap()
    return Vectors(size, numbers)
