"""Room in budgets that several nodes share, before a request is taken: got from the books without keeping the
event loop waiting. Where this node's own part has room, nothing is asked."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager, nullcontext

from stepwell.ledger.budgets.lessee import Lessee
from stepwell.ledger.port import RunningBooks
from stepwell.loop.requests import Generation
from stepwell.policy.types import Caller


def room_ahead(
    ledger: RunningBooks | None, generations: Sequence[Generation]
) -> AbstractAsyncContextManager[None]:
    """For generations of one caller that are asked for together."""
    if ledger is None or ledger.lessee is None:
        return nullcontext()
    needed = ledger.needed([one.arrival() for one in generations])
    return amount_ahead(ledger.lessee, generations[0].caller, needed)


@asynccontextmanager
async def amount_ahead(lessee: Lessee | None, caller: Caller, hold_microusd: int) -> AsyncIterator[None]:
    """What is reserved within finds the room that the books could give it. Raises nothing of its own: what
    there is no room for is refused where it is reserved."""
    if lessee is None or not lessee.lacks(caller, hold_microusd):
        yield
        return
    asking = asyncio.ensure_future(asyncio.to_thread(lessee.hold_ahead, caller, hold_microusd))

    def drop(done: asyncio.Future[bool]) -> None:
        if not done.cancelled() and done.result():
            lessee.end_ahead(caller, hold_microusd)

    try:
        await asyncio.shield(asking)
        yield
    except BaseException:
        asking.add_done_callback(drop)
        raise
