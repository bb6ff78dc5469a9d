"""Ends an answer's reasoning where its budget is spent, by choosing the tokens that close it."""

from __future__ import annotations

from stepwell.engines.base import ThinkingBudget
from stepwell.engines.llamacpp.native import NativeModel

_MAX_TAIL_BYTES = 256


class Thought:
    """Sees each token of an answer. The marks are found in its text: vocabularies spell them in many ways."""

    def __init__(self, model: NativeModel, budget: ThinkingBudget) -> None:
        self._model = model
        self._opening = budget.marks.opening.rstrip().encode()
        self._closing = budget.marks.closing.encode()
        self._ending = budget.marks.ending.encode()
        self._left = budget.tokens
        self._thinks = not self._opening
        self._over = False
        self._tail = b""
        self._forced: list[int] = []

    def forced(self) -> int | None:
        """The token that has to come next, if one has to."""
        return self._forced.pop(0) if self._forced else None

    def take(self, token: int) -> None:
        """Note a token that was chosen freely."""
        if self._over:
            return
        self._tail = (self._tail + self._model.piece(token, special=True))[-_MAX_TAIL_BYTES:]
        if not self._thinks:
            self._thinks = self._opening in self._tail
            self._tail = b"" if self._thinks else self._tail
            return
        if self._closing in self._tail:
            self._thinks, self._tail = False, b""
            self._over = not self._opening
            return
        self._left -= 1
        if self._left <= 0:
            self._forced = self._model.tokenize(self._ending, add_special=False, parse_special=True)
            self._over = True
