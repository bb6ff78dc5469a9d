"""What a model of embeddings is to a server: texts or tokens in, vectors of length 1 or scores out."""

from __future__ import annotations

import base64
from array import array
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from stepwell.errors import StepwellError

Input = str | Sequence[int]
"""A text, or the tokens of one as the model's own vocabulary numbers them."""


MINILM = "minilm"
"""The name of the packaged model."""


class EmbeddingError(StepwellError):
    """The model cannot be asked now: one sentence."""


class WrongInput(StepwellError):
    """An input that this model cannot take: one sentence. ``index``: which one."""

    def __init__(self, message: str, index: int = 0) -> None:
        super().__init__(message)
        self.index = index


@dataclass(frozen=True, slots=True)
class About:
    """What a model is."""

    dimensions: int
    """Numbers in a vector; of a model that only ranks: 0."""
    max_tokens: int
    """Of one input, the marks around it included."""
    vocab_size: int
    ranks: bool = False
    """Whether it was trained to score a document for a question; others are asked for nearness."""


@dataclass(frozen=True, slots=True)
class Wishes:
    """What the parent asks for."""

    model: str
    """``minilm`` or the path of a GGUF file."""
    threads: int = 1
    max_tokens: int = 2_048
    idle_s: float = 600.0
    low_priority: bool = True
    """A turn of the chat model does not wait for embeddings."""


class EmbeddingModel(Protocol):
    """Inside its process. Raises ``WrongInput``."""

    about: About

    @property
    def spent_us(self) -> int:
        """How long it has computed since it was loaded, reading and waiting left out."""
        ...

    def tokens(self, text: Input) -> list[int]:
        """As the model reads it, with the marks around it."""
        ...

    def pair(self, query: str, document: str) -> list[int]:
        """A question and a document as a model that ranks reads them."""
        ...

    def vectors(self, inputs: Sequence[Sequence[int]]) -> list[array[float]]:
        """One vector of length 1 each."""
        ...

    def scores(self, inputs: Sequence[Sequence[int]]) -> list[float]:
        """Of pairs: higher is better."""
        ...


def numbers_of(text: str) -> array[float]:
    """A vector as ``embed`` answers it."""
    return array("f", base64.b64decode(text))
