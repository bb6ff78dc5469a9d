"""Budgets in memory: what was spent and what is held, per tenant, key, session and agent.

A request reserves the most that it may cost before any work is done for it, and its charge takes the place of
that hold when it ends. A hold that does not fit is refused although less than the limit is spent, so spending
never passes a hard limit::

    spent + held <= hard        after every reservation; a charge within its hold keeps it

All four names of a request are checked and held under one lock: it is held against all of them or against
none.

Where several nodes share a ledger, a name's room here is its *lease* (``leases``), which ``lessee`` gets from
the books; a request that it has no room for may be held *ahead*, once the lease has been enlarged for it.

Only names that have a budget are counted here; setting a budget for a name that is not counted yet says
how to ask the books what it has spent before (``spent_before``). Memory is therefore bounded by the number of
budgets, which is bounded by ``max_budgets``, and by the requests under way.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from stepwell.errors import BadInput
from stepwell.ledger.leases import Lease, LeaseNeed, LeaseShare
from stepwell.ledger.types import MAX_AMOUNT, Account, Budget, Scope
from stepwell.policy.types import Caller

MAX_BUDGETS = 100_000
"""About 50 MB of them."""
MAX_TRIES = 8


class BudgetName(NamedTuple):
    """The tenant, key, session or agent whose spending it is."""

    scope: Scope
    tenant: str
    name: str = ""
    """The key's id, the session or the agent; empty for the tenant itself."""


SpentBefore = Callable[[BudgetName], int]
"""Micro-dollars that the books show as spent by a name, all settled before the call included: a caller that
settles has handed the posting to the writer before, and the answer waits until the writer is through.
(A charge between those two is counted twice, which is the safe side; in the other order it would be lost.)
Called without the lock that ``reserve`` and ``settle`` take; must not set a budget itself."""


@dataclass(frozen=True, slots=True)
class BudgetState:
    """One budget and how far it is used."""

    name: BudgetName
    soft_microusd: int | None
    hard_microusd: int | None
    spent_microusd: int
    held_microusd: int
    elsewhere_microusd: int = 0
    """What other nodes may still spend of it without asking."""
    unknown: bool = False
    """The books could not be asked what is left."""

    @property
    def reached(self) -> bool:
        """Nothing more is taken until it is raised."""
        return self.hard_microusd is not None and self.spent_microusd >= self.hard_microusd

    @property
    def warned(self) -> bool:
        """The soft limit is reached."""
        return self.soft_microusd is not None and self.spent_microusd >= self.soft_microusd

    @property
    def left_microusd(self) -> int | None:
        """What may still be held; None: no bound."""
        if self.hard_microusd is None:
            return None
        return max(0, self.hard_microusd - self.spent_microusd - self.held_microusd - self.elsewhere_microusd)


@dataclass(frozen=True, slots=True)
class BudgetExceeded:
    """Why a request was refused."""

    state: BudgetState
    needed_microusd: int
    """What the request would have held."""

    @property
    def scope(self) -> Scope:
        """What kind of holder the budget belongs to."""
        return self.state.name.scope

    @property
    def passing(self) -> bool:
        """Only what is held, here or by other nodes, is in the way: it fits if that ends without a charge."""
        hard = self.state.hard_microusd
        return not self.state.reached and (
            hard is None or self.state.spent_microusd + self.needed_microusd <= hard
        )


@dataclass(frozen=True, slots=True)
class ReservationVerdict:
    """What came of a reservation."""

    refused: BudgetExceeded | None = None
    """The first budget that has no room, the widest scope first."""
    warned: tuple[BudgetState, ...] = ()
    """Budgets of the request whose soft limit is reached."""

    @property
    def ok(self) -> bool:
        """Whether the amount is held."""
        return self.refused is None


@dataclass(slots=True)
class _Account:
    """What is counted for one name."""

    soft: int | None = None
    hard: int | None = None
    spent: int = 0
    held: int = 0
    settled: int = 0
    """How many charges and corrections came: whether the books were asked at a quiet moment."""
    judged: bool = False
    """A request came under it since the books were asked last."""
    share: LeaseShare | None = None
    """None: this server has the ledger to itself."""

    @property
    def in_force(self) -> bool:
        """False while the books are asked for what was spent before."""
        return self.soft is not None or self.hard is not None

    def state(self, name: BudgetName) -> BudgetState:
        share = self.share
        if share is None:
            return BudgetState(name, self.soft, self.hard, self.spent, self.held)
        return BudgetState(name, self.soft, self.hard, self.spent, self.held, share.elsewhere, share.unknown)

    def admits(self, amount: int, clock: Callable[[], float]) -> bool:
        if self.share is not None and self.short_of(amount, clock):
            return False
        hard = self.hard
        return hard is None or (self.spent < hard and self.spent + self.held + amount <= hard)

    def short_of(self, amount: int, clock: Callable[[], float]) -> bool:
        """Only a larger lease is wanting."""
        share, hard = self.share, self.hard
        if share is None or hard is None or self.spent >= hard or self.spent + self.held + amount > hard:
            return False
        share.most = max(share.most, amount)
        return not share.has_room(self.held, amount, clock())


@dataclass(frozen=True, slots=True)
class _Hold:
    names: tuple[BudgetName, ...]
    microusd: int


def names_of(owner: Caller | Account) -> tuple[BudgetName, ...]:
    """The budgets that a request may come under, the widest first; a name that is empty has none."""
    narrower = ((Scope.KEY, owner.key), (Scope.SESSION, owner.session), (Scope.AGENT, owner.agent))
    return (
        BudgetName(Scope.TENANT, owner.tenant),
        *(BudgetName(scope, owner.tenant, name) for scope, name in narrower if name),
    )


def _nothing(name: BudgetName) -> int:
    """For books that begin empty."""
    return 0


@dataclass
class BudgetBook:
    """All budgets of a server. Every method may be called from any thread."""

    spent_before: SpentBefore = _nothing
    """Asked when a name gets its first budget; see ``SpentBefore``."""
    max_budgets: int = MAX_BUDGETS
    monotonic: Callable[[], float] = time.monotonic
    """This process's own clock, in seconds."""
    spent_here: SpentBefore | None = None
    """The same of this server's own runs, where it shares budgets with other nodes. None: it shares none."""
    _accounts: dict[BudgetName, _Account] = field(default_factory=dict, init=False)
    _holds: dict[int, _Hold] = field(default_factory=dict, init=False)
    _ahead: dict[tuple[BudgetName, ...], int] = field(default_factory=dict, init=False)
    """Held for requests of these names that are about to be reserved."""
    _beside: int = field(default=0, init=False)
    _lock: threading.Lock = field(default_factory=threading.Lock, init=False)
    _setting: threading.Lock = field(default_factory=threading.Lock, init=False)
    """Budgets are set one after the other, so that the books are asked without ``_lock``."""

    @staticmethod
    def check_budget(budget: Budget) -> None:
        """Raise ``BadInput`` for limits that make no sense, before they are entered anywhere."""
        _validate(budget)

    def set(self, budget: Budget, spent_microusd: int | None = None) -> BudgetState | None:
        """Put a budget in force, or take it away (neither soft nor hard: the answer is None).

        For a name without one, ``spent_before`` is asked unless ``spent_microusd`` says what it has spent (0
        for a session that is new). Raises ``BadInput`` for limits that make no sense and for too many
        budgets, and whatever ``spent_before`` raises; nothing has changed then.
        """
        name = BudgetName(budget.scope, budget.tenant, budget.name)
        _validate(budget)
        with self._setting:
            if budget.soft_microusd is None and budget.hard_microusd is None:
                with self._lock:
                    self._accounts.pop(name, None)
                return None
            if name not in self._accounts:
                self._open(name, spent_microusd)
            with self._lock:
                account = self._accounts[name]
                account.soft, account.hard = budget.soft_microusd, budget.hard_microusd
                return account.state(name)

    def seed(self, budgets: Iterable[Budget], spent_microusd: Mapping[BudgetName, int]) -> None:
        """At start: the budgets in force, and what the books show as spent by name (nothing if not there)."""
        for budget in budgets:
            name = BudgetName(budget.scope, budget.tenant, budget.name)
            self.set(budget, spent_microusd.get(name, 0))

    def number_beside(self) -> int:
        """Of a hold for something that is no request of the loop."""
        with self._lock:
            self._beside -= 1
            return self._beside

    def reserve(self, request: int, caller: Caller, hold_microusd: int) -> ReservationVerdict:
        """Hold an amount against every budget of a request, or against none when one of them has no room.

        ``ValueError`` when the request holds something already, or the amount is negative.
        """
        if not 0 <= hold_microusd <= MAX_AMOUNT:
            raise ValueError(f"a hold of {hold_microusd} micro-dollars is out of bounds")
        names = names_of(caller)
        with self._lock:
            if request in self._holds:
                raise ValueError(f"request {request} holds an amount already")
            ready = min(hold_microusd, self._ahead.get(names, 0)) if self._ahead else 0
            verdict, accounts = self._judge(names, hold_microusd - ready)
            if verdict.ok:
                if ready:
                    self._take_ahead(names, ready)
                for account in accounts:
                    account.held += hold_microusd - ready
                self._holds[request] = _Hold(names, hold_microusd)
            return verdict

    def judge(self, caller: Caller, hold_microusd: int) -> ReservationVerdict:
        """What ``reserve`` would say now. Nothing is held."""
        with self._lock:
            names = names_of(caller)
            return self._judge(names, max(0, hold_microusd - self._ahead.get(names, 0)))[0]

    def _judge(self, names: Iterable[BudgetName], amount: int) -> tuple[ReservationVerdict, list[_Account]]:
        found = [(name, account) for name in names if (account := self._accounts.get(name))]
        for _, account in found:
            account.judged = True
        full = next(
            ((name, account) for name, account in found if not account.admits(amount, self.monotonic)), None
        )
        refused = None if full is None else BudgetExceeded(full[1].state(full[0]), amount)
        return ReservationVerdict(refused, _warned(found)), [account for _, account in found]

    def settle(self, request: int, charge_microusd: int) -> bool:
        """The charge takes the place of the hold. False, and nothing changes, when the request holds nothing
        (it was settled or released before). A charge above its hold is counted as it is: what was charged
        was spent."""
        if charge_microusd < 0:
            raise ValueError(f"a charge of {charge_microusd} micro-dollars is negative")
        return self._end(request, charge_microusd)

    def release(self, request: int) -> bool:
        """The request ended without a charge. False when it holds nothing."""
        return self._end(request, 0)

    def correct(self, owner: Caller | Account, delta_microusd: int) -> None:
        """A correction was posted: so much more (or less) was spent than was settled."""
        with self._lock:
            for name in names_of(owner):
                self._spend(name, delta_microusd)

    def state(
        self, scope: Scope, tenant: str, name: str = "", *, ended: Mapping[int, int] | None = None
    ) -> BudgetState | None:
        """How far a budget is used; None when the name has none. ``ended``: requests of the name that have
        ended and what they come to; what is not settled yet of it counts as spent."""
        full = BudgetName(scope, tenant, name)
        with self._lock:
            account = self._accounts.get(full)
            if account is None or not account.in_force:
                return None
            coming = sum(charge for request, charge in (ended or {}).items() if request in self._holds)
            state = account.state(full)
            return replace(state, spent_microusd=state.spent_microusd + coming)

    def states(self, tenant: str | None = None) -> list[BudgetState]:
        """All budgets, or those of one tenant, in the order of their names."""
        with self._lock:
            found = [
                account.state(name)
                for name, account in self._accounts.items()
                if account.in_force and tenant in (None, name.tenant)
            ]
        return sorted(found, key=lambda state: state.name)

    def held_microusd(self, request: int) -> int | None:
        """What a request holds; None when it holds nothing."""
        with self._lock:
            hold = self._holds.get(request)
            return hold.microusd if hold else None

    # --- leases, where budgets are shared with other nodes ------------------------------------------

    def short_of(self, caller: Caller, hold_microusd: int) -> tuple[BudgetName, ...]:
        """The budgets of a request whose leases have no room for it although they themselves may have."""
        if self.spent_here is None:
            return ()
        names = names_of(caller)
        with self._lock:
            amount = max(0, hold_microusd - self._ahead.get(names, 0))
            return tuple(
                n for n in names if (one := self._accounts.get(n)) and one.short_of(amount, self.monotonic)
            )

    def hold_ahead(self, caller: Caller, hold_microusd: int) -> bool:
        """Hold for a request that is reserved in a moment, or not at all (False)."""
        names = names_of(caller)
        with self._lock:
            verdict, accounts = self._judge(names, hold_microusd)
            if verdict.ok:
                for account in accounts:
                    account.held += hold_microusd
                self._ahead[names] = self._ahead.get(names, 0) + hold_microusd
            return verdict.ok

    def end_ahead(self, caller: Caller, hold_microusd: int) -> None:
        """The request was not reserved."""
        names = names_of(caller)
        with self._lock:
            unused = min(hold_microusd, self._ahead.get(names, 0))
            self._take_ahead(names, unused)
            for name in names:
                if account := self._accounts.get(name):
                    account.held -= unused

    def _take_ahead(self, names: tuple[BudgetName, ...], amount: int) -> None:
        if amount:
            self._ahead[names] -= amount
            if not self._ahead[names]:
                del self._ahead[names]

    def to_renew(self) -> dict[BudgetName, bool]:
        """Names whose leases are looked after now, and whether requests came under them lately."""
        with self._lock:
            return {
                name: one.judged or one.held > 0
                for name, one in self._accounts.items()
                if one.in_force and one.share and (one.judged or one.held or one.share.granted)
            }

    def need_of(self, name: BudgetName, more: int = 0, *, give_back: bool = False) -> LeaseNeed | None:
        """What to ask the books for; None: the budget is gone. What is given back is not used from now on."""
        with self._lock:
            account = self._accounts.get(name)
            if account is None or (share := account.share) is None:
                return None
            used = share.charged + account.held
            if give_back:
                share.granted = min(share.granted, used)
            return LeaseNeed(used, more, None if give_back else max(more, share.most), share.short_rounds > 0)

    def leased(self, name: BudgetName, lease: Lease, asked_at_s: float) -> None:
        """What came of asking at that time of this process's own clock."""
        with self._lock:
            account = self._accounts.get(name)
            if account is None or (share := account.share) is None:
                return
            share.take(lease, asked_at_s)
            account.spent = lease.spent_microusd + share.charged - lease.charged_microusd

    def renewed(self, name: BudgetName) -> None:
        """A round of renewals has come by: what is judged from here on is of the next one."""
        with self._lock:
            account = self._accounts.get(name)
            if account is not None and account.share is not None:
                account.judged, account.share.most = False, 0
                account.share.short_rounds = max(0, account.share.short_rounds - 1)

    def not_leased(self, name: BudgetName) -> None:
        """The books did not answer."""
        with self._lock:
            account = self._accounts.get(name)
            if account is not None and account.share is not None:
                account.share.unknown = True

    def check(self) -> None:
        """Raise ``AssertionError`` unless what is held by name is the sum of what requests hold."""
        with self._lock:
            for name, account in self._accounts.items():
                held = sum(hold.microusd for hold in self._holds.values() if name in hold.names)
                held += sum(amount for names, amount in self._ahead.items() if name in names)
                assert held == account.held >= 0, (name, held, account.held)

    def _open(self, name: BudgetName, spent_microusd: int | None) -> None:
        """Begin to count for a name, with what requests under way hold for it."""
        with self._lock:
            if len(self._accounts) >= self.max_budgets:
                raise BadInput(f"there are {self.max_budgets} budgets already: remove one to set another")
            held = sum(hold.microusd for hold in self._holds.values() if name in hold.names)
            held += sum(amount for names, amount in self._ahead.items() if name in names)
            share = None if self.spent_here is None else LeaseShare()
            account = self._accounts[name] = _Account(spent=spent_microusd or 0, held=held, share=share)
        if spent_microusd is None:
            try:
                self._ask(name, account)
            except BaseException:
                with self._lock:
                    del self._accounts[name]
                raise

    def _ask(self, name: BudgetName, account: _Account) -> None:
        """Add what the books say, asked at a moment at which nothing is settled for the name.

        A charge that comes while they are asked may or may not be in their answer. When there is no quiet
        moment it is counted on top: rather too much spent than a limit overrun.
        """
        for tries_left in reversed(range(MAX_TRIES)):
            with self._lock:
                settled, account.spent = account.settled, 0
                if account.share is not None:
                    account.share.charged = 0
            spent = self.spent_before(name)
            here = 0 if self.spent_here is None else self.spent_here(name)
            with self._lock:
                if account.settled == settled or not tries_left:
                    account.spent += spent
                    if account.share is not None:
                        account.share.charged += here
                    return

    def _end(self, request: int, charge_microusd: int) -> bool:
        with self._lock:
            hold = self._holds.pop(request, None)
            if hold is None:
                return False
            for name in hold.names:
                if account := self._accounts.get(name):
                    account.held -= hold.microusd
                self._spend(name, charge_microusd)
            return True

    def _spend(self, name: BudgetName, amount: int) -> None:
        if amount and (account := self._accounts.get(name)):
            account.spent += amount
            account.settled += 1
            if account.share is not None:
                account.share.charged += amount


def _warned(accounts: Iterable[tuple[BudgetName, _Account]]) -> tuple[BudgetState, ...]:
    states = (account.state(name) for name, account in accounts)
    return tuple(state for state in states if state.warned)


def _validate(budget: Budget) -> None:
    what = f"the budget of {budget.scope} {budget.name or budget.tenant!r}"
    if bool(budget.name) == (budget.scope is Scope.TENANT):
        raise BadInput(f"{what} needs a name, unless it is the tenant's own, which has none")
    soft, hard = budget.soft_microusd, budget.hard_microusd
    for amount in (soft, hard):
        if amount is not None and not 0 <= amount <= MAX_AMOUNT:
            raise BadInput(f"{what}: {amount} micro-dollars is out of bounds")
    if soft is not None and hard is not None and soft > hard:
        raise BadInput(f"{what}: the soft limit is above the hard one, so the warning would never come")
