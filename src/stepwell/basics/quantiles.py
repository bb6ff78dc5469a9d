"""Quantiles of samples."""

from __future__ import annotations

import statistics
from collections.abc import Sequence


def percentile(values: Sequence[float], percent: int) -> float:
    """The value that ``percent`` (1 to 99) of the samples do not pass, linear between neighbours."""
    if not values:
        raise ValueError("no samples: a percentile needs at least one")
    if len(values) == 1:
        return values[0]
    return statistics.quantiles(values, n=100, method="inclusive")[percent - 1]
