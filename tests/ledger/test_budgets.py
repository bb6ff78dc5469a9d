"""Budgets: nothing is taken that could pass a hard limit, whoever asks and from however many threads."""

from __future__ import annotations

import sys
import threading
from collections import UserDict
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, invariant, multiple, rule

from stepwell.errors import BadInput
from stepwell.ledger.budgets.book import BudgetBook, BudgetName, names_of
from stepwell.ledger.types import Budget, Scope
from stepwell.policy.types import Caller

WHO = Caller("acme", key="key_1", session="s1", agent="a1")


def budget(
    scope: Scope, name: str, hard: int | None, soft: int | None = None, tenant: str = "acme"
) -> Budget:
    return Budget(scope, tenant, name, soft, hard)


def book_with(*budgets: Budget) -> BudgetBook:
    book = BudgetBook()
    for one in budgets:
        book.set(one, 0)
    return book


TENANT = budget(Scope.TENANT, "", 100)
SESSION = budget(Scope.SESSION, "s1", 60, soft=30)


def test_a_hold_is_against_every_budget_and_a_charge_takes_its_place() -> None:
    book = book_with(TENANT, SESSION)
    assert book.reserve(1, WHO, 40).ok
    for scope, name in (Scope.TENANT, ""), (Scope.SESSION, "s1"):
        state = book.state(scope, "acme", name)
        assert state is not None
        assert (state.spent_microusd, state.held_microusd) == (0, 40)
    assert book.settle(1, 25)
    state = book.state(Scope.SESSION, "acme", "s1")
    assert state is not None
    assert (state.spent_microusd, state.held_microusd, state.left_microusd) == (25, 0, 35)


def test_a_hold_that_one_budget_has_no_room_for_is_held_by_none() -> None:
    book = book_with(TENANT, SESSION)
    verdict = book.reserve(1, WHO, 61)
    assert not verdict.ok
    assert verdict.refused is not None
    assert verdict.refused.scope is Scope.SESSION
    assert verdict.refused.state.hard_microusd == 60
    assert verdict.refused.needed_microusd == 61
    assert [state.held_microusd for state in book.states()] == [0, 0]
    assert book.reserve(1, WHO, 60).ok  # the number was not used up


def test_the_widest_budget_that_is_spent_is_named() -> None:
    book = book_with(TENANT, SESSION, budget(Scope.KEY, "key_1", 0), budget(Scope.AGENT, "a1", 0))
    scopes = []
    for raised in TENANT, budget(Scope.KEY, "key_1", 500), SESSION, budget(Scope.AGENT, "a1", 500):
        refused = book.reserve(1, WHO, 200).refused
        assert refused is not None
        scopes.append(refused.scope)
        book.set(budget(raised.scope, raised.name, 500))
    assert scopes == [Scope.TENANT, Scope.KEY, Scope.SESSION, Scope.AGENT]
    assert book.reserve(1, WHO, 200).ok


def test_holds_of_others_are_told_from_a_spent_budget() -> None:
    book = book_with(TENANT)
    assert book.reserve(1, WHO, 80).ok
    waiting = book.reserve(2, WHO, 30).refused
    assert waiting is not None
    assert waiting.passing
    book.settle(1, 80)
    spent = book.reserve(2, WHO, 30).refused
    assert spent is not None
    assert not spent.passing


def test_a_spent_budget_takes_nothing_not_even_what_is_free_until_it_is_raised() -> None:
    book = book_with(SESSION)
    book.reserve(1, WHO, 60)
    book.settle(1, 60)
    state = book.state(Scope.SESSION, "acme", "s1")
    assert state is not None
    assert state.reached
    assert not book.reserve(2, WHO, 0).ok
    raised = book.set(budget(Scope.SESSION, "s1", 61))
    assert raised is not None
    assert not raised.reached
    assert raised.spent_microusd == 60
    assert book.reserve(2, WHO, 1).ok


def test_the_soft_limit_warns_and_refuses_nothing() -> None:
    book = book_with(SESSION)
    assert book.reserve(1, WHO, 30).warned == ()
    book.settle(1, 30)
    verdict = book.reserve(2, WHO, 10)
    assert verdict.ok
    assert [state.name for state in verdict.warned] == [BudgetName(Scope.SESSION, "acme", "s1")]
    assert book.set(budget(Scope.SESSION, "s1", None, soft=1)) is not None
    assert book.reserve(3, WHO, 10**9).ok  # no hard limit


def test_settling_and_releasing_happen_once() -> None:
    book = book_with(TENANT)
    book.reserve(1, WHO, 50)
    assert book.settle(1, 20)
    assert not book.settle(1, 20)
    assert not book.release(1)
    assert not book.settle(99, 20)
    state = book.state(Scope.TENANT, "acme")
    assert state is not None
    assert (state.spent_microusd, state.held_microusd) == (20, 0)


def test_a_release_gives_the_hold_back() -> None:
    book = book_with(TENANT)
    book.reserve(1, WHO, 100)
    assert book.held_microusd(1) == 100
    assert not book.reserve(2, WHO, 1).ok
    assert book.release(1)
    assert book.held_microusd(1) is None
    assert book.reserve(2, WHO, 100).ok


def test_a_correction_moves_what_was_spent_both_ways() -> None:
    book = book_with(TENANT, SESSION)
    book.correct(WHO, 60)
    assert not book.reserve(1, WHO, 1).ok
    book.correct(WHO, -10)
    assert book.reserve(1, WHO, 10).ok


def test_a_customer_does_not_come_under_anothers_budget() -> None:
    book = book_with(budget(Scope.TENANT, "", 0), SESSION, budget(Scope.SESSION, "s2", 0))
    assert book.reserve(1, replace(WHO, tenant="other"), 100).ok
    assert [state.held_microusd for state in book.states("acme")] == [0, 0, 0]
    assert book.states("other") == []
    assert book.state(Scope.TENANT, "other") is None


def test_a_name_that_is_empty_has_no_budget_of_its_own() -> None:
    assert names_of(Caller("acme")) == (BudgetName(Scope.TENANT, "acme"),)
    assert len(names_of(WHO)) == 4


def test_a_budget_that_is_taken_away_bounds_nothing() -> None:
    book = book_with(SESSION)
    book.reserve(1, WHO, 60)
    assert book.set(budget(Scope.SESSION, "s1", None)) is None
    assert book.reserve(2, WHO, 10**6).ok
    assert book.settle(1, 5)
    assert book.states() == []


def test_programming_errors_are_errors() -> None:
    book = book_with(TENANT)
    book.reserve(1, WHO, 1)
    with pytest.raises(ValueError, match="holds an amount already"):
        book.reserve(1, WHO, 1)
    for wrong in -1, 2**63:
        with pytest.raises(ValueError, match="out of bounds"):
            book.reserve(2, WHO, wrong)
    with pytest.raises(ValueError, match="negative"):
        book.settle(1, -1)


@pytest.mark.parametrize(
    ("wrong", "reason"),
    [
        (budget(Scope.SESSION, "s1", -1), "out of bounds"),
        (budget(Scope.SESSION, "s1", 2**63), "out of bounds"),
        (budget(Scope.SESSION, "s1", 5, soft=6), "soft limit is above the hard one"),
        (budget(Scope.SESSION, "", 5), "needs a name"),
        (budget(Scope.TENANT, "acme", 5), "needs a name"),
    ],
)
def test_a_budget_that_makes_no_sense_is_refused(wrong: Budget, reason: str) -> None:
    with pytest.raises(BadInput, match=reason):
        BudgetBook().set(wrong)


def test_there_are_only_so_many_budgets() -> None:
    book = BudgetBook(max_budgets=2)
    for name in "ab":
        book.set(budget(Scope.SESSION, name, 1))
    with pytest.raises(BadInput, match="2 budgets already"):
        book.set(budget(Scope.SESSION, "c", 1))
    book.set(budget(Scope.SESSION, "a", 2))
    book.set(budget(Scope.SESSION, "a", None))
    assert book.set(budget(Scope.SESSION, "c", 1)) is not None


# --- what was spent before ---------------------------------------------------------------------


def test_a_start_takes_up_what_the_books_show() -> None:
    book = BudgetBook()
    book.seed([TENANT, SESSION], {BudgetName(Scope.SESSION, "acme", "s1"): 55})
    assert [state.spent_microusd for state in book.states()] == [55, 0]
    assert not book.reserve(1, WHO, 6).ok
    assert book.reserve(1, WHO, 5).ok


def test_a_later_budget_asks_the_books_and_counts_what_is_held() -> None:
    asked = []

    def spent_before(name: BudgetName) -> int:
        asked.append(name)
        return 40

    book = BudgetBook(spent_before)
    book.reserve(1, WHO, 15)
    state = book.set(SESSION)
    assert asked == [BudgetName(Scope.SESSION, "acme", "s1")]
    assert state is not None
    assert (state.spent_microusd, state.held_microusd) == (40, 15)
    assert not book.reserve(2, WHO, 6).ok
    book.settle(1, 15)
    book.set(budget(Scope.SESSION, "s1", 80))
    assert len(asked) == 1
    book.check()


def test_a_charge_while_the_books_are_asked_is_counted_once() -> None:
    settled = {"spent": 40}

    def spent_before(name: BudgetName) -> int:
        if book.settle(1, 15):
            settled["spent"] += 15  # it is in the books by the time they answer
        return settled["spent"]

    book = BudgetBook(spent_before)
    book.reserve(1, WHO, 15)
    state = book.set(SESSION)
    assert state is not None
    assert (state.spent_microusd, state.held_microusd) == (55, 0)


def test_without_a_quiet_moment_too_much_is_counted_rather_than_too_little() -> None:
    numbers = iter(range(100))
    written = 0

    def spent_before(name: BudgetName) -> int:
        nonlocal written
        request = next(numbers)
        book.reserve(request, WHO, 1)
        book.settle(request, 1)
        written += 1
        return written

    book = BudgetBook(spent_before)
    state = book.set(SESSION)
    assert state is not None
    assert written <= state.spent_microusd <= written + 1
    assert next(numbers) < 20


def test_books_that_cannot_be_asked_leave_no_budget() -> None:
    def unreadable(name: BudgetName) -> int:
        raise OSError("no disk")

    book = BudgetBook(unreadable)
    with pytest.raises(OSError, match="no disk"):
        book.set(SESSION)
    assert book.states() == []
    state = book.set(SESSION, 5)
    assert state is not None
    assert state.spent_microusd == 5


def test_a_budget_is_not_in_force_before_the_books_have_answered() -> None:
    def spent_before(name: BudgetName) -> int:
        assert book.state(*name) is None
        assert book.states() == []
        assert book.reserve(1, WHO, 10**6).ok
        return 0

    book = BudgetBook(spent_before)
    assert book.set(SESSION) is not None
    book.check()


# --- at any time -------------------------------------------------------------------------------

CUSTOMERS = st.builds(
    Caller,
    tenant=st.sampled_from(["acme", "globex"]),
    key=st.sampled_from(["", "key_1"]),
    session=st.sampled_from(["", "s1", "s2"]),
    agent=st.sampled_from(["", "a1"]),
)
NAMES = [
    (Scope.TENANT, ""),
    (Scope.KEY, "key_1"),
    (Scope.SESSION, "s1"),
    (Scope.SESSION, "s2"),
    (Scope.AGENT, "a1"),
]


class BudgetLife(RuleBasedStateMachine):
    """Against a model that sums every name up from a list of what happened."""

    requests = Bundle("requests")

    def __init__(self) -> None:
        super().__init__()
        self.book = BudgetBook(self._spent)
        self.next = 0
        self.holds: dict[int, tuple[tuple[BudgetName, ...], int]] = {}
        self.charges: list[tuple[tuple[BudgetName, ...], int]] = []
        self.hard: dict[BudgetName, int] = {}
        self.lowered: set[BudgetName] = set()

    def _spent(self, name: BudgetName) -> int:
        return sum(amount for names, amount in self.charges if name in names)

    def _held(self, name: BudgetName) -> int:
        return sum(amount for names, amount in self.holds.values() if name in names)

    @rule(tenant=st.sampled_from(["acme", "globex"]), name=st.sampled_from(NAMES), hard=st.integers(0, 60))
    def sets(self, tenant: str, name: tuple[Scope, str], hard: int) -> None:
        full = BudgetName(name[0], tenant, name[1])
        self.book.set(Budget(*full, None, hard))
        self.hard[full] = hard
        # Setting a limit below what is spent and held is allowed; nothing more is taken then.
        (self.lowered.add if self._spent(full) + self._held(full) > hard else self.lowered.discard)(full)

    @rule(tenant=st.sampled_from(["acme", "globex"]), name=st.sampled_from(NAMES))
    def removes(self, tenant: str, name: tuple[Scope, str]) -> None:
        full = BudgetName(name[0], tenant, name[1])
        self.book.set(Budget(*full, None, None))
        self.hard.pop(full, None)
        self.lowered.discard(full)

    @rule(target=requests, who=CUSTOMERS, amount=st.integers(0, 30))
    def reserves(self, who: Caller, amount: int) -> Iterable[int]:
        self.next += 1
        names = names_of(who)
        fits = [
            self._spent(n) < self.hard[n] and self._spent(n) + self._held(n) + amount <= self.hard[n]
            for n in names
            if n in self.hard
        ]
        assert self.book.reserve(self.next, who, amount).ok == all(fits)
        if not all(fits):
            return multiple()
        self.holds[self.next] = (names, amount)
        return multiple(self.next)

    @rule(request=consumes(requests), part=st.floats(0, 1), again=st.booleans())
    def settles(self, request: int, part: float, again: bool) -> None:
        names, held = self.holds.pop(request)
        self.charges.append((names, int(held * part)))
        assert self.book.settle(request, int(held * part))
        if again:
            assert not self.book.settle(request, held)

    @rule(request=consumes(requests))
    def releases(self, request: int) -> None:
        del self.holds[request]
        assert self.book.release(request)

    @invariant()
    def no_hard_limit_is_overrun(self) -> None:
        states = {state.name: state for state in self.book.states()}
        assert states.keys() == self.hard.keys()
        for name, state in states.items():
            assert (state.spent_microusd, state.held_microusd) == (self._spent(name), self._held(name))
            assert state.held_microusd >= 0
            if name not in self.lowered:
                assert state.spent_microusd + state.held_microusd <= self.hard[name]
        self.book.check()


TestBudgetLife = BudgetLife.TestCase
TestBudgetLife.settings = settings(max_examples=60, stateful_step_count=40, deadline=None)


class Guarded(UserDict[Any, Any]):
    """Notes every access without the lock."""

    def __init__(self, lock: threading.Lock, content: dict[Any, Any]) -> None:
        self.lock, self.unguarded = lock, 0
        super().__init__(content)

    def __getitem__(self, key: object) -> Any:
        self.unguarded += not self.lock.locked()
        return super().__getitem__(key)

    def __setitem__(self, key: object, item: Any) -> None:
        self.unguarded += not self.lock.locked()
        super().__setitem__(key, item)

    def __delitem__(self, key: object) -> None:
        self.unguarded += not self.lock.locked()
        super().__delitem__(key)

    def __iter__(self) -> Iterator[Any]:
        self.unguarded += not self.lock.locked()
        return super().__iter__()


def test_everything_is_read_and_written_under_the_lock() -> None:
    book = book_with(TENANT)
    with book._lock:
        book._accounts = accounts = Guarded(book._lock, book._accounts)  # type: ignore[assignment]
        book._holds = holds = Guarded(book._lock, book._holds)  # type: ignore[assignment]
    book.set(SESSION)
    for request in 1, 2:
        assert book.reserve(request, WHO, 10).ok
    book.held_microusd(1)
    book.settle(1, 5)
    book.release(2)
    book.correct(WHO, 1)
    assert len(book.states()) == 2
    assert book.state(Scope.TENANT, "acme") is not None
    book.set(budget(Scope.SESSION, "s1", None))
    book.check()
    assert (accounts.unguarded, holds.unguarded) == (0, 0)


@pytest.fixture
def restless() -> Iterator[None]:
    """Threads take turns as often as they can, so that what is not under the lock is found out."""
    usual = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual)


@pytest.mark.usefixtures("restless")
def test_many_threads_together_overrun_nothing() -> None:
    book = book_with(budget(Scope.TENANT, "", 1_000), budget(Scope.SESSION, "s1", 700))
    begin = threading.Barrier(8)

    def customer(number: int) -> int:
        begin.wait(30)
        charged = 0
        for request in range(number * 1_000, number * 1_000 + 200):
            if book.reserve(request, WHO, 7).ok:
                for state in book.states():
                    assert state.hard_microusd is not None
                    assert state.spent_microusd + state.held_microusd <= state.hard_microusd
                charged += 5
                assert book.settle(request, 5)
        return charged

    with ThreadPoolExecutor(8) as pool:
        charged = sum(pool.map(customer, range(8)))
    state = book.state(Scope.SESSION, "acme", "s1")
    assert state is not None
    assert state.spent_microusd == charged
    assert 700 - 7 < state.spent_microusd <= 700
    book.check()


def test_a_budget_may_be_set_while_others_work() -> None:
    """The limit holds from the moment it is in force, whatever is settled while it is set."""
    spent: list[int] = []

    def spent_before(name: BudgetName) -> int:
        return sum(spent)

    book = BudgetBook(spent_before)

    def worker(number: int) -> None:
        for request in range(number * 1_000, number * 1_000 + 300):
            if book.reserve(request, WHO, 3).ok:
                spent.append(2)  # in the books before it is settled
                book.settle(request, 2)

    with ThreadPoolExecutor(5) as pool:
        futures = [pool.submit(worker, number) for number in range(4)]
        state = book.set(budget(Scope.SESSION, "s1", 10**9))
        for future in futures:
            future.result()
    assert state is not None
    final = book.state(Scope.SESSION, "acme", "s1")
    assert final is not None
    assert final.spent_microusd >= sum(spent) == 4 * 300 * 2
    assert final.held_microusd == 0
