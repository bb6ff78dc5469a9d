"""Readers of a response that runs without a connection."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from typing import Any

from stepwell.server.stores.background import BackgroundRun
from stepwell.server.wire.sse import Comment

PATIENCE_S = 20.0


async def take(frames: AsyncIterator[Any], count: int) -> list[Any]:
    async with asyncio.timeout(PATIENCE_S):
        return [await anext(frames) for _ in range(count)]


def test_followers_see_that_it_is_preempted_and_late_ones_do_not() -> None:
    async def run() -> None:
        goes_on = asyncio.Event()

        async def source() -> AsyncIterator[Any]:
            yield {"n": 0}
            yield Comment.KEEP_ALIVE
            yield Comment.PREEMPTED
            await goes_on.wait()
            yield {"n": 1}

        background = BackgroundRun(source(), lambda: None)
        frames = background.follow(-1, PATIENCE_S)
        assert await take(frames, 2) == [{"n": 0}, Comment.PREEMPTED]
        silent = background.follow(-1, 0.001)
        assert await take(silent, 4) == [{"n": 0}, Comment.PREEMPTED, Comment.KEEP_ALIVE, Comment.KEEP_ALIVE]
        goes_on.set()
        assert [frame async for frame in frames] == [{"n": 1}]
        assert [frame async for frame in background.follow(-1, PATIENCE_S)] == [{"n": 0}, {"n": 1}]
        assert background.events == [{"n": 0}, {"n": 1}]

    asyncio.run(run())
