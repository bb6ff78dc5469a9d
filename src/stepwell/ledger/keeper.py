"""The bookkeeper beside the loop: budgets before a request, the meter at every step, the writer behind it."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Protocol

from stepwell.ledger.base import PostingBatch
from stepwell.ledger.bookkeeper import Bookkeeper, Refusal
from stepwell.ledger.budgets.book import BudgetBook, BudgetExceeded
from stepwell.ledger.budgets.lessee import Lessee
from stepwell.ledger.metering.meter import Meter
from stepwell.ledger.metering.metered import Entries, Use
from stepwell.ledger.metering.told import EngineReport
from stepwell.ledger.money import usd_text
from stepwell.ledger.types import MACHINE_RESOURCES, Kind, Posting, Resource, Scope, Usage
from stepwell.policy.types import Computed, Embedded, Event, Piece, Plan, RequestArrived, RequestId

log = logging.getLogger("stepwell.ledger")

UNWRITTEN = "ledger_unavailable"
SPENT = {
    Scope.TENANT: "insufficient_quota",
    Scope.KEY: "insufficient_quota",
    Scope.SESSION: "session_budget_exceeded",
    Scope.AGENT: "agent_budget_exceeded",
}
"""The error code of a spent budget."""
_RETRY_AFTER_MS = 1_000
_METERED = frozenset(MACHINE_RESOURCES)
UNCLAIMED = "none"
"""The service tier of KV that was found on disk, until its agent calls."""


class BatchWriter(Protocol):
    """Where batches go: ``LedgerWriter``, or a list in a test."""

    @property
    def failing(self) -> str | None:
        """One sentence about why nothing can be written now; None: all is well."""

    @property
    def overfull(self) -> bool:
        """Whether so much waits to be written that nothing more should be taken on."""

    def submit(self, batch: PostingBatch) -> None:
        """Take a batch over; it is written in order, or kept until it can be."""

    def abandon(self) -> None:
        """Stop without closing the run: the next start closes it."""

    def close(self, at_us: int) -> bool:
        """Write what is left and close the run; False when that could not be done in time."""


@dataclass(slots=True)
class Sums:
    """What a run has come to so far, as seen from outside; read it from any thread."""

    used: dict[tuple[Resource, str], int] = field(default_factory=dict)
    """Of the machine's resources, by service tier, or by the kind of an account that has none."""
    charged_microusd: dict[str, int] = field(default_factory=dict)
    """By service tier."""
    returned_microusd: dict[str, int] = field(default_factory=dict)
    """The same: what corrections took back of it."""

    def add(self, entries: Entries) -> None:
        for posting in entries.postings:
            if posting.resource in _METERED:
                self._use(posting)
        for usage in entries.usage:
            self._charge(usage)

    def _use(self, posting: Posting) -> None:
        owner = posting.credit
        name = owner.service_tier or (UNCLAIMED if owner.kind is Kind.AGENT else owner.kind.value)
        self.used[posting.resource, name] = self.used.get((posting.resource, name), 0) + posting.amount

    def _charge(self, usage: Usage) -> None:
        amount, name = usage.charge_microusd, usage.account.service_tier
        sums = self.charged_microusd if amount >= 0 else self.returned_microusd
        sums[name] = sums.get(name, 0) + abs(amount)


class Keeper(Bookkeeper):
    """The bookkeeper of one run."""

    def __init__(
        self,
        meter: Meter,
        writer: BatchWriter,
        budgets: BudgetBook,
        *,
        wall_offset_us: int = 0,
        wall_us: Callable[[], int] | None = None,
        refuse_unwritten: bool = False,
        strict: bool = False,
    ) -> None:
        """``wall_us``: microseconds since 1970, asked at each posting, because the run's own clock neither
        knows that the clock was set nor counts a suspend. Without it ``wall_offset_us`` is added to
        the run's own clock (simulated time has no other). ``refuse_unwritten``: take
        no requests while the ledger cannot be written, rather than serve them unpaid. ``strict``: let errors
        of the meter through, for tests."""
        self.meter = meter
        self.writer = writer
        self.budgets = budgets
        self.lessee: Lessee | None = None
        """Agrees with other nodes what may be spent; None: this server has the ledger to itself."""
        self.number = 0
        """Batches handed over so far."""
        self.sums = Sums()
        self.broken: str | None = None
        """One sentence when the meter itself has failed: nothing more is entered for this run."""
        self._wall_offset_us = wall_offset_us
        self._wall_us = wall_us
        self._refuse_unwritten = refuse_unwritten
        self._strict = strict
        self._said_back_us = 0
        self._corrections: deque[Usage] = deque()
        self._embedded: dict[int, Embedded] = {}
        """What texts that were embedded hold, until their charge is entered."""

    @property
    def refuses(self) -> bool:
        """Whether no requests are taken because what they come to could not be entered. Thread-safe."""
        return self.writer.overfull or (self._refuse_unwritten and self.failing is not None)

    @property
    def failing(self) -> str | None:
        """Why nothing can be entered now; None: all is well. Thread-safe."""
        return self.broken or self.writer.failing

    def reserve(self, arrival: RequestArrived) -> Refusal | None:
        """Hold what the request may come to, or say why it is not taken. Thread-safe."""
        if self.refuses:
            return Refusal(UNWRITTEN, "The ledger cannot be written now; the request was not taken.")
        verdict = self.budgets.reserve(arrival.request, arrival.caller, self.meter.bills.hold_of(arrival))
        return None if verdict.refused is None else _refusal(verdict.refused)

    def needed(self, arrivals: Sequence[RequestArrived]) -> int:
        """The most that generations may come to together, in micro-dollars."""
        return sum(self.meter.bills.hold_of(arrival) for arrival in arrivals)

    def room_for(self, arrivals: Sequence[RequestArrived]) -> Refusal | None:
        """Why generations that are asked for together would not all be taken: else those before the one that
        is refused would be worked on, and charged, for nothing. Holds nothing. Thread-safe."""
        verdict = self.budgets.judge(arrivals[0].caller, self.needed(arrivals))
        return None if verdict.refused is None else _refusal(verdict.refused)

    def hold_embedding(self, event: Embedded) -> int | Refusal:
        """Hold what texts come to that are to be embedded or ranked, or say why not. Thread-safe."""
        if self.refuses:
            return Refusal(UNWRITTEN, "The ledger cannot be written now; the request was not taken.")
        hold = self.budgets.number_beside()
        verdict = self.budgets.reserve(hold, event.caller, self.meter.bills.embedding(event))
        return hold if verdict.refused is None else _refusal(verdict.refused)

    def embedding_over(self, hold: int, entered: Embedded | None) -> None:
        """The hold ends, once ``entered`` is. Thread-safe; called before the loop is told of ``entered``."""
        if entered is None:
            self.budgets.release(hold)
        else:
            self._embedded[hold] = entered

    def refused(self, request: RequestId) -> None:
        """A request is told that it is not served. What the meter knows it settles itself."""
        if request not in self.meter.requests:
            self.budgets.release(request)

    def ran(self, computed: Computed, pieces: Sequence[Piece]) -> None:
        """A batch has run."""
        with self._apart():
            self.meter.ran(computed, pieces)

    def told(self, report: EngineReport) -> None:
        """An engine that counts for itself says what it has done."""
        with self._apart():
            self.meter.told(report)

    def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        """A step was decided; what the one before it used is posted."""
        with self._apart():
            entries = self.meter.step(now_us, events, plan)
            while self._corrections:
                entries.usage.append(self._corrections.popleft())
            self._write(entries, now_us)
            if self.meter.clock_went_back_us > self._said_back_us:
                self._said_back_us = back_us = self.meter.clock_went_back_us
                log.warning("the server's clock went back by %d us; such time is not posted", back_us)
        if self._embedded:
            self._end_holds([event for event in events if isinstance(event, Embedded)])

    def _end_holds(self, entered: Sequence[Embedded]) -> None:
        """Their charges count as spent now."""
        for event in entered:
            hold = next((hold for hold, one in tuple(self._embedded.items()) if one == event), None)
            if hold is not None:
                del self._embedded[hold]
                self.budgets.release(hold)

    def correct(self, usage: Usage) -> None:
        """Enter a row of differences with the next step. Thread-safe."""
        assert not usage.requests
        self._corrections.append(usage)

    def use_of(self, request: RequestId, now_us: int) -> Use | None:
        """What a request has used until now."""
        return None if self.broken else self.meter.use_of(request, now_us)

    @contextmanager
    def _apart(self) -> Iterator[None]:
        """A fault of the books must not stop the engine. What was entered stands; the run is left open, so
        that the next start closes it and says what was not charged."""
        try:
            yield
        except Exception:
            if self._strict:
                raise
            if self.broken is None:
                log.exception("the meter has failed: nothing more is entered into the books of this run")
                self.broken = "the meter has failed; the books of this run are closed at the next start"
                self.writer.abandon()

    def due_us(self) -> int | None:
        """When the keeper wants a step at the latest; None: never."""
        return None if self.broken else self.meter.due_us

    def close(self, now_us: int) -> None:
        """The run ends: everything is posted and the books are closed."""
        if self.broken is None:
            self._write(self.meter.close(), now_us)
            self.writer.close(self._posted_at_us(now_us))

    def check(self, booked_bytes: Sequence[int]) -> None:
        """Assert that the meter sees what the policy has booked on device, host and disk."""
        self.meter.check(booked_bytes)

    def _write(self, entries: Entries, now_us: int) -> None:
        """Hand what was posted to the writer, and end the holds of what was settled."""
        if entries.postings or entries.usage or entries.positions:
            self.number += 1
            self.sums.add(entries)
            at_us = self._posted_at_us(now_us)
            rows = [replace(usage, at_us=at_us) for usage in entries.usage]
            totals = dict(self.meter.totals)
            self.writer.submit(
                PostingBatch(self.number, at_us, now_us, entries.postings, rows, entries.positions, totals)
            )
        # After that, never before: a budget set in between counts a charge twice rather than not at all.
        for request, charge_microusd in entries.settled:
            self.budgets.settle(request, charge_microusd)
        for usage in entries.usage:
            if not (usage.requests and usage.request):  # nothing was held for it
                self.budgets.correct(usage.account, usage.charge_microusd)

    def _posted_at_us(self, now_us: int) -> int:
        return now_us + self._wall_offset_us if self._wall_us is None else self._wall_us()


def _refusal(spent: BudgetExceeded) -> Refusal:
    state, scope = spent.state, spent.scope
    whose = f"{scope} {state.name.name!r}" if state.name.name else "this customer"
    if spent.passing and state.unknown:
        message = f"The ledger does not say now what is left of the budget of {whose}; try again shortly."
        return Refusal(UNWRITTEN, message, _RETRY_AFTER_MS)
    limit, used = usd_text(state.hard_microusd or 0), usd_text(state.spent_microusd)
    needed = usd_text(spent.needed_microusd)
    if spent.passing:
        held = usd_text(state.held_microusd + state.elsewhere_microusd)
        left = usd_text(state.left_microusd or 0)
        message = (
            f"The budget of {whose} has no room for the {needed} that this request may come to while other "
            f"requests are under way ({used} of {limit} spent, {held} held for them, {left} left); try again "
            "shortly."
        )
        return Refusal("rate_limit_exceeded", message, _RETRY_AFTER_MS)
    if state.reached:
        found = f"is reached: {used} of {limit} is spent, and this request may come to {needed}"
    else:
        left = usd_text(max(0, (state.hard_microusd or 0) - state.spent_microusd))
        found = (
            f"has {left} left ({used} of {limit} is spent), and this request may come to {needed}; with a "
            "smaller max_tokens it may come to less"
        )
    return Refusal(
        SPENT[scope], f"The budget of {whose} {found}. Its state is kept; raise the budget to go on."
    )
