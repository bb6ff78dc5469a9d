"""Embeddings and rankings in the books: held while they run, entered at their end."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from starlette.requests import Request

from stepwell.ledger.bookkeeper import Refusal
from stepwell.ledger.port import RunningBooks
from stepwell.loop.requests import Rejected
from stepwell.policy.types import Embedded
from stepwell.server.callers.keys import ApiKey
from stepwell.server.errors import from_rejected
from stepwell.server.limits.shared_budgets import amount_ahead
from stepwell.server.service import Service, identity_of
from stepwell.server.wire.body import read_object

MICROUSD = 1_000_000


@dataclass(slots=True)
class Begun:
    """How far the work of one request has come."""

    event: Embedded
    """All of it, as the books have it."""
    late: Callable[[Embedded], None]
    """Takes the time of what was still being computed when its client had gone."""
    inputs: int = 0
    spent_us: int = 0
    _ended: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def further(self, inputs: int) -> None:
        self.inputs += inputs

    def spent(self, us: int) -> None:
        """The model has computed so long for a part. From any thread."""
        with self._lock:
            if not self._ended:
                self.spent_us += us
                return
        self.late(replace(self.event, tokens=0, spent_us=us))

    def end(self, tokens: int) -> Embedded | None:
        """What the books enter now; None: nothing was done."""
        with self._lock:
            self._ended = True
        entered = replace(self.event, tokens=tokens, spent_us=self.spent_us)
        return entered if tokens or self.spent_us else None


@dataclass(frozen=True, slots=True)
class Asker:
    """The caller, and its books."""

    service: Service
    request: Request
    key: ApiKey

    async def body(self) -> dict[str, Any]:
        service = self.service
        return await read_object(self.request, service.settings, service.bodies, self.key.tenant)

    @asynccontextmanager
    async def charged(
        self, model: str, body: dict[str, Any], service_tier: str | None, counts: Sequence[int]
    ) -> AsyncIterator[Begun]:
        """What is done within is held against the budgets while it runs and entered at its end; of what a
        client has left alone, as much as was begun. ``counts``: the tokens of each input. Raises
        ``ApiError`` where a budget has no room for it."""
        service, ledger = self.service, self.service.ledger
        identity = identity_of(self.request, body, self.key)
        caller = identity.caller(self.key.service_tier(service_tier), identity.name or "", self.key.id)
        begun = Begun(event := Embedded(caller, model, sum(counts)), service.driver.embedded)
        hold = 0 if ledger is None else await _held(ledger, event)
        tokens = 0
        try:
            yield begun
            tokens = event.tokens
        except asyncio.CancelledError:
            tokens = sum(counts[: begun.inputs])
            raise
        finally:
            entered = begun.end(tokens)
            if ledger is not None:
                ledger.embedding_over(hold, entered)
            if entered is not None:
                service.driver.embedded(entered)

    def usage(self, event: Embedded) -> dict[str, Any]:
        """``usage`` of the answer."""
        usage: dict[str, Any] = {"prompt_tokens": event.tokens, "total_tokens": event.tokens}
        ledger = self.service.ledger
        return usage if ledger is None else usage | {"cost": ledger.bills.embedding(event) / MICROUSD}


async def _held(ledger: RunningBooks, event: Embedded) -> int:
    """The number of the hold. Raises ``ApiError``."""
    async with amount_ahead(ledger.lessee, event.caller, ledger.bills.embedding(event)):
        hold = ledger.hold_embedding(event)
        if isinstance(hold, Refusal):
            raise from_rejected(Rejected(*hold))
        return hold
