"""Prompts are made in threads, a few at once and the heaviest contract first.

The threads are few and what they do may take a second (a long prompt, a large grammar): in the order of
arrival a crowd of ``flex`` requests would keep a paying one waiting before its contract counts.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Sequence
from heapq import heappop, heappush
from itertools import count
from typing import TypeVar

from stepwell.basics.this_machine import usable_cores
from stepwell.loop.requests import Generation
from stepwell.server.errors import bad_request

Result = TypeVar("Result")
Prepare = Callable[[], Sequence[Generation]]
"""Makes the prompt of a request, and what is to be generated from it. Raises ``ApiError``."""

MOST_PLACES = 24
"""Fewer than the threads of asyncio's own pool, so that everything else finds one."""


def usual_places() -> int:
    return min(MOST_PLACES, usable_cores() + 1)


class Preparing:
    """Lives in the event loop's thread."""

    def __init__(self, places: int | None = None) -> None:
        """``places``: how many at once; None: as many as fit this machine."""
        self._free = usual_places() if places is None else places
        self._waiting: list[tuple[int, int, asyncio.Future[None]]] = []
        self._numbers = count()

    async def run(self, weight: int, work: Callable[[], Result]) -> Result:
        """What ``work`` says, once it is its turn. A thread cannot be stopped: what it does for a client that
        has left keeps its place until it is done."""
        await self._enter(weight)
        task = asyncio.ensure_future(asyncio.to_thread(work))
        task.add_done_callback(self._done)
        return await asyncio.shield(task)

    async def generations(
        self, weight: int, prepare: Prepare, validate: Callable[[Generation], None]
    ) -> Sequence[Generation]:
        """Tokenise and check: a long prompt or a big grammar must not stop the others. Raises ``ApiError``;
        ``validate`` raises ``ValueError`` with one sentence."""

        def work() -> Sequence[Generation]:
            generations = prepare()
            # The choices of one prompt share prompt and sampling but for the seed.
            for generation in {id(g.prompt): g for g in generations}.values():
                try:
                    validate(generation)
                except ValueError as error:
                    raise bad_request(str(error)) from error
            return generations

        return await self.run(weight, work)

    async def _enter(self, weight: int) -> None:
        if self._free > 0:
            self._free -= 1
            return
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heappush(self._waiting, (-weight, next(self._numbers), turn))
        try:
            await turn
        except asyncio.CancelledError:
            if turn.done() and not turn.cancelled():
                self._leave()  # it was given a place in the very moment
            raise

    def _done(self, task: asyncio.Task[Result]) -> None:
        if not task.cancelled():
            task.exception()  # of a client that has left, so that asyncio does not call it lost
        self._leave()

    def _leave(self) -> None:
        while self._waiting:
            turn = heappop(self._waiting)[2]
            if not turn.done():
                turn.set_result(None)
                return
        self._free += 1
