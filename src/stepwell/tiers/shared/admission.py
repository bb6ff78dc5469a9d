"""Which blocks are worth a write: a disk wears with every byte, and most prompts never come back."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

from stepwell.errors import BadInput
from stepwell.policy.types import BlockId
from stepwell.policy.write_budget import WriteBudget

ADMIT_ALL, ADMIT_SECOND = "all", "second"
_MOST_REMEMBERED = 200_000


class DiskAdmission:
    """``all``: every block. ``second``: a block that is offered for the second time, that is, one that was
    computed, left the host's memory and was computed again. With a budget, neither writes more than that."""

    def __init__(self, admit: str = ADMIT_ALL, write_bytes_per_day: int | None = None) -> None:
        if admit not in (ADMIT_ALL, ADMIT_SECOND):
            raise BadInput(f"admit must be {ADMIT_ALL!r} or {ADMIT_SECOND!r}, not {admit!r}")
        self._admit = admit
        self._budget = WriteBudget(write_bytes_per_day)
        self._offered: OrderedDict[BlockId, None] = OrderedDict()

    def choose(self, keys: Sequence[BlockId], block_bytes: int, now_s: float) -> set[BlockId]:
        """Those to write. The first ones of a prefix go before later ones: without them these are no use."""
        chosen: set[BlockId] = set()
        for key in keys:
            if self._admit == ADMIT_SECOND and not self._seen_before(key):
                continue
            if not self._budget.allows(block_bytes, round(now_s * 1e6)):
                break
            self._budget.spend(block_bytes)
            chosen.add(key)
        return chosen

    def _seen_before(self, key: BlockId) -> bool:
        if key in self._offered:
            del self._offered[key]
            return True
        self._offered[key] = None
        if len(self._offered) > _MOST_REMEMBERED:
            self._offered.popitem(last=False)
        return False
