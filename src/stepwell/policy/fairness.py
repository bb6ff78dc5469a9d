"""How much service each has had: virtual counters over compute, per service tier, tenant and session.

Within a service tier the tenant with the smallest counter goes first (the virtual token counters of
Sheng et al., "Fairness in Serving Large Language Models", OSDI 2024, in microseconds of estimated
compute instead of tokens); within a tenant the session. One that comes back after a pause starts level
with the least of those that are there, so none saves up.

A service tier that is guaranteed a share of compute and gets less runs up a *debt*; the batch pays it
before anything else that could wait.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Container, Iterable, Mapping
from typing import Final

from stepwell.policy.contracts import WHOLE, ContractBook
from stepwell.policy.turns import ComputeHad, Turn
from stepwell.policy.types import RequestId

_MAX_COUNTERS: Final = 10_000
_MAX_DEBT_US: Final = 500_000


class Attained:
    """Counters in microseconds. Integers, bounded, forgotten oldest first."""

    def __init__(self, book: ContractBook) -> None:
        self._book = book
        self._tenants: OrderedDict[tuple[str, str], ComputeHad] = OrderedDict()
        self._sessions: OrderedDict[tuple[str, str], ComputeHad] = OrderedDict()
        self._debts: dict[str, int] = {}

    def arrived(self, turn: Turn, present: Iterable[str]) -> None:
        """A turn joins the queue; ``present`` are the tenants of its service tier that have turns now."""
        if not self._book.ordered:
            return
        service_tier, tenant = turn.contract.name, turn.arrival.tenant
        others = [self._tenants[service_tier, t].us for t in present if (service_tier, t) in self._tenants]
        had = self._tenant(turn)
        if tenant not in present:
            had.us = max(had.us, min(others, default=0))
        self._tenants.move_to_end(turn.account)
        _forget_oldest(self._tenants)

    def rank(self, turn: Turn) -> int:
        """Smaller goes first among the tenants of a service tier."""
        had = turn.tenant_had
        if had is None or not had.known:
            had = turn.tenant_had = self._tenants.get(turn.account)
        return 0 if had is None else had.us

    def session_rank(self, turn: Turn) -> int:
        """Smaller goes first among the sessions of a tenant."""
        had = turn.session_had
        if had is None or not had.known:
            had = turn.session_had = self._sessions.get(turn.session_account)
        return 0 if had is None else had.us

    def charge(self, turns: Iterable[Turn], cost_us: Mapping[RequestId, int]) -> None:
        """The turns are given compute, in this order; those without a cost are given none."""
        if not self._book.ordered:
            return
        sessions = self._sessions
        for turn in turns:
            cost = cost_us.get(turn.id)
            if cost is None:
                continue
            tenant, session = turn.tenant_had, turn.session_had
            if tenant is None or not tenant.known:
                tenant = self._tenant(turn)
            if session is None or not session.known:
                session = self._session(turn)
            tenant.us += cost
            session.us += cost
            sessions.move_to_end(turn.session_account)
        _forget_oldest(sessions)

    def _tenant(self, turn: Turn) -> ComputeHad:
        """What its tenant has had; from now on it is counted."""
        had = turn.tenant_had
        if had is None or not had.known:
            had = turn.tenant_had = self._tenants.setdefault(turn.account, ComputeHad())
        return had

    def _session(self, turn: Turn) -> ComputeHad:
        """Likewise."""
        had = turn.session_had
        if had is None or not had.known:
            had = turn.session_had = self._sessions.setdefault(turn.session_account, ComputeHad())
        return had

    # --- guarantees of compute ----------------------------------------------------------------

    def debt_us(self, service_tier: str) -> int:
        """How much compute the service tier is behind its guarantee."""
        return self._debts.get(service_tier, 0)

    def settle(self, spent_us: Mapping[str, int], demanding: Container[str]) -> None:
        """A step has been composed: ``spent_us`` by service tier; ``demanding`` had turns that
        ran, or that waited for a place."""
        total_us = sum(spent_us.values())
        for name in self._book.names:
            if name not in demanding:
                self._debts[name] = 0  # no demand, no debt
                continue
            owed = total_us * self._book.of(name).guaranteed.step_tokens // WHOLE
            debt = self._debts.get(name, 0) + owed - spent_us.get(name, 0)
            self._debts[name] = min(max(debt, 0), _MAX_DEBT_US)


def _forget_oldest(counters: OrderedDict[tuple[str, str], ComputeHad]) -> None:
    while len(counters) > _MAX_COUNTERS:
        counters.popitem(last=False)[1].known = False
