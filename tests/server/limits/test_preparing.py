"""Prompts are made a few at once, and who has paid for more does not wait behind a crowd."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence

from hypothesis import given
from hypothesis import strategies as st

from stepwell.server.limits.preparing import Preparing, usual_places
from tests.server.fakes import PATIENCE_S


@given(st.lists(st.sampled_from([1, 4, 16]), max_size=12))
def test_the_heaviest_goes_first_and_of_equals_the_first(weights: Sequence[int]) -> None:
    done: list[int] = []

    async def crowd() -> None:
        preparing, go = Preparing(1), threading.Event()
        first = asyncio.ensure_future(preparing.run(1, lambda: go.wait(PATIENCE_S)))
        await asyncio.sleep(0)
        tasks = []
        for number, weight in enumerate(weights):
            tasks.append(asyncio.ensure_future(preparing.run(weight, lambda n=number: done.append(n))))
            await asyncio.sleep(0)
        go.set()
        await asyncio.gather(first, *tasks)
        assert preparing._free == 1

    asyncio.run(crowd())
    assert done == sorted(range(len(weights)), key=lambda number: (-weights[number], number))


def test_who_leaves_gives_its_turn_up_and_what_runs_for_it_keeps_its_place() -> None:
    async def crowd() -> None:
        preparing, go, begun = Preparing(1), threading.Event(), threading.Event()

        def slow() -> None:
            begun.set()
            assert go.wait(PATIENCE_S)
            raise ValueError("nobody hears of it")

        first = asyncio.ensure_future(preparing.run(1, slow))
        await asyncio.to_thread(begun.wait, PATIENCE_S)
        second = asyncio.ensure_future(preparing.run(16, lambda: 2))
        third = asyncio.ensure_future(preparing.run(1, lambda: 3))
        await asyncio.sleep(0)
        for task in (first, second):
            task.cancel()
        await asyncio.gather(first, second, return_exceptions=True)
        assert first.cancelled()
        assert second.cancelled()
        assert not third.done()
        go.set()
        assert await third == 3
        assert preparing._free == 1

    asyncio.run(crowd())


def test_some_threads_are_left_for_everything_else() -> None:
    assert 2 <= usual_places() < 32
