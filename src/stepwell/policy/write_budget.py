"""The budget of disk writes: so many bytes a day, spread evenly, a tenth of a day in advance.

Flash wears with every byte written (its rated endurance is a number of bytes), so an operator may
want to spend it slowly. What is not written today may be computed again instead.
"""

from __future__ import annotations

from typing import Final

_DAY_US: Final = 24 * 3600 * 1_000_000
_ADVANCE: Final = 10  # a burst may use the budget of a tenth of a day at once


class WriteBudget:
    """A token bucket in byte-microseconds of a day, so that no rounding is ever lost."""

    def __init__(self, bytes_per_day: int | None) -> None:
        self._per_day = bytes_per_day
        self._full = (bytes_per_day or 0) * _DAY_US // _ADVANCE
        self._left = self._full
        self._since_us = 0

    def allows(self, size_bytes: int, now_us: int) -> bool:
        """Whether the budget has ``size_bytes`` now."""
        if self._per_day is None:
            return True
        self._left = min(self._full, self._left + (now_us - self._since_us) * self._per_day)
        self._since_us = now_us
        return size_bytes * _DAY_US <= self._left

    def spend(self, size_bytes: int) -> None:
        """Take out what ``allows`` has just said is there."""
        if self._per_day is not None:
            self._left -= size_bytes * _DAY_US
