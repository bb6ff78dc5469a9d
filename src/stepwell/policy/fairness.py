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

from stepwell.policy.contracts import WHOLE, ContractBook
from stepwell.policy.turns import Turn
from stepwell.policy.types import RequestId

_MAX_COUNTERS = 10_000
_MAX_DEBT_US = 500_000


class Attained:
    """Counters in microseconds. Integers, bounded, forgotten oldest first."""

    def __init__(self, book: ContractBook) -> None:
        self._book = book
        self._tenants: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._sessions: OrderedDict[tuple[str, str], int] = OrderedDict()
        self._debts: dict[str, int] = {}

    def arrived(self, turn: Turn, present: Iterable[str]) -> None:
        """A turn joins the queue; ``present`` are the tenants of its service tier that have turns now."""
        if not self._book.ordered:
            return
        service_tier, tenant = turn.contract.name, turn.arrival.tenant
        key = turn.account
        others = [self._tenants[service_tier, t] for t in present if (service_tier, t) in self._tenants]
        if tenant not in present:
            floor = min(others, default=0)
            self._tenants[key] = max(self._tenants.get(key, 0), floor)
        self._tenants.setdefault(key, 0)
        self._tenants.move_to_end(key)
        while len(self._tenants) > _MAX_COUNTERS:
            self._tenants.popitem(last=False)

    def rank(self, turn: Turn) -> int:
        """Smaller goes first among the tenants of a service tier."""
        return self._tenants.get(turn.account, 0)

    def session_rank(self, turn: Turn) -> int:
        """Smaller goes first among the sessions of a tenant."""
        return self._sessions.get(turn.session_account, 0)

    def charge(self, turns: Iterable[Turn], cost_us: Mapping[RequestId, int]) -> None:
        """The turns are given compute, in this order; those without a cost are given none."""
        if not self._book.ordered:
            return
        tenants, sessions = self._tenants, self._sessions
        for turn in turns:
            cost = cost_us.get(turn.id)
            if cost is not None:
                tenants[turn.account] = tenants.get(turn.account, 0) + cost
                sessions[turn.session_account] = sessions.get(turn.session_account, 0) + cost
                sessions.move_to_end(turn.session_account)
        while len(sessions) > _MAX_COUNTERS:
            sessions.popitem(last=False)

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
