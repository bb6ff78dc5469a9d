"""Opening the books for a run: what was cut off is closed, budgets are known, the meter stands ready."""

from __future__ import annotations

import json
import logging
import os
import socket
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

from stepwell.basics.per_tier import total_of
from stepwell.ledger.base import LedgerError, Run, RunId, Store
from stepwell.ledger.bookkeeper import Refusal
from stepwell.ledger.budgets.book import BudgetBook, BudgetName
from stepwell.ledger.budgets.lessee import Lessee
from stepwell.ledger.budgets.spending import (
    budgets_in_force,
    last_entry_us,
    spent_by,
    spent_here_microusd,
    spent_microusd,
)
from stepwell.ledger.keeper import Keeper, Sums
from stepwell.ledger.metering.meter import Meter
from stepwell.ledger.pricing.bills import Bills
from stepwell.ledger.pricing.costs import Capacities, CostBook, Rates, load_cost_book, room_bytes
from stepwell.ledger.pricing.prices import PriceBook, load_price_book
from stepwell.ledger.settings import FROM_SETTINGS, LedgerSettings
from stepwell.ledger.stores.compaction import Compactor
from stepwell.ledger.stores.open import open_store
from stepwell.ledger.stores.recovery import RecoveredRun, recover
from stepwell.ledger.stores.writer import LedgerWriter
from stepwell.ledger.types import Budget, Usage
from stepwell.policy.config import PolicyConfig
from stepwell.policy.types import Embedded, RequestArrived

log = logging.getLogger("stepwell.ledger")


@dataclass(frozen=True, slots=True)
class Ledger:
    """The books of one run, open: ``RunningBooks`` for a server, and what its owner needs besides."""

    store: Store
    run: RunId
    keeper: Keeper
    writer: LedgerWriter
    prices: PriceBook
    costs: CostBook
    rates: Rates
    """What a unit of each of this machine's resources costs."""
    recovered: list[RecoveredRun]
    """Runs of this node that had been cut off, and are closed now."""
    header: dict[str, object]
    """What a recording must know for its postings to be made again."""
    compactor: Compactor | None = None
    """Adds up old postings, where the settings say how long they stay."""
    lessee: Lessee | None = None
    """Agrees with other nodes of the same ledger what customers may spend."""
    owns_store: bool = True
    """False: another model's ledger of the same server closes it."""

    @property
    def bills(self) -> Bills:
        return self.keeper.meter.bills

    @property
    def budgets(self) -> BudgetBook:
        return self.keeper.budgets

    @property
    def sums(self) -> Sums:
        return self.keeper.sums

    @property
    def backlog_postings(self) -> int:
        return self.writer.backlog_postings

    @property
    def failing(self) -> str | None:
        return self.keeper.failing

    @property
    def refuses(self) -> bool:
        return self.keeper.refuses

    def needed(self, arrivals: Sequence[RequestArrived]) -> int:
        return self.keeper.needed(arrivals)

    def room_for(self, arrivals: Sequence[RequestArrived]) -> Refusal | None:
        return self.keeper.room_for(arrivals)

    def hold_embedding(self, event: Embedded) -> int | Refusal:
        return self.keeper.hold_embedding(event)

    def embedding_over(self, hold: int, entered: Embedded | None) -> None:
        self.keeper.embedding_over(hold, entered)

    def correct(self, usage: Usage) -> None:
        self.keeper.correct(usage)

    def owes(self, session: str) -> bool:
        return any(one.arrival.session == session for one in tuple(self.keeper.meter.requests.values()))

    def flush(self) -> bool:
        return self.writer.flush()

    def set_budget(self, budget: Budget) -> None:
        self.keeper.budgets.check_budget(budget)
        self.store.set_budget(budget)
        self.keeper.budgets.set(budget)

    def close(self) -> None:
        """Release the store; the driver has closed the run, unless it never was there."""
        if self.compactor is not None:
            self.compactor.close()
        self.writer.abandon()
        if self.owns_store and self.lessee is not None:
            self.lessee.close()
        if self.owns_store:
            self.store.close()


@dataclass(frozen=True, slots=True)
class KeptModel:
    """A model of whose requests books are kept."""

    model: str
    config: PolicyConfig


def open_ledger(
    settings: LedgerSettings,
    config: PolicyConfig,
    model: str,
    *,
    now_us: int,
    wall_us: int,
    posted_at_us: Callable[[], int] | None = None,
    node: str = "",
    budgets: Iterable[Budget] = (),
) -> Ledger:
    """Open the store that ``settings`` name and begin a run.

    ``now_us``: the driver's clock; ``wall_us``: microseconds since 1970; ``posted_at_us``: the same, asked at
    each posting (without it time runs on from ``wall_us`` as the driver's clock does); ``node``: used where
    the settings name none. Raises ``LedgerError`` or ``BadInput``: one sentence.
    """
    models = [KeptModel(model, config)]
    (ledger,) = open_ledgers(
        settings,
        models,
        now_us=now_us,
        wall_us=wall_us,
        posted_at_us=posted_at_us,
        node=node,
        budgets=budgets,
    )
    return ledger


def open_ledgers(
    settings: LedgerSettings,
    models: Sequence[KeptModel],
    *,
    now_us: int,
    wall_us: int,
    posted_at_us: Callable[[], int] | None = None,
    node: str = "",
    budgets: Iterable[Budget] = (),
) -> list[Ledger]:
    """The same for a server of several models: a run for each, in one store and with one book of budgets. The
    first is closed last."""
    assert settings.path is not None
    budgets = tuple(budgets)
    for budget in budgets:  # what makes no sense must never get into the books: no start would come through
        BudgetBook.check_budget(budget)
    names = [contract.name for contract in models[0].config.contracts]
    books = _BooksInForce(
        settings, load_price_book(settings.price_book, names), load_cost_book(settings.cost_book)
    )
    store = open_store(settings.path)
    try:
        node = settings.node or node or socket.gethostname()
        last_us = _compare_with_the_last_entry(store, wall_us)
        recovered = recover(store, node, wall_us)
        store.end_leases(node)
        share = settings.follow_budgets_s > 0
        book = _budget_book(store, budgets, wall_us, node if share else None)
        room = _capacities(models)
        runs = [
            store.begin(
                Run(node, wall_us, m.model, _config_text(m.config, room), books.costs.text, books.prices.text)
            )
            for m in models
        ]
    except BaseException:
        store.close()
        raise
    for one in recovered:
        log.warning("%s", one.sentence)
    ledgers: list[Ledger] = []
    writers: list[LedgerWriter] = []
    lessee = Lessee(book, store, node, settings.follow_budgets_s) if share else None
    book.spent_before = partial(_spent_before, store, writers)
    for run, model in zip(runs, models, strict=True):
        writer = LedgerWriter(
            store, run, batch_us=settings.batch_ms * 1000, backlog_postings=settings.backlog_postings
        )
        writers.append(writer)
        keeper, header = _keeper(books, model, writer, book, run, (now_us, wall_us), posted_at_us)
        rates, found = books.costs.rates(room), [] if ledgers else recovered
        keeper.lessee = lessee
        compactor = None if ledgers else _compactor(settings, posted_at_us, last_us)
        parts = (store, run, keeper, writer, books.prices, books.costs, rates, found, header)
        ledgers.append(Ledger(*parts, compactor, lessee, owns_store=not ledgers))
    return ledgers


def _compactor(settings: LedgerSettings, now_us: Callable[[], int] | None, last_us: int) -> Compactor | None:
    """None also in simulated time, which passes too quickly for a thread beside it."""
    if now_us is None or settings.keep_days is None:
        return None
    connect = partial(open_store, str(settings.path))
    return Compactor(connect, settings.keep_days, now_us, last_entry_us=last_us)


@dataclass(frozen=True, slots=True)
class _BooksInForce:
    settings: LedgerSettings
    prices: PriceBook
    costs: CostBook


def _keeper(
    books: _BooksInForce,
    kept: KeptModel,
    writer: LedgerWriter,
    budgets: BudgetBook,
    run: RunId,
    times: tuple[int, int],
    posted_at_us: Callable[[], int] | None,
) -> tuple[Keeper, dict[str, object]]:
    """The keeper of one run, and the header of a recording of it."""
    (now_us, wall_us), model, settings = times, kept.model, books.settings
    offset_us, every_us = wall_us - now_us, settings.storage_every_s * 1_000_000
    bills = Bills(books.prices.of(model), model, offset_us)
    keeper = Keeper(
        Meter(kept.config, bills, now_us, storage_every_us=every_us),
        writer,
        budgets,
        wall_offset_us=offset_us,
        wall_us=posted_at_us,
        refuse_unwritten=settings.on_failure == "refuse",
    )
    header: dict[str, object] = {
        "run": run,
        "now_us": now_us,
        "wall_us": wall_us,
        "storage_every_us": every_us,
        "model": model,
        "price_book": books.prices.text,
    }
    return keeper, header


def _capacities(models: Sequence[KeptModel]) -> Capacities:
    """Of the whole machine: what a unit costs does not depend on how its models share it."""
    return total_of(room_bytes(one.config) for one in models)


def default_path() -> Path:
    """Where ``stepwell serve`` keeps its books: ``$XDG_DATA_HOME/stepwell/ledger.db``."""
    base = Path(os.environ.get("XDG_DATA_HOME", ""))
    return (base if base.is_absolute() else Path.home() / ".local" / "share") / "stepwell" / "ledger.db"


def _config_text(config: PolicyConfig, room: Capacities) -> str:
    """With the whole machine's room, by which costs are reckoned."""
    return json.dumps({**asdict(config), "machine_bytes": list(room)}, sort_keys=True)


def _compare_with_the_last_entry(store: Store, wall_us: int) -> int:
    """When that was. Where it lies ahead, one of the two clocks was wrong. Entries follow the clock of now:
    numbers keep their order, and one start with a clock far ahead does not put everything after it into the
    future."""
    last_us = last_entry_us(store)
    if last_us - wall_us >= 1_000_000:  # less is the drift of two clocks
        log.warning(
            "the clock stands %.0f s before the last entry of the ledger: it is wrong now or was "
            "then; entries are booked at the time that it shows now",
            (last_us - wall_us) / 1e6,
        )
    return last_us


def _budget_book(store: Store, given: Sequence[Budget], wall_us: int, node: str | None) -> BudgetBook:
    """The budgets in force, shared with other nodes where this one has a name. Those of the settings are
    entered when they are new or have changed, so that what an operator has set since is not undone by a
    restart; one that is no longer there is lifted."""
    known = {_name(budget): budget for budget in budgets_in_force(store)}
    named = {_name(budget) for budget in given}  # membership only
    gone = [
        Budget(one.scope, one.tenant, one.name, None, None, wall_us, FROM_SETTINGS)
        for name, one in known.items()
        if one.actor == FROM_SETTINGS and name not in named and _bounds(one) != (None, None)
    ]
    for budget in (*given, *gone):
        if _last_of_settings(store, budget) != _bounds(budget):
            store.set_budget(budget)
            known[_name(budget)] = budget
    book = BudgetBook(spent_here=None if node is None else partial(_spent_here, store, node))
    book.seed(known.values(), spent_by(store, known))
    return book


def _bounds(budget: Budget) -> tuple[int | None, int | None]:
    return budget.soft_microusd, budget.hard_microusd


def _spent_before(store: Store, writers: Sequence[LedgerWriter], name: BudgetName) -> int:
    """Raises ``LedgerError`` while charges of ours wait in memory: the books alone would say too little."""
    if not all(writer.flush() for writer in writers):
        raise LedgerError("charges that wait to be entered are not in the books yet")
    return spent_microusd(store, name)


def _spent_here(store: Store, node: str, name: BudgetName) -> int:
    return spent_here_microusd(store, name, node)


def _name(budget: Budget) -> BudgetName:
    return BudgetName(budget.scope, budget.tenant, budget.name)


def _last_of_settings(store: Store, budget: Budget) -> tuple[int | None, int | None] | None:
    """The bounds that a settings file has named last for this name."""
    rows = store.rows(
        "SELECT soft_microusd, hard_microusd FROM budgets WHERE scope = ? AND tenant = ? AND name = ? "
        "AND actor = ? ORDER BY id DESC LIMIT 1",
        (budget.scope.value, budget.tenant, budget.name, FROM_SETTINGS),
    )
    return rows[0] if rows else None
