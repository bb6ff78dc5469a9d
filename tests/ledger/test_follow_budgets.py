"""Two nodes of one ledger: what one lets a customer spend the other knows when it has asked."""

from __future__ import annotations

import threading
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.ledger.base import LedgerError, LedgerFull, PostingBatch, RunId
from stepwell.ledger.budgets import BudgetBook, BudgetName
from stepwell.ledger.follow_budgets import BudgetFollower
from stepwell.ledger.settings import LedgerSettings
from stepwell.ledger.start import Ledger, open_ledger
from stepwell.ledger.types import Account, Budget, Scope, Usage
from stepwell.ledger.writer import LedgerWriter
from stepwell.policy.config import PolicyConfig
from stepwell.policy.types import Caller, Plan

ACME = Caller("acme", "default", "s", "a", key="key_1")
LIMIT = 1_000


def node(path: Path, name: str) -> Ledger:
    settings = LedgerSettings(path=str(path))
    config = PolicyConfig(64, 64, 1, 0, 0, 0, 0)
    budgets = (Budget(Scope.TENANT, "acme", "", None, LIMIT),)
    return open_ledger(settings, config, "m", now_us=0, wall_us=10**15, node=name, budgets=budgets)


def spend(one: Ledger, microusd: int, at_us: int) -> None:
    row = Usage(0, Account.of(ACME), "m", "stop", 0, requests=0, charge_microusd=microusd)
    one.keeper.correct(row)
    one.keeper.decided(at_us, [], Plan())


def test_what_one_node_has_spent_the_other_refuses(tmp_path: Path) -> None:
    first, second = node(tmp_path / "books.db", "first"), node(tmp_path / "books.db", "second")
    try:
        spend(first, 700, 10)
        assert first.flush()
        assert second.budgets.judge(ACME, 400).ok, "the gap: it has not asked yet"
        second.budgets.ask_again()
        assert not second.budgets.judge(ACME, 400).ok
        assert second.budgets.judge(ACME, 300).ok
        spend(second, 300, 20)
        first.budgets.judge(ACME, 0)
        second.flush()
        first.budgets.ask_again()
        assert not first.budgets.judge(ACME, 1).ok
    finally:
        for one in (first, second):
            one.keeper.close(30)
            one.close()


@given(st.lists(st.tuples(st.sampled_from(["mine", "other", "ask", "end"]), st.integers(0, 50)), max_size=30))
def test_spent_is_never_less_than_the_books_and_right_when_asked(steps: list[tuple[str, int]]) -> None:
    books = {"mine": 0, "other": 0}
    book = BudgetBook(lambda name: sum(books.values()))
    book.set(Budget(Scope.TENANT, "acme", "", None, 10**9), 0)
    held: list[int] = []
    for number, (what, amount) in enumerate(steps):
        if what == "mine":
            assert book.reserve(number, ACME, amount).ok
            held.append(number)
        elif what == "end" and held:
            books["mine"] += amount
            book.settle(held.pop(), amount)
        elif what == "other":
            books["other"] += amount
        else:
            book.judge(ACME, 0)
            book.ask_again()
            assert spent(book) == sum(books.values())
        assert spent(book) >= books["mine"]
        book.check()


def spent(book: BudgetBook) -> int:
    state = book.state(Scope.TENANT, "acme")
    assert state is not None
    return state.spent_microusd


def test_a_charge_that_comes_while_the_books_are_asked_is_not_lost() -> None:
    book = BudgetBook()
    book.set(Budget(Scope.TENANT, "acme", "", None, LIMIT), 0)
    assert book.reserve(1, ACME, 100).ok

    def asked(name: BudgetName) -> int:
        book.settle(1, 100)
        return 0  # the answer was made before the charge

    book.spent_before = asked
    book.ask_again()
    assert spent(book) == 100


def test_charges_that_cannot_be_entered_stay_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    one, flush = node(tmp_path / "books.db", "first"), LedgerWriter.flush

    def full(run: RunId, batch: PostingBatch) -> None:
        raise LedgerFull("no room")

    try:
        with monkeypatch.context() as patched:
            patched.setattr(one.store, "write", full)
            patched.setattr(LedgerWriter, "flush", lambda writer: flush(writer, 0.01))
            spend(one, 700, 10)
            one.budgets.judge(ACME, 0)
            with pytest.raises(LedgerError):
                one.budgets.ask_again()
            assert not one.budgets.judge(ACME, 400).ok
        one.budgets.ask_again()
        assert spent(one.budgets) == 700
    finally:
        one.keeper.close(30)
        one.close()


def test_books_that_are_away_are_asked_again() -> None:
    book, asked = BudgetBook(), threading.Semaphore(0)
    book.set(Budget(Scope.TENANT, "acme", "", None, LIMIT), 0)
    book.judge(ACME, 0)

    def away(name: BudgetName) -> int:
        asked.release()
        raise LedgerError("away")

    book.spent_before = away
    follower = BudgetFollower(book, 0.001)
    try:
        for _ in range(3):
            assert asked.acquire(timeout=60)
    finally:
        follower.close()
    assert book.judge(ACME, LIMIT).ok
