"""Log lines about what may happen a thousand times a second: one a minute, with the number left out."""

from __future__ import annotations

import logging

_EVERY_US = 60_000_000


class Rarely:
    """Warns at most once a minute."""

    def __init__(self, log: logging.Logger) -> None:
        self._log = log
        self._again_at_us: int | None = None
        self._left_out = 0

    def warning(self, now_us: int, message: str, error: Exception) -> None:
        """Log ``message: error``, or count it for the next line."""
        if self._again_at_us is not None and now_us < self._again_at_us:
            self._left_out += 1
            return
        more = f" ({self._left_out} more since the last such line)" if self._left_out else ""
        self._log.warning("%s: %s%s", message, error, more)
        self._again_at_us, self._left_out = now_us + _EVERY_US, 0
