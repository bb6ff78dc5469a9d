"""What has come up to host memory ahead of use, and whether it was of use. Knows nothing of vLLM."""

from __future__ import annotations

from collections import Counter

from stepwell.policy.types import BlockId

PROMOTED, USED, WASTED, FAILED = "promoted", "used", "wasted", "failed"


class AheadCount:
    """Each chunk is counted once: when it has come, and then as used by a turn or as gone before one."""

    def __init__(self) -> None:
        self.counters: Counter[str] = Counter()
        self._coming: set[BlockId] = set()
        self._unused: set[BlockId] = set()

    def begin(self, key: BlockId) -> None:
        """It is on its way."""
        self._coming.add(key)

    def came(self, key: BlockId) -> None:
        """It is there, if it was on its way."""
        if key in self._coming:
            self._coming.remove(key)
            self._unused.add(key)
            self.counters[PROMOTED] += 1

    def used(self, key: BlockId) -> None:
        """A turn loads it onto the device."""
        if key in self._unused:
            self._unused.remove(key)
            self.counters[USED] += 1

    def gone(self, key: BlockId) -> None:
        """The host does not have it any more."""
        for keys, name in ((self._coming, FAILED), (self._unused, WASTED)):
            if key in keys:
                keys.remove(key)
                self.counters[name] += 1
