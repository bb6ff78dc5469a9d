"""How sure a figure is: intervals of proportions, of paired differences, and of ratios.

Every comparison is paired: two profiles answer the same items, so what is hard for both does not blur the
difference between them. All intervals hold with 95 % confidence. Standard library alone; the same seed gives
the same interval.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

Z95 = 1.959963984540054
RESAMPLES = 2_000
TAIL = 0.025
"""On either side of an interval."""
One = TypeVar("One")
Figure = TypeVar("Figure")


@dataclass(frozen=True, slots=True)
class Estimate:
    """A figure between its bounds. A bound that is None is open: the data do not bound it."""

    value: float
    low: float | None
    high: float | None

    @property
    def surely_positive(self) -> bool:
        return self.low is not None and self.low > 0


def wilson(right: int, count: int) -> Estimate:
    """A proportion and its score interval (Wilson, 1927), which holds for few items and near 0 and 1.

    ``ValueError`` without items.
    """
    if not 0 <= right <= count or count == 0:
        raise ValueError(f"{right} of {count} is no proportion")
    share = right / count
    square = Z95 * Z95
    middle = (share + square / (2 * count)) / (1 + square / count)
    half = Z95 * math.sqrt(share * (1 - share) / count + square / (4 * count * count)) / (1 + square / count)
    return Estimate(share, min(share, max(0.0, middle - half)), max(share, min(1.0, middle + half)))


@dataclass(frozen=True, slots=True)
class Resamples:
    """Random draws of as many items as there are, with putting back (Efron, 1979)."""

    seed: int = 0
    count: int = RESAMPLES

    def difference(self, left: Sequence[bool], right: Sequence[bool]) -> Estimate:
        """Accuracy of ``left`` less that of ``right`` on the same items, from -1 to 1.

        The interval is drawn with one item more that favours each side (Bonett and Price, 2012): that no
        item differs among a few is no certainty that none ever does. ``ValueError`` without items.
        """
        apart = [int(a) - int(b) for a, b in zip(left, right, strict=True)]
        value = _mean(apart)
        means = self._draw([*apart, 1, -1], lambda drawn: sum(drawn) / len(drawn))
        return Estimate(value, min(value, _quantile(means, TAIL)), max(value, _quantile(means, 1 - TAIL)))

    def mean_difference(self, left: Sequence[int], right: Sequence[int]) -> Estimate:
        """The mean of ``left - right`` on the same items, for costs and tokens. ``ValueError`` for none."""
        apart = [a - b for a, b in zip(left, right, strict=True)]
        means = self._draw(apart, lambda drawn: sum(drawn) / len(drawn))
        return Estimate(_mean(apart), _quantile(means, TAIL), _quantile(means, 1 - TAIL))

    def ratio(
        self, above: Sequence[int], below: Sequence[int], doubts: Sequence[tuple[int, int]] = ()
    ) -> Estimate | None:
        """Sum over sum, of figures of the same items: costs, or gains of one profile against another's.

        None where the sum below is not positive: then the ratio means nothing. Bounds are open where more
        than 2.5 % of the draws are of that kind. The interval is drawn with ``doubts`` as further pairs.
        """
        pairs = list(zip(above, below, strict=True))
        whole = _ratio(pairs)
        if whole is None:
            return None
        drawn = [one for one in self._draw([*pairs, *doubts], _ratio) if one is not None]
        if len(drawn) < (1 - TAIL) * self.count:
            return Estimate(whole, None, None)
        return Estimate(whole, min(whole, _quantile(drawn, TAIL)), max(whole, _quantile(drawn, 1 - TAIL)))

    def _draw(self, values: Sequence[One], figure: Callable[[Sequence[One]], Figure]) -> list[Figure]:
        choices = partial(random.Random(self.seed).choices, values, k=len(values))
        return [figure(choices()) for _ in range(self.count)]


def mcnemar(left: Sequence[bool], right: Sequence[bool]) -> float:
    """The exact two-sided chance of a difference like this one where there is none (McNemar, 1947).

    Of the items that only one of the two got right, each is as likely the one's as the other's.
    """
    only_left = sum(1 for a, b in zip(left, right, strict=True) if a and not b)
    only_right = sum(1 for a, b in zip(left, right, strict=True) if b and not a)
    count, fewer = only_left + only_right, min(only_left, only_right)
    tail = sum(math.comb(count, k) for k in range(fewer + 1))
    return min(1.0, 2 * tail / (1 << count))


def quantile(values: Sequence[int], share: float) -> int:
    """The smallest of ``values`` that at least this share of them does not pass. ``ValueError`` for none."""
    if not values:
        raise ValueError("there is no quantile of nothing")
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def _mean(values: Sequence[int]) -> float:
    if not values:
        raise ValueError("there is no mean of nothing: a comparison needs at least one item")
    return sum(values) / len(values)


def _ratio(pairs: Sequence[tuple[int, int]]) -> float | None:
    below = sum(pair[1] for pair in pairs)
    return sum(pair[0] for pair in pairs) / below if below > 0 else None


def _quantile(values: Sequence[float], share: float) -> float:
    """Linear between neighbours."""
    ordered = sorted(values)
    place = (len(ordered) - 1) * share
    below = int(place)
    above = min(below + 1, len(ordered) - 1)
    return ordered[below] + (ordered[above] - ordered[below]) * (place - below)
