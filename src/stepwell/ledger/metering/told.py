"""What an engine that counts for itself says that it has done, and for which account.

Stepwell's own engines are metered step by step. An engine with a loop of its own (vLLM) tells what it has
done since it told last, and the meter enters it: an owner's amounts to its account; what is left of a
KV tier's room to ``idle``, of the time to ``overhead``, of bytes that moved to ``unattributed``.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from stepwell.ledger.types import IDLE, OVERHEAD, UNATTRIBUTED, Account, Cause, Resource
from stepwell.policy.types import RequestId

STORED = (Resource.DEVICE, Resource.HOST, Resource.DISK)


@dataclass(frozen=True, slots=True)
class ToldAmount:
    """An amount of one resource, and whose it is."""

    resource: Resource
    amount: int
    account: Account
    request: RequestId = 0
    """The request that it was for; 0: none, or an unknown one."""


@dataclass(frozen=True, slots=True)
class EngineReport:
    """Since the report before it."""

    used: Sequence[ToldAmount] = ()
    rest: Mapping[Resource, int] = field(default_factory=dict)
    """What the engine has given beyond that, by its own count."""


def lines(report: EngineReport) -> Iterator[tuple[Account, Cause, ToldAmount]]:
    """What is to be posted: to which account, and for what."""
    for one in report.used:
        yield one.account, _cause_of(one.resource), one
    for resource, amount in report.rest.items():
        account, cause = _rest_of(resource)
        yield account, cause, ToldAmount(resource, amount, account)


def _cause_of(resource: Resource) -> Cause:
    if resource is Resource.COMPUTE:
        return Cause.STEP
    return Cause.STORAGE if resource in STORED else Cause.MOVE


def _rest_of(resource: Resource) -> tuple[Account, Cause]:
    """The account of what was not used, or whose user is not known."""
    if resource in STORED:
        return IDLE, Cause.REST
    return (OVERHEAD, Cause.REST) if resource is Resource.COMPUTE else (UNATTRIBUTED, Cause.MOVE)


@dataclass(slots=True)
class Untold:
    """Time that has passed, and of which the engine has yet to say which owners had it."""

    busy_us: int = 0
    """While there were requests."""
    idle_us: int = 0
    told_us: int = 0
    """What the engine's steps took of it: more than passed where reports are late."""

    def passed(self, passed_us: int, *, busy: bool) -> None:
        if busy:
            self.busy_us += passed_us
        else:
            self.idle_us += passed_us

    def rest(self) -> list[tuple[Account, int]]:
        """What no step took until now. Steps are first of the time in which there were requests; what a late
        report has too much of waits for the time after it."""
        of_busy_us = min(self.told_us, self.busy_us)
        of_idle_us = min(self.told_us - of_busy_us, self.idle_us)
        rest = [(OVERHEAD, self.busy_us - of_busy_us), (IDLE, self.idle_us - of_idle_us)]
        self.told_us -= of_busy_us + of_idle_us
        self.busy_us = self.idle_us = 0
        return rest
