"""Books in memory: a writer that keeps what it is given, and a keeper for a driver under test."""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass, field

from stepwell.ledger.base import PostingBatch
from stepwell.ledger.budgets.book import BudgetBook
from stepwell.ledger.keeper import Keeper
from stepwell.ledger.metering.meter import Meter
from stepwell.ledger.pricing.bills import Bills
from stepwell.ledger.pricing.prices import parse_price_book
from stepwell.ledger.types import MACHINE, MACHINE_RESOURCES, REVENUE, Account, Kind, Resource, Usage
from stepwell.policy.config import PolicyConfig

PRICES = """
[prices]
input = 100
cached_input = 10
output = 400
intermediate = 300
storage_per_token_hour = 4.5
[service_tiers.priority]
multiplier = 2
[service_tiers.flex]
multiplier = 0.5
"""


@dataclass
class MemoryWriter:
    """Keeps batches; fails when it is told to."""

    batches: list[PostingBatch] = field(default_factory=list)
    failing: str | None = None
    overfull: bool = False
    closed: bool = False

    def submit(self, batch: PostingBatch) -> None:
        assert not self.closed
        assert batch.number == len(self.batches) + 1
        self.batches.append(batch)

    def abandon(self) -> None:
        self.closed = True

    def close(self, at_us: int) -> bool:
        self.closed = True
        return True

    def balances(self) -> dict[Account, dict[Resource, int]]:
        found: dict[Account, dict[Resource, int]] = defaultdict(lambda: defaultdict(int))
        for posting in (posting for batch in self.batches for posting in batch.postings):
            found[posting.debit][posting.resource] -= posting.amount
            found[posting.credit][posting.resource] += posting.amount
        return found

    def usage(self) -> list[Usage]:
        return [usage for batch in self.batches for usage in batch.usage]


def make_keeper(
    config: PolicyConfig,
    writer: MemoryWriter | None = None,
    *,
    now_us: int = 0,
    storage_every_us: int = 60_000_000,
    budgets: BudgetBook | None = None,
    refuse_unwritten: bool = False,
) -> tuple[Keeper, MemoryWriter]:
    writer = writer or MemoryWriter()
    bills = Bills(parse_price_book(PRICES, "the test"), "null")
    meter = Meter(config, bills, now_us, storage_every_us=storage_every_us)
    budgets = budgets or BudgetBook()
    return Keeper(meter, writer, budgets, refuse_unwritten=refuse_unwritten, strict=True), writer


def check_books(books: MemoryWriter, keeper: Keeper) -> None:
    """What must be true of the books of a run that has been closed."""
    balances, totals = books.balances(), keeper.meter.totals
    for resource in Resource:
        assert sum(balances[account][resource] for account in balances) == 0
    for resource in MACHINE_RESOURCES:
        assert balances[MACHINE][resource] == -totals[resource.value]
    for account, amounts in balances.items():
        if account.kind is Kind.HELD:
            assert not any(amounts.values()), "a hold is still there"
        if account.kind not in (Kind.MACHINE, Kind.CUSTOMER):
            assert all(amounts[r] >= 0 for r in MACHINE_RESOURCES)
    assert balances[REVENUE][Resource.MONEY] == sum(usage.charge_microusd for usage in books.usage())
    assert all(not keeper.meter.use_of(request, 0) for request in range(1, 1000))
    assert not keeper.budgets.states() or all(state.held_microusd == 0 for state in keeper.budgets.states())
    assert books.closed
