"""When the values of resting agents are looked at again, and when the scheduler is woken for it.

A timer stands at the next bin that a rest will outlast. It does not wake the loop: the next step looks at
what is due. But an idle machine takes no steps, and a context that lies on disk alone has to be read before
its agent comes. So while a declared end has not come yet and some of the context lies there, the timer is a
wake-up, whether it got there before the timer was set or since.
"""

from __future__ import annotations

import heapq
from collections.abc import Iterator

from stepwell.policy.eviction.agent_groups import Group
from stepwell.policy.eviction.promotion import is_promotable
from stepwell.policy.eviction.value import EvictionTuning


class Timers:
    """One timer for each group at rest; a new one takes the place of the one before."""

    def __init__(self, tuning: EvictionTuning) -> None:
        self._tuning = tuning
        self._due: list[tuple[int, int, Group]] = []
        self._wakes: list[tuple[int, int, Group]] = []

    def set(self, group: Group, due_us: int | None) -> None:
        """None: it has none any more."""
        group.timer_us = due_us
        if due_us is not None:
            heapq.heappush(self._due, (due_us, group.seq, group))
            self.sank(group)

    def sank(self, group: Group) -> None:
        """Some of its context may have come to the disk: its timer wakes the scheduler if that is so."""
        idle, due_us = group.idle, group.timer_us
        if idle is None or due_us is None or due_us == group.wake_us:
            return
        if idle.rises(group.keyed_at_us) and is_promotable(group, self._tuning):
            group.wake_us = due_us
            heapq.heappush(self._wakes, (due_us, group.seq, group))

    def due(self, now_us: int) -> Iterator[Group]:
        """Groups whose timers have run out, a few at a time; each is to be given a new one."""
        while self._wakes and (self._wakes[0][0] <= now_us or self._is_over(self._wakes[0])):
            heapq.heappop(self._wakes)
        for _ in range(self._tuning.timers_per_step):
            if not self._due or self._due[0][0] > now_us:
                return
            due_us, _, group = heapq.heappop(self._due)
            if group.timer_us == due_us:
                group.timer_us = None
                yield group

    def wake_at_us(self) -> int | None:
        """When the scheduler is to be called though nothing happens; None: never."""
        return self._wakes[0][0] if self._wakes else None

    @staticmethod
    def _is_over(wake: tuple[int, int, Group]) -> bool:
        """Whether its agent has called meanwhile."""
        return wake[2].timer_us != wake[0]
