"""The keeper beside the driver: what it takes, what it hands over, and what stays held."""

from __future__ import annotations

import threading
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from stepwell.engines.base import EngineError
from stepwell.ledger.budgets.book import BudgetBook
from stepwell.ledger.keeper import UNWRITTEN, Keeper
from stepwell.ledger.types import Budget, Cause, Kind, Resource, Scope
from stepwell.loop.requests import Finished, Rejected
from stepwell.policy.types import Caller, RequestArrived
from tests.driver.harness import Answer, Rig, make_rig
from tests.ledger.books import MemoryWriter, make_keeper
from tests.ledger.meter_world import budget, end, got, nothing_is_held, turn, usage_of

PROMPT = list(range(60, 60 + 48))
HOLD = 48 * 100 + 10 * 400
ARRIVAL = RequestArrived(1, Caller("acme", session="s", agent="s/a", key="key_1"), 48, 10, ())


def keeper_of(writer: MemoryWriter, *, refuse: bool = False, **hard: int) -> Keeper:
    budgets = BudgetBook()
    for scope, amount in hard.items():
        name = {"key": "key_1", "session": "s", "agent": "s/a"}.get(scope, "")
        budgets.set(Budget(Scope(scope), "acme", name, None, amount))
    config = make_rig().driver.scheduler.config
    keeper, _ = make_keeper(config, writer, budgets=budgets, refuse_unwritten=refuse)
    return keeper


# --- what is taken -------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("failing", "overfull", "refuse", "taken"),
    [
        (None, False, True, True),
        ("the disk is full", False, False, True),
        ("the disk is full", False, True, False),
        ("the disk is full", True, False, False),
        (None, True, True, False),
    ],
)
def test_what_is_taken_while_the_ledger_cannot_be_written(
    failing: str | None, overfull: bool, refuse: bool, taken: bool
) -> None:
    keeper = keeper_of(MemoryWriter(failing=failing, overfull=overfull), refuse=refuse)
    refusal = keeper.reserve(ARRIVAL)
    assert (refusal is None) is taken
    assert keeper.refuses is not taken
    if refusal is not None:
        assert refusal.code == UNWRITTEN and "was not taken" in refusal.message
        nothing_is_held(keeper.budgets)


def test_a_server_whose_ledger_fails_tells_and_goes_on_when_it_can_write_again() -> None:
    rig = make_rig()
    rig.keeper._refuse_unwritten = True
    running = rig.ask(PROMPT, 10, agent="a")
    rig.driver.step()
    rig.books.failing = "the disk is full"
    refused = rig.ask(PROMPT, 10, agent="b")
    assert isinstance(refused.end, Rejected) and refused.end.code == UNWRITTEN
    rig.settle()
    assert isinstance(running.end, Finished), "what runs goes on, and is entered later"
    rig.books.failing = None
    turn(rig, PROMPT, 10, agent="b")
    end(rig)
    assert len(rig.books.usage()) == 2


@pytest.mark.parametrize(
    ("scope", "code"),
    [
        ("tenant", "insufficient_quota"),
        ("key", "insufficient_quota"),
        ("session", "session_budget_exceeded"),
        ("agent", "agent_budget_exceeded"),
    ],
)
def test_the_hold_of_a_request_must_fit_to_the_last_microdollar(scope: str, code: str) -> None:
    assert keeper_of(MemoryWriter(), **{scope: HOLD}).reserve(ARRIVAL) is None
    refusal = keeper_of(MemoryWriter(), **{scope: HOLD - 1}).reserve(ARRIVAL)
    assert refusal is not None
    assert (refusal.code, refusal.retry_after_ms) == (code, None)
    assert "$0.0088" in refusal.message and "$0.008799" in refusal.message


def test_others_budgets_are_not_in_the_way() -> None:
    keeper = keeper_of(MemoryWriter(), tenant=0)
    assert keeper.reserve(replace(ARRIVAL, caller=replace(ARRIVAL.caller, tenant="rival"))) is None
    assert keeper.reserve(replace(ARRIVAL, request=2)) is not None


def test_what_is_refused_by_a_narrow_budget_holds_nothing_of_a_wide_one() -> None:
    keeper = keeper_of(MemoryWriter(), tenant=10**9, agent=1)
    assert keeper.reserve(ARRIVAL) is not None
    nothing_is_held(keeper.budgets)


def test_many_threads_never_hold_more_than_there_is() -> None:
    keeper = keeper_of(MemoryWriter(), tenant=5 * HOLD)
    taken: list[int] = []

    def some(first: int) -> None:
        requests = range(first, first + 20)
        taken.extend(r for r in requests if keeper.reserve(replace(ARRIVAL, request=r)) is None)

    threads = [threading.Thread(target=some, args=(1 + 20 * n,)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(taken) == 5
    keeper.budgets.check()


# --- what is held, and when it goes back ---------------------------------------------------------


def test_a_refusal_of_what_the_meter_knows_leaves_the_hold_to_the_settlement() -> None:
    rig = make_rig()
    budget(rig, 10**9)
    rig.ask(PROMPT, 10, agent="a")
    rig.driver.step()
    rig.keeper.refused(1)
    assert rig.keeper.budgets.held_microusd(1) == HOLD
    rig.settle()
    (state,) = rig.keeper.budgets.states()
    assert (state.held_microusd, state.spent_microusd) == (0, HOLD)
    end(rig)


def test_the_hold_of_the_books_is_that_of_the_budget() -> None:
    rig = make_rig()
    budget(rig, 10**9)
    rig.ask(PROMPT, 10, agent="a")
    rig.driver.step()
    held = got(rig, Resource.MONEY, kind=Kind.HELD, cause=Cause.HOLD)
    assert held == rig.keeper.budgets.held_microusd(1) == HOLD
    rig.settle()
    end(rig)


def test_the_charge_is_spent_after_the_batch_was_handed_over() -> None:
    """A budget that is set in between asks the books: it must find the charge there, or still in memory."""
    rig = make_rig()
    budget(rig, 10**9)
    seen: list[tuple[int, int]] = []
    submit = rig.books.submit

    def watch(batch: object) -> None:
        (state,) = rig.keeper.budgets.states()
        seen.append((sum(usage.charge_microusd for usage in batch.usage), state.spent_microusd))  # type: ignore[attr-defined]
        submit(batch)  # type: ignore[arg-type]

    rig.books.submit = watch  # type: ignore[assignment,method-assign]
    turn(rig, PROMPT, 10, agent="a")
    assert (HOLD, 0) in seen
    end(rig)


def test_batches_are_numbered_and_none_is_empty() -> None:
    rig = make_rig()
    rig.driver.step()
    rig.driver.step()
    assert rig.books.batches == []
    turn(rig, PROMPT, 3, agent="a")
    for _ in range(3):
        rig.driver.step()
    end(rig)
    assert [batch.number for batch in rig.books.batches] == list(range(1, rig.keeper.number + 1))
    assert all(batch.postings or batch.usage or batch.positions for batch in rig.books.batches)
    times = [batch.now_us for batch in rig.books.batches]
    assert times == sorted(times)


def test_a_batch_says_what_the_machine_has_given_until_then() -> None:
    rig = make_rig()
    turn(rig, PROMPT, 3, agent="a")
    end(rig)
    given = 0
    for batch in rig.books.batches:
        given += sum(p.amount for p in batch.postings if p.resource is Resource.COMPUTE)
        assert batch.totals["compute_us"] == given


class Paying(RuleBasedStateMachine):
    """Whatever becomes of requests, holds are of those under way, and what is spent is what is charged."""

    rig: Rig

    @initialize(
        max_running=st.integers(1, 3), max_waiting=st.integers(1, 4), hard=st.integers(0, 60_000) | st.none()
    )
    def build(self, max_running: int, max_waiting: int, hard: int | None) -> None:
        self.rig = make_rig(8, 8, 0, max_running=max_running, max_waiting=max_waiting)
        self.answers: list[Answer] = []
        self.hard = hard
        self.fails = False
        if hard is not None:
            budget(self.rig, hard)
        budget(self.rig, 10**12, Scope.SESSION, "s")
        run = self.rig.engine.run

        def sometimes(batch: list[object]) -> object:
            if self.fails:
                self.fails = False
                raise EngineError("out of luck")
            return run(batch)  # type: ignore[arg-type]

        self.rig.engine.run = sometimes  # type: ignore[assignment,method-assign]

    @rule(size=st.sampled_from([5, 20, 60, 200]), new_tokens=st.integers(1, 40), agent=st.sampled_from("abc"))
    def ask(self, size: int, new_tokens: int, agent: str) -> None:
        prompt = [97 + ord(agent) % 3] * size
        self.answers.append(self.rig.ask(prompt, new_tokens, agent=agent, session="s"))

    @rule(steps=st.integers(1, 6))
    def run(self, steps: int) -> None:
        for _ in range(steps):
            self.rig.driver.step()

    @rule(which=st.integers(0, 9))
    def cancel(self, which: int) -> None:
        if self.answers:
            self.rig.driver.cancel(len(self.answers) - which % len(self.answers))

    @rule()
    def fail(self) -> None:
        self.fails = True

    @rule()
    def rest(self) -> None:
        self.rig.settle()
        nothing_is_held(self.rig.keeper.budgets, len(self.answers) + 2)

    @invariant()
    def no_limit_is_overrun(self) -> None:
        budgets = self.rig.keeper.budgets
        budgets.check()
        charged = sum(usage.charge_microusd for usage in self.rig.books.usage())
        for state in budgets.states():
            assert state.spent_microusd == charged
            assert state.hard_microusd is not None
            assert state.spent_microusd + state.held_microusd <= state.hard_microusd

    def teardown(self) -> None:
        if hasattr(self, "rig"):
            self.fails = False
            end(self.rig)
            assert all(answer.ended for answer in self.answers)
            for request, answer in enumerate(self.answers, start=1):
                rows = usage_of(self.rig, request)
                if isinstance(answer.end, Rejected):
                    assert sum(row.charge_microusd for row in rows) == 0
                elif rows:
                    (row,), finished = rows, answer.end
                    assert row.reason == finished.reason
                    assert row.recomputed_tokens == finished.recomputed_tokens
                    assert row.output_tokens == finished.generated_tokens


TestPaying = Paying.TestCase
TestPaying.settings = settings(
    max_examples=60, stateful_step_count=30, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)


def test_a_fault_of_the_meter_stops_the_books_and_not_the_engine(caplog: pytest.LogCaptureFixture) -> None:
    """What has been entered stays, requests go on unless the operator has asked otherwise."""
    rig = make_rig()
    keeper = rig.keeper
    keeper._strict = False
    assert isinstance(rig.ask(range(65, 90), 3).outputs, list)
    rig.settle()
    entered = len(rig.books.batches)
    keeper.meter.step = None  # type: ignore[assignment, method-assign]
    rig.driver._strict = False
    answer = rig.ask(range(70, 95), 3)
    rig.settle()
    assert isinstance(answer.end, Finished)
    assert len(rig.books.batches) == entered and rig.books.closed
    assert "the meter has failed" in caplog.text and caplog.text.count("the meter has failed") == 1
    assert keeper.failing is not None and not keeper.refuses
    assert rig.driver.step() is None, "a loop with nothing to do must be able to wait for ever"
    keeper._refuse_unwritten = True
    assert isinstance(rig.ask(range(70, 95), 3).end, Rejected)


def test_a_clock_that_goes_back_is_said_once(caplog: pytest.LogCaptureFixture) -> None:
    rig = make_rig()
    rig.clock.sleep_us(1_000_000)
    rig.settle()
    rig.clock.sleep_us(-400)
    rig.settle()
    rig.settle()
    assert caplog.text.count("the server's clock went back by 400 us") == 1
