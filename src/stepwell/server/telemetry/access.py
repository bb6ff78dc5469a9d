"""What the access log says of a request: its caller, its end, where its time went. Never what it said."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

from starlette.types import Scope

from stepwell.basics.per_tier import total_of
from stepwell.loop.requests import Admitted, Finished
from stepwell.server.backends.bridge import Generations
from stepwell.server.callers.identity import Identity
from stepwell.server.callers.keys import ApiKey

_SCOPE_KEY = "stepwell.access"


@dataclass(slots=True)
class Access:
    """One request as far as it has come. Lives in its ASGI scope."""

    started_s: float = field(default_factory=time.perf_counter)
    key: str = ""
    tenant: str = ""
    session: str = ""
    agent: str = ""
    service_tier: str = ""
    model: str = ""
    """As the request names it; for spans."""
    error: str = ""
    """The code of the error that was answered."""
    batch: Generations | None = None
    submitted_s: float = 0.0
    """When its generations were handed to the driver, by the same clock as ``started_s``."""
    goes_on: bool = False
    """A background response: its line is written when it has ended, and not when its connection has."""
    write: Callable[[], None] | None = None

    def over(self) -> None:
        """The background response has ended; its connection may still be open."""
        self.goes_on = False
        if self.write is not None:
            self.write()

    def is_from(self, key: ApiKey) -> None:
        self.key, self.tenant = key.id, key.tenant

    def is_by(self, identity: Identity) -> None:
        self.tenant, self.session, self.agent = identity.tenant, identity.session, identity.agent

    def generates(self, batch: Generations) -> None:
        """Its generations are the driver's from now on; what they were asked as counts."""
        caller = batch.generations[0].caller
        self.session, self.agent, self.service_tier = caller.session, caller.agent, caller.service_tier
        self.batch, self.submitted_s = batch, time.perf_counter()

    def fields(self, scope: Scope, request_id: str, route: str, status: int) -> dict[str, Any]:
        """In the order in which they are written, without paths and queries: those are free text."""
        lasted_s = time.perf_counter() - self.started_s
        return {
            "request": request_id,
            "method": scope["method"],
            "route": route,
            "status": status,
            "error": self._error(),
            "total_ms": round(lasted_s * 1e3, 1),
            "key": self.key or None,
            "tenant": self.tenant or None,
            "session": self.session or None,
            "agent": self.agent or None,
            "service_tier": self.service_tier or None,
            **({} if self.batch is None else _generated(self.batch)),
        }

    def _error(self) -> str | None:
        """Also of a stream that had begun well."""
        lost = None if self.batch is None else self.batch.rejected
        return self.error or (None if lost is None else lost.code)


def _generated(batch: Generations) -> dict[str, Any]:
    """Times are those of the generation that took longest, counts of all together; what is unknown, because
    the client left or the request was given up, is left out."""
    admitted, finished = list(batch.admitted.values()), list(batch.finished.values())
    fields: dict[str, Any] = {"prompt_tokens": sum(len(one.prompt) for one in batch.generations)}
    if len(batch.generations) > 1:
        fields["generations"] = len(batch.generations)
    if finished:
        fields |= {
            "generated_tokens": sum(one.generated_tokens for one in finished),
            "recomputed_tokens": sum(one.recomputed_tokens for one in finished),
            "preemptions": sum(one.preemptions for one in finished),
        }
    if admitted:
        fields |= _cached(admitted)
    index = max(batch.finished, key=lambda index: batch.finished[index].e2e_us, default=None)
    if index is not None and index in batch.admitted:
        fields |= _times(batch.admitted[index], batch.finished[index])
    elif admitted:
        fields["queued_ms"] = round(max(one.queue_us for one in admitted) / 1e3, 1)
    return fields


def _cached(admitted: Sequence[Admitted]) -> dict[str, int]:
    found = total_of(one.cached for one in admitted)
    return {f"cached_{kv_tier}_tokens": tokens for kv_tier, tokens in found._asdict().items()}


def _times(admitted: Admitted, finished: Finished) -> dict[str, Any]:
    if finished.timing is not None:
        return {**finished.timing.phases_ms(), "finish": finished.reason}
    first_us = finished.ttft_us or finished.e2e_us
    return {
        "queued_ms": round(admitted.queue_us / 1e3, 1),
        "computed_ms": round(max(0, first_us - admitted.queue_us) / 1e3, 1),
        "decoded_ms": round(max(0, finished.e2e_us - first_us) / 1e3, 1),
        "finish": finished.reason,
    }


def begin_access(scope: Scope) -> Access:
    access = scope[_SCOPE_KEY] = Access()
    return access


def access_of(scope: Scope) -> Access:
    """What is noted of a request; a request that went through no middleware has an entry all the same."""
    found = scope.get(_SCOPE_KEY)
    return found if isinstance(found, Access) else begin_access(scope)
