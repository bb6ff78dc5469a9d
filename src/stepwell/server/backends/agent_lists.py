"""The list of all agents, taken at most as often as the loop can bear."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Sequence

from stepwell.loop.port import LoopPort
from stepwell.loop.snapshot import AgentView, Snapshot

REST_FACTOR = 9
"""A list that took a millisecond is good for nine more, so that lists take a tenth of the time at most:
the loop stands still while one is made."""


class AgentLists:
    """All agents, not much older than it took to look at them. Thread-safe enough: the newest wins."""

    def __init__(self, driver: LoopPort) -> None:
        self._driver = driver
        self._snapshot = Snapshot(0, 0, 0, {}, (), {})
        self._good_until_s = 0.0
        self._looking = asyncio.Lock()

    async def all(self) -> Sequence[AgentView]:
        return (await self.snapshot()).agents

    async def snapshot(self) -> Snapshot:
        """The whole picture that the list is of."""
        async with self._looking:
            if time.monotonic() >= self._good_until_s:
                self._snapshot = await asyncio.to_thread(self._look)
        return self._snapshot

    def _look(self) -> Snapshot:
        started_s = time.monotonic()
        snapshot = self._driver.snapshot()
        ended_s = time.monotonic()
        self._good_until_s = ended_s + REST_FACTOR * (ended_s - started_s)
        return snapshot
