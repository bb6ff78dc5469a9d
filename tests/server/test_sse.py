"""Work that is begun at once: the same end, error and cancellation as when it is awaited."""

from __future__ import annotations

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.server.wire.sse import AtOnce


async def work(steps: int, fails: bool, seen: list[str]) -> None:
    try:
        for number in range(steps):
            seen.append(f"step {number}")
            await asyncio.sleep(0)
        if fails:
            raise OSError("gone")
        seen.append("end")
    finally:
        seen.append("closed")


async def plain(steps: int, fails: bool, seen: list[str]) -> None:
    await work(steps, fails, seen)


async def at_once(steps: int, fails: bool, seen: list[str]) -> None:
    begun = AtOnce(work(steps, fails, seen))
    assert begun.over is (steps == 0)
    await begun


@given(st.integers(0, 4), st.booleans())
def test_it_ends_and_fails_as_if_it_were_awaited(steps: int, fails: bool) -> None:
    found = []
    for way in (plain, at_once):
        seen: list[str] = []
        try:
            asyncio.run(way(steps, fails, seen))
        except OSError as error:
            seen.append(str(error))
        found.append(seen)
    assert found[0] == found[1]


def test_a_limit_around_it_cancels_it_where_it_waits() -> None:
    async def run() -> list[str]:
        seen: list[str] = []
        never = asyncio.Event()

        async def blocked() -> None:
            try:
                await never.wait()
            except asyncio.CancelledError:
                seen.append("cancelled")
                raise

        begun = AtOnce(blocked())
        assert not begun.over
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0):
                await begun
        return seen

    assert asyncio.run(run()) == ["cancelled"]
