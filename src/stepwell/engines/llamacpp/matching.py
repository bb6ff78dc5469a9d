"""One answer being held to its constraint, token by token, within a budget of time."""

from __future__ import annotations

import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from llguidance import LLMatcher
from numpy.typing import NDArray

from stepwell.engines.llamacpp.constraints import first_line

ALLOWANCE_S = 0.5
ALLOWANCE_PER_TOKEN_S = 0.01
"""What a constraint may take of the step that all requests share, in processor time: this per token, and
that once."""


class ConstraintFailed(Exception):
    """The answer can neither go on nor end; one clause that follows 'the answer could not be finished:'."""


class Matching:
    def __init__(self, matcher: LLMatcher, ends: Sequence[int]) -> None:
        self._matcher = matcher
        self._ends = frozenset(ends)
        self._left_s = ALLOWANCE_S
        self._over = False

    def take(self, token: int) -> bool:
        """Whether ``token`` may come next; if so it has come. An end token may where the answer is whole."""
        if self._over:
            return token in self._ends
        started_s = time.thread_time()
        taken = self._matcher.validate_tokens([token]) == 1 and self._matcher.consume_token(token)
        self._charge(time.thread_time() - started_s, taken=taken)
        self._over = self._matcher.is_stopped() and not self._matcher.is_error()
        return taken

    def allowed(self, vocab_size: int) -> NDArray[Any]:
        """Which tokens may come next, as booleans. Raises ``ConstraintFailed`` when there is none."""
        started_s = time.thread_time()
        mask = np.frombuffer(self._matcher.compute_bitmask(), np.uint8)
        self._charge(time.thread_time() - started_s, taken=False)
        allowed = np.unpackbits(mask, bitorder="little")[:vocab_size].astype(bool)
        if len(allowed) < vocab_size:
            allowed = np.pad(allowed, (0, vocab_size - len(allowed)))
        if not allowed.any():
            raise ConstraintFailed("no token of this model continues it within its constraint")
        return allowed

    def _charge(self, seconds: float, *, taken: bool) -> None:
        self._left_s += ALLOWANCE_PER_TOKEN_S * taken - seconds
        if self._matcher.is_error():
            raise ConstraintFailed(
                f"its constraint is too much work ({first_line(self._matcher.get_error())})"
            )
        if self._left_s < 0:
            raise ConstraintFailed("its constraint takes too much time at each token")
