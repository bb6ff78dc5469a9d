"""Sums in whole numbers without a loop over what is summed."""

from __future__ import annotations


def floor_sum(count: int, divisor: int, slope: int, first: int) -> int:
    """``sum((first + slope * i) // divisor for i in range(count))`` in a logarithmic number of steps: whole
    parts are taken out, and what is left is the same sum with the axes exchanged."""
    total = 0
    while count > 0:
        total += (count - 1) * count // 2 * (slope // divisor) + count * (first // divisor)
        slope, first = slope % divisor, first % divisor
        top = slope * count + first
        if top < divisor:
            break
        count, first = top // divisor, top % divisor
        divisor, slope = slope, divisor
    return total
