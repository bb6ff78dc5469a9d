"""What a server asks of the books that are kept of it."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from stepwell.ledger.base import Store
from stepwell.ledger.bookkeeper import Refusal
from stepwell.ledger.budgets.book import BudgetBook
from stepwell.ledger.budgets.lessee import Lessee
from stepwell.ledger.keeper import Sums
from stepwell.ledger.pricing.bills import Bills
from stepwell.ledger.pricing.costs import Rates
from stepwell.ledger.types import Budget, Usage
from stepwell.policy.types import Embedded, RequestArrived


class RunningBooks(Protocol):
    """The books of the run under way. Everything may be asked from any thread."""

    @property
    def store(self) -> Store:
        """Where they are written."""

    @property
    def bills(self) -> Bills:
        """What requests are charged."""

    @property
    def budgets(self) -> BudgetBook:
        """What is spent and held, and the limits; to be set by ``set_budget``."""

    @property
    def rates(self) -> Rates:
        """What a unit of each of this machine's resources costs."""

    @property
    def sums(self) -> Sums:
        """What the run has come to so far."""

    @property
    def backlog_postings(self) -> int:
        """Postings that are not written yet."""

    @property
    def failing(self) -> str | None:
        """Why nothing can be entered now; None: all is well."""

    @property
    def refuses(self) -> bool:
        """Whether no requests are taken because what they come to could not be entered."""

    @property
    def lessee(self) -> Lessee | None:
        """What asks for a larger part of a budget before a request; None: budgets are not shared."""

    def needed(self, arrivals: Sequence[RequestArrived]) -> int:
        """The most that generations may come to together, in micro-dollars."""

    def room_for(self, arrivals: Sequence[RequestArrived]) -> Refusal | None:
        """Why generations that are asked for together would not all be taken. Holds nothing."""

    def hold_embedding(self, event: Embedded) -> int | Refusal:
        """Hold what texts that are to be embedded or ranked come to, or say why that is not done."""

    def embedding_over(self, hold: int, entered: Embedded | None) -> None:
        """They were, or none of them. The hold ends when ``entered``, which the loop is told next, is in the
        books."""

    def set_budget(self, budget: Budget) -> None:
        """Enter a budget and put it in force. Raises ``BadInput`` or ``LedgerError``: nothing has changed."""

    def correct(self, usage: Usage) -> None:
        """Enter a row of differences (``requests`` is 0) with the next step."""

    def owes(self, session: str) -> bool:
        """Whether a request of this session has not been charged yet."""

    def flush(self) -> bool:
        """Wait until all that was entered is written; False when that takes too long."""
