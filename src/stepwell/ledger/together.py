"""The books of a server of several models as one: a run for each, one store, one book of budgets."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

from stepwell.ledger.base import Store
from stepwell.ledger.bookkeeper import Refusal
from stepwell.ledger.budgets.book import BudgetBook
from stepwell.ledger.budgets.lessee import Lessee
from stepwell.ledger.keeper import Sums
from stepwell.ledger.port import RunningBooks
from stepwell.ledger.pricing.bills import Bills
from stepwell.ledger.pricing.costs import Rates
from stepwell.ledger.types import Budget, Usage
from stepwell.policy.types import Embedded, RequestArrived


class BooksTogether:
    """``RunningBooks`` over those of all models. What belongs to one model is asked of that one's own."""

    def __init__(self, books: Sequence[RunningBooks]) -> None:
        self._books = tuple(books)
        self._first = self._books[0]

    @property
    def store(self) -> Store:
        return self._first.store

    @property
    def bills(self) -> Bills:
        return self._first.bills

    @property
    def budgets(self) -> BudgetBook:
        return self._first.budgets

    @property
    def rates(self) -> Rates:
        return self._first.rates

    @property
    def sums(self) -> Sums:
        whole = Sums()
        for books in self._books:
            sums = books.sums
            _add(whole.used, sums.used)
            _add(whole.charged_microusd, sums.charged_microusd)
            _add(whole.returned_microusd, sums.returned_microusd)
        return whole

    @property
    def backlog_postings(self) -> int:
        return sum(books.backlog_postings for books in self._books)

    @property
    def failing(self) -> str | None:
        return next((books.failing for books in self._books if books.failing is not None), None)

    @property
    def refuses(self) -> bool:
        return any(books.refuses for books in self._books)

    @property
    def lessee(self) -> Lessee | None:
        return self._first.lessee

    def needed(self, arrivals: Sequence[RequestArrived]) -> int:
        return self._first.needed(arrivals)

    def room_for(self, arrivals: Sequence[RequestArrived]) -> Refusal | None:
        return self._first.room_for(arrivals)

    def hold_embedding(self, event: Embedded) -> int | Refusal:
        return self._first.hold_embedding(event)

    def embedding_over(self, hold: int, entered: Embedded | None) -> None:
        self._first.embedding_over(hold, entered)

    def set_budget(self, budget: Budget) -> None:
        self._first.set_budget(budget)

    def correct(self, usage: Usage) -> None:
        self._first.correct(usage)

    def owes(self, session: str) -> bool:
        return any(books.owes(session) for books in self._books)

    def flush(self) -> bool:
        done = [books.flush() for books in self._books]
        return all(done)


_Name = TypeVar("_Name")


def _add(sums: dict[_Name, int], more: dict[_Name, int]) -> None:
    for name, amount in more.copy().items():
        sums[name] = sums.get(name, 0) + amount
