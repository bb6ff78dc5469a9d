"""What loading and recomputing cost, measured online; integers only, so that replays agree.

Load or recompute is a gate, not a habit: loading can lose (SGLang issue 26305: 2450 ms from a file
against 1725 ms recomputed; Dynamo issue 6101: 40 s against 0.9 s).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Final

from stepwell.policy.types import Computed, KvTier, Moved

Route = tuple[KvTier, KvTier]

DEFAULT_NS_PER_KIB: dict[Route, int] = {
    (KvTier.DEVICE, KvTier.HOST): 400,
    (KvTier.HOST, KvTier.DEVICE): 250,
    (KvTier.HOST, KvTier.DISK): 2_000,
    (KvTier.DISK, KvTier.HOST): 2_000,
}
"""Before anything was measured: about 4 GB/s from block_manager, 0.5 GB/s from disk."""

DEFAULT_PREFILL_NS_PER_TOKEN: Final = 2_000_000
_FORGET_NUMERATOR: Final = 15
_FORGET_DENOMINATOR: Final = 16
_COPIES: tuple[Route, ...] = ((KvTier.DEVICE, KvTier.HOST), (KvTier.HOST, KvTier.DEVICE))
_MOST_ANSWERS: Final = 1_024
_DOUBT_SHIFT: Final = 10  # a price halves after about 700 blocks that were computed again for it
_STEP: Final = 1 << 10  # a step counts as so much in the fit of decoding: so it does not fade to nothing
_MIN_PREFILL_SHARE: Final = 4  # a step counts as prefill when decode tokens are less than a fourth of it


@dataclass(slots=True)
class PrefillFit:
    """Least squares of ``duration = tokens * a + depth_tokens * b``, old steps fading.

    Attention makes a token dearer the deeper it stands; ``b`` is that price per earlier token. (Steps
    that only decode have the same form: ``a`` for the step and ``b`` for each sequence in it.)
    """

    nn: int = 0
    nd: int = 0
    dd: int = 0
    nt: int = 0
    dt: int = 0
    _fitted: tuple[int, int, int] | None = None

    def add(self, tokens: int, depth_tokens: int, duration_ns: int) -> None:
        self._fitted = None
        self.nn = self._fade(self.nn) + tokens * tokens
        self.nd = self._fade(self.nd) + tokens * depth_tokens
        self.dd = self._fade(self.dd) + depth_tokens * depth_tokens
        self.nt = self._fade(self.nt) + tokens * duration_ns
        self.dt = self._fade(self.dt) + depth_tokens * duration_ns

    @staticmethod
    def _fade(total: int) -> int:
        return total * _FORGET_NUMERATOR // _FORGET_DENOMINATOR

    def estimate_ns(self, tokens: int, depth_tokens: int) -> int:
        """Time to compute ``tokens`` whose depths sum to ``depth_tokens``."""
        a, b, divisor = self.coefficients()
        return (tokens * a + depth_tokens * b) // divisor

    def coefficients(self) -> tuple[int, int, int]:
        """``(a, b, divisor)``: nanoseconds are ``(tokens * a + depth_tokens * b) // divisor``."""
        if self._fitted is None:
            self._fitted = self._fit()
        return self._fitted

    def _fit(self) -> tuple[int, int, int]:
        if not self.nn:
            return DEFAULT_PREFILL_NS_PER_TOKEN, 0, 1
        determinant = self.nn * self.dd - self.nd * self.nd
        a_scaled = self.nt * self.dd - self.dt * self.nd
        b_scaled = self.nn * self.dt - self.nd * self.nt
        if determinant > 0 and a_scaled > 0 and b_scaled >= 0:
            return a_scaled, b_scaled, determinant
        return self.nt, 0, self.nn


@dataclass(slots=True)
class Costs:
    """Bandwidth of every route between KV tiers and speed of prefill, as last seen."""

    ns_per_kib: dict[Route, int] = field(default_factory=lambda: dict(DEFAULT_NS_PER_KIB))
    prefill: PrefillFit = field(default_factory=PrefillFit)
    decode: PrefillFit = field(default_factory=PrefillFit)
    _pays: dict[tuple[int, int, int], bool] = field(default_factory=dict)
    """Answers of ``copies_pay`` at these prices."""
    prices: int = 0
    """How often the prices that ``copies_pay`` answers from have changed."""
    always_copy: bool = False
    """Copies pay at any price: decisions do not hang on how fast a machine copies (``always_load``)."""
    draft_ns: int | None = None
    """What a drafted token adds to a step, fading; None: not measured yet."""

    def saw_move(self, moved: Moved) -> None:
        """Fold in a transfer; its duration includes the time it stood in the queue of its route."""
        if not moved.ok or moved.size_bytes < 1024:
            return
        seen = moved.duration_us * 1000 * 1024 // moved.size_bytes
        route = (moved.source, moved.target)
        if route in _COPIES:
            self._prices_changed()
        self.ns_per_kib[route] = (self.ns_per_kib[route] * 7 + seen) // 8

    def copies_pay(self, size_bytes: int, start: int, stop: int) -> bool:
        """Whether tokens ``[start, stop)`` are copied from the device to the host and back in no more time
        than they are computed in. Copies are dear where computing is cheap, and where cores are taken."""
        if self.always_copy:
            return True
        asked = size_bytes, start, stop
        known = self._pays.get(asked)
        if known is None:
            copies_us = sum([self.move_us(source, target, size_bytes) for source, target in _COPIES])
            if len(self._pays) >= _MOST_ANSWERS:
                self._pays.clear()
            known = self._pays[asked] = copies_us <= self.compute_us(start, stop)
        return known

    def _prices_changed(self) -> None:
        self.prices += 1
        self._pays.clear()

    def doubt_copies(self) -> None:
        """A block was not copied because copies are dear. Prices that are not paid are never seen again, so
        they are believed a little less each time, until one is tried."""
        self._prices_changed()
        for route in _COPIES:
            self.ns_per_kib[route] -= self.ns_per_kib[route] >> _DOUBT_SHIFT

    def saw_step(self, step: Computed) -> None:
        """Fold in an engine step, if prefill was what it mostly did."""
        if step.draft_tokens:
            self._saw_draft(step)
        elif step.prefill_tokens >= 16 and step.decode_tokens * _MIN_PREFILL_SHARE < step.prefill_tokens:
            tokens = step.prefill_tokens + step.decode_tokens
            self._prices_changed()
            self.prefill.add(tokens, step.depth_tokens, step.duration_us * 1000)
        elif step.decode_tokens and not step.prefill_tokens:
            self.decode.add(_STEP, step.decode_tokens * _STEP, step.duration_us * 1000 * _STEP)

    def _saw_draft(self, step: Computed) -> None:
        """What the step took beyond one of its streams alone, by the token."""
        first_us, further_us = self.decode_us()
        if step.prefill_tokens or not first_us:
            return
        alone_us = first_us + (step.decode_tokens - 1) * further_us
        seen_ns = max(0, step.duration_us - alone_us) * 1000 // step.draft_tokens
        self.draft_ns = seen_ns if self.draft_ns is None else (self.draft_ns * 7 + seen_ns) // 8

    def draft_us(self) -> int:
        """What checking one drafted token adds to a step."""
        known_ns = self.prefill.estimate_ns(1, 0) if self.draft_ns is None else self.draft_ns
        return max(1, known_ns // 1000)

    def move_us(self, source: KvTier, target: KvTier, size_bytes: int) -> int:
        return self.ns_per_kib[source, target] * size_bytes // (1024 * 1000)

    def compute_us(self, start: int, stop: int) -> int:
        """Time to compute tokens ``[start, stop)`` of one sequence."""
        tokens = max(0, stop - start)
        return self.prefill.estimate_ns(tokens, tokens * (start + stop) // 2) // 1000

    def decode_us(self) -> tuple[int, int]:
        """Time of a step in which one sequence gets a token, and what every further one adds; 0 and 0
        while nothing was measured."""
        if not self.decode.nn:
            return 0, 0
        a, b, divisor = self.decode.coefficients()
        return (a + b) // (divisor * 1000), b // (divisor * 1000)


Step = tuple[int, int]
"""One block of a stored prefix, as the gate sees it: its tokens, and the microseconds to load it."""


def best_cut(steps: Sequence[Step], prompt_tokens: int, costs: Costs) -> int:
    """How many of the leading blocks to load; the rest of the prompt is recomputed.

    Loads of one prefix add up, and whatever is not loaded is computed at its depth. Ties load.
    """
    a, b, divisor = costs.prefill.coefficients()
    divisor *= 1000
    start, loading_us = 0, 0
    best, best_us = 0, (prompt_tokens * a + prompt_tokens * prompt_tokens // 2 * b) // divisor
    for count, (n_tokens, load_us) in enumerate(steps, start=1):
        start += n_tokens
        loading_us += load_us
        left = prompt_tokens - start if start < prompt_tokens else 0
        total_us = loading_us + (left * a + left * (start + prompt_tokens) // 2 * b) // divisor
        if total_us <= best_us:
            best, best_us = count, total_us
    return best
