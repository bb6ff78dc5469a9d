"""Store and writer together against a model in Python: faults, crashes and restarts in any order.

The model knows what was submitted and how far each run's books go; balances, holds and totals follow from
that alone.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from stepwell.basics.per_tier import PerTier
from stepwell.ledger.base import PostingBatch, RunId
from stepwell.ledger.stores.recovery import recover
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.stores.writer import LedgerWriter
from stepwell.ledger.types import (
    IDLE,
    MACHINE,
    MAX_AMOUNT,
    REVENUE,
    UNATTRIBUTED,
    Account,
    Cause,
    Kind,
    Position,
    Posting,
    Resource,
)
from tests.ledger.entries import RUN, START_US, Balances, added, agent, balances
from tests.ledger.flaky import FlakyStore

LONG_S = 30.0
STEP_US = 100
NAMES = ["a", "b", "c"]
CUSTOMER, HELD = Account(Kind.CUSTOMER, "acme"), Account(Kind.HELD, "acme")

AMOUNTS = st.one_of(st.integers(1, 1_000), st.integers(MAX_AMOUNT - 2, MAX_AMOUNT * 2 + 2))
COMPUTED = st.builds(
    lambda name, amount, request: Posting(
        MACHINE, agent(name), Resource.COMPUTE, amount, Cause.STEP, request
    ),
    st.sampled_from(NAMES),
    AMOUNTS,
    st.integers(1, 5),
)
RESTED = st.builds(lambda amount: Posting(MACHINE, IDLE, Resource.COMPUTE, amount, Cause.REST), AMOUNTS)
HELDS = st.tuples(st.sampled_from(["hold", "settle", "release"]), st.integers(1, 5), st.integers(1, 500))


@dataclass(slots=True)
class ModelRun:
    """What one run submitted."""

    run: RunId
    batches: list[PostingBatch] = field(default_factory=list)
    holds: dict[int, int] = field(default_factory=dict)
    """What is held, by request."""
    given: int = 0


class Books(RuleBasedStateMachine):
    """Rules are what a server, its disk and its fate do."""

    @initialize()
    def start(self) -> None:
        self.place = Path(tempfile.mkdtemp(prefix="stepwell-books-"))
        self.closed_books: Balances = {}
        """Of runs that ended or were recovered."""
        self._open()
        self._begin()

    def _open(self) -> None:
        self.store = FlakyStore(SqliteStore(self.place / "ledger.db"))

    def _begin(self) -> None:
        self.model = ModelRun(self.store.begin(RUN))
        self.writer = LedgerWriter(self.store, self.model.run, backlog_postings=12, retry_s=0.0005)

    def teardown(self) -> None:
        if hasattr(self, "writer"):
            self.writer.abandon()
            self.store.close()
            shutil.rmtree(self.place)

    # --- what a server does -------------------------------------------------------------------

    @rule(
        used=st.lists(st.one_of(COMPUTED, RESTED), max_size=4),
        money=st.lists(HELDS, max_size=3),
        held=st.dictionaries(st.sampled_from(NAMES), st.integers(0, 50), max_size=2),
        lost=st.integers(0, 3),
        clock=st.integers(-50, 50),
    )
    def submit(
        self,
        used: list[Posting],
        money: list[tuple[str, int, int]],
        held: dict[str, int],
        lost: int,
        clock: int,
    ) -> None:
        """``lost``: of the machine's time that nobody is posted for (recovery finds it)."""
        model, number = self.model, len(self.model.batches) + 1
        postings = [*used, *self._money(money)]
        model.given += lost + sum(posting.amount for posting in used)
        positions = [
            Position(agent(name), PerTier(size, 0, size), number * STEP_US - 7) for name, size in held.items()
        ]
        batch = PostingBatch(
            number, START_US + number * 10 + clock, number * STEP_US, postings, (), positions,
            {"compute_us": model.given},
        )  # fmt: skip
        model.batches.append(batch)
        self.writer.submit(batch)

    def _money(self, events: Sequence[tuple[str, int, int]]) -> list[Posting]:
        holds, postings = self.model.holds, []
        for what, request, amount in events:
            if what == "hold":
                postings.append(Posting(CUSTOMER, HELD, Resource.MONEY, amount, Cause.HOLD, request))
                holds[request] = holds.get(request, 0) + amount
            elif held := min(amount, holds.get(request, 0)):
                to, cause = (REVENUE, Cause.SETTLE) if what == "settle" else (CUSTOMER, Cause.RELEASE)
                postings.append(Posting(HELD, to, Resource.MONEY, held, cause, request))
                holds[request] -= held
        return postings

    @precondition(lambda self: self.store.fault is None)
    @rule()
    def end_and_begin(self) -> None:
        """A clean stop and the next start."""
        assert self.writer.close(START_US, LONG_S)
        added_all(self.closed_books, self.model.batches)
        assert self.store.open_runs(RUN.node) == []
        self._begin()

    # --- what happens to it -------------------------------------------------------------------

    @rule()
    def fail(self) -> None:
        self.store.fill()

    @rule()
    def make_room(self) -> None:
        self.store.fault = None

    @rule(times=st.integers(1, 2))
    def lose_the_answer(self, times: int) -> None:
        """The next writes are carried out and reported as failed."""
        self.store.unsaid = times

    @rule()
    def crash(self) -> None:
        """The process dies: whatever was in its memory is gone. The next one recovers."""
        self.writer.abandon()
        self.store.close()
        self._open()
        (left,) = self.store.open_runs(RUN.node)
        # Whole batches, in order, from the first; and none that was not submitted.
        assert left.last_batch <= len(self.model.batches)
        written = self.model.batches[: left.last_batch]
        found = balances(self.store, self.model.run)
        expected: Balances = {}
        added_all(expected, written)
        assert found == expected
        recover(self.store, RUN.node, START_US)
        added_all(self.closed_books, written)
        added(self.closed_books, closing(written))
        assert recover(self.store, RUN.node, START_US) == []
        self._begin()

    # --- what always holds --------------------------------------------------------------------

    @precondition(lambda self: self.store.fault is None)
    @rule()
    def compare(self) -> None:
        """Once all is written, the books say what the model says."""
        assert self.writer.flush(LONG_S)
        expected = dict(self.closed_books)
        added_all(expected, self.model.batches)
        assert balances(self.store) == expected
        assert self.writer.failing is None
        (row,) = self.store.open_runs(RUN.node)
        assert row.last_batch == len(self.model.batches)

    @invariant()
    def every_resource_sums_to_zero(self) -> None:
        if not hasattr(self, "store"):
            return
        sums: dict[Resource, int] = {}
        for (_, resource_), amount in balances(self.store).items():
            sums[resource_] = sums.get(resource_, 0) + amount
        assert not any(sums.values())

    @invariant()
    def every_batch_has_the_time_of_its_posting(self) -> None:
        """Whether or not the clock has been set back since the batch before it."""
        if not hasattr(self, "store"):
            return
        rows = self.store.rows(
            "SELECT DISTINCT batch, at_us FROM postings WHERE run = ? ORDER BY batch", (self.model.run,)
        )
        at = {batch.number: batch.at_us for batch in self.model.batches}
        assert [(number, at[number]) for number, _ in rows] == [tuple(row) for row in rows]


def added_all(into: Balances, batches: Sequence[PostingBatch]) -> None:
    for batch in batches:
        added(into, batch.postings)


def _in_both(debit: Account, credit: Account, amount: int) -> list[Posting]:
    """The model holds as much on disk as on the device."""
    if not amount:
        return []
    return [Posting(debit, credit, kind, amount, Cause.RECOVERY) for kind in (Resource.DEVICE, Resource.DISK)]


def closing(written: Sequence[PostingBatch]) -> list[Posting]:
    """What recovery has to enter for a run that got so far, by the model's own arithmetic."""
    if not written:
        return []
    now_us, postings = written[-1].now_us, []
    latest = {position.account: position for batch in written for position in batch.positions}
    stored = 0
    for position in latest.values():
        amount = position.held_bytes.device * (now_us - position.as_of_us)
        stored += amount
        postings.extend(_in_both(MACHINE, position.account, amount))
    all_postings = [posting for batch in written for posting in batch.postings]
    used = sum(posting.amount for posting in all_postings if posting.resource is Resource.COMPUTE)
    if lost := written[-1].totals["compute_us"] - used:
        postings.append(Posting(MACHINE, UNATTRIBUTED, Resource.COMPUTE, lost, Cause.RECOVERY))
    # The model's machine counts no storage: all of it is too much.
    postings.extend(_in_both(UNATTRIBUTED, MACHINE, stored))
    held = sum(posting.amount for posting in all_postings if posting.credit == HELD)
    held -= sum(posting.amount for posting in all_postings if posting.debit == HELD)
    if held:
        postings.append(Posting(HELD, CUSTOMER, Resource.MONEY, held, Cause.RECOVERY))
    return postings


Books.TestCase.settings = settings(max_examples=60, stateful_step_count=30, deadline=None)
TestBooks = Books.TestCase
