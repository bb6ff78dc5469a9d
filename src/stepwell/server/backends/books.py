"""The ledger as the routes see it: questions to it, a few at a time, off the event loop."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Concatenate, ParamSpec, TypeVar

from stepwell.ledger.base import LedgerError, Store
from stepwell.ledger.port import RunningBooks
from stepwell.server.errors import ApiError

QUESTIONS_AT_ONCE = 2
"""More would take the threads that requests are prepared in."""

Asked = ParamSpec("Asked")
Answer = TypeVar("Answer")


@dataclass(frozen=True, slots=True)
class Books:
    """A store that is open as long as the server runs; its owner closes it."""

    store: Store
    ledger: RunningBooks | None = None
    """The run that this server keeps books of; None where it only shows a store."""
    reading: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(QUESTIONS_AT_ONCE))

    async def ask(
        self,
        question: Callable[Concatenate[Store, Asked], Answer],
        *args: Asked.args,
        **kwargs: Asked.kwargs,
    ) -> Answer:
        """Run a function of the store in a thread. A store that cannot be read is a 503 ``ApiError`` that
        says nothing of where it lies."""

        def read() -> Answer:
            with self.store.snapshot():
                return question(self.store, *args, **kwargs)

        async with self.reading:
            try:
                return await asyncio.to_thread(read)
            except LedgerError as error:
                raise ApiError(
                    503,
                    "The ledger cannot be read now; please try again.",
                    code="ledger_unavailable",
                    type="server_error",
                    retry_after_ms=1_000,
                ) from error
