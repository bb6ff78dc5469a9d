"""Whether running requests give way to a waiting one, decided without vLLM's types.

vLLM preempts only when a *running* request cannot grow: a heavier one that arrives waits until one ends.
Here it does not wait, within bounds: only for a request of a heavier class, the lightest and latest first, as
many as it takes and no more than a few at a time, and not at all when even those would not be enough.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

MOST_AT_A_TIME = 4


@dataclass(frozen=True, slots=True)
class Running:
    """One running request. A smaller ``rank`` is heavier, as in vLLM; ``blocks`` come free when it leaves."""

    rank: int
    arrived: float
    blocks: int
    may_leave: bool = True


def victims(
    rank: int, needed_blocks: int, free_blocks: int, free_places: int, running: Sequence[Running]
) -> list[int]:
    """Positions in ``running`` of those that leave for a request of ``rank``; none if it fits anyway."""
    lighter = [n for n, one in enumerate(running) if one.may_leave and one.rank > rank]
    lighter.sort(key=lambda n: (-running[n].rank, -running[n].arrived, n))
    leaving: list[int] = []
    for candidate in lighter[:MOST_AT_A_TIME]:
        if needed_blocks <= free_blocks and free_places > 0:
            break
        leaving.append(candidate)
        free_blocks += running[candidate].blocks
        free_places += 1
    return leaving if needed_blocks <= free_blocks and free_places > 0 else []
