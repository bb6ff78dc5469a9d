"""Prompt lookup: what followed the last time the text ran like this is likely to follow again.

Turns that copy (an edited file, a quoted passage, a record of the same form) repeat long stretches of their
prompt or of what they have written. The idea is Saxena's prompt lookup decoding (2023).
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Sequence

_LONGEST, _SHORTEST = 6, 3
"""How many of the last tokens have to have stood before, the longest match first."""
_MOST_TOKENS = 64
"""Of one draft; a frame ends there at the latest."""


class Drafts:
    """Guesses at the next tokens of one request. Give it every token once, in order."""

    def __init__(self, most: int, is_end: Callable[[int], bool]) -> None:
        """``most`` tokens at a time; none of them ends an answer."""
        self._most = min(most, _MOST_TOKENS)
        self._is_end = is_end
        self._tokens = array("I")
        self._bytes = bytearray()

    def next(self, tokens: Sequence[int]) -> list[int]:
        """A guess at what follows ``tokens``, which only ever grow; empty where nothing repeats."""
        fresh = array("I", tokens[len(self._tokens) :])
        self._tokens.extend(fresh)
        self._bytes += fresh.tobytes()
        for length in range(_LONGEST, _SHORTEST - 1, -1):
            at = self._found(length)
            if at is not None:
                return self._upto_end(self._tokens[at : at + self._most])
        return []

    def _found(self, length: int) -> int | None:
        """Where the text goes on after the last earlier place with the same ``length`` last tokens."""
        size = self._tokens.itemsize
        if len(self._tokens) <= length:
            return None
        wanted = self._bytes[-length * size :]
        end = len(self._bytes) - 1
        while (at := self._bytes.rfind(wanted, 0, end)) >= 0:
            if at % size == 0:
                return at // size + length
            end = at + len(wanted) - 1
        return None

    def _upto_end(self, tokens: Sequence[int]) -> list[int]:
        kept: list[int] = []
        for token in tokens:
            if self._is_end(token):
                break
            kept.append(token)
        return kept
