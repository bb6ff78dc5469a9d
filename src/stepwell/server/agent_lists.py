"""The list of all agents, taken at most as often as the loop can bear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from stepwell.loop.driver import Driver
from stepwell.loop.snapshot import AgentView

REST_FACTOR = 9
"""A list that took a millisecond is good for nine more, so that lists take a tenth of the time at most:
the loop stands still while one is made."""


class AgentLists:
    """All agents, not much older than it took to look at them. Thread-safe enough: the newest wins."""

    def __init__(self, driver: Driver) -> None:
        self._driver = driver
        self._views: Sequence[AgentView] = ()
        self._good_until_s = 0.0
        self._looking = asyncio.Lock()

    async def all(self) -> Sequence[AgentView]:
        async with self._looking:
            if time.monotonic() >= self._good_until_s:
                await asyncio.to_thread(self._look)
        return self._views

    def _look(self) -> None:
        started_s = time.monotonic()
        self._views = self._driver.snapshot().agents
        ended_s = time.monotonic()
        self._good_until_s = ended_s + REST_FACTOR * (ended_s - started_s)
