"""A response that goes on without a connection: a list of events that grows, and readers of it."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import Any

from stepwell.server.wire.sse import Comment

Event = dict[str, Any]
Source = AsyncIterator[Event | Comment]


class BackgroundRun:
    """Drives a stream of events to its end and lets any number of readers follow from any point."""

    def __init__(self, source: Source, ended: Callable[[], None]) -> None:
        """``source`` raises nothing. ``ended`` is called once, also after ``cancel``."""
        self.events: list[Event] = []
        self.over = False
        self._preempted_at = -1
        """How many events there were when the request was preempted last."""
        self._source = source
        self._ended = ended
        self._changed = asyncio.Event()
        self._task = asyncio.create_task(self._drive())
        # Not a finally in the task: one that is cancelled before its first step never gets there.
        self._task.add_done_callback(self._finish)

    async def _drive(self) -> None:
        async for event in self._source:
            if event is Comment.KEEP_ALIVE:
                continue  # every reader keeps its own line alive
            if event is Comment.PREEMPTED:
                self._preempted_at = len(self.events)
            else:
                self.events.append(event)
            self._notify()

    def _finish(self, task: asyncio.Task[None]) -> None:
        self.over = True
        self._ended()
        self._notify()

    def _notify(self) -> None:
        # A reader that waits keeps the old event; the next one to wait gets the new one.
        self._changed.set()
        self._changed = asyncio.Event()

    async def cancel(self) -> None:
        """Stop it and wait until it has stopped."""
        self._task.cancel()
        await asyncio.gather(self._task, return_exceptions=True)

    async def follow(self, starting_after: int, keep_alive_s: float) -> AsyncIterator[Event | Comment]:
        """The events after a sequence number, to the end, and comments: for every ``keep_alive_s`` of
        silence, and once where the request is preempted and has not gone on."""
        position = starting_after + 1  # sequence numbers count from 0, one an event
        told = -1
        while True:
            while position < len(self.events):
                yield self.events[position]
                position += 1
            if self.over:
                return
            if told < position == self._preempted_at:
                told = position
                yield Comment.PREEMPTED
                continue
            try:
                async with asyncio.timeout(keep_alive_s):
                    await self._changed.wait()
            except TimeoutError:
                yield Comment.KEEP_ALIVE
