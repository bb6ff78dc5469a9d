"""The thread that writes: in order, one step behind, and nothing is lost while the store fails."""

from __future__ import annotations

import logging
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.basics.per_tier import PerTier
from stepwell.ledger.base import LedgerError, PostingBatch
from stepwell.ledger.stores import writer as writer_module
from stepwell.ledger.stores.backlog import Backlog
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.stores.writer import LedgerWriter
from stepwell.ledger.types import Cause, Position, Posting, Resource, Usage
from tests.ledger.entries import RUN, START_US, Balances, added, agent, balances, batch, computed, count_of
from tests.ledger.flaky import SENTENCE, FlakyStore

COMPUTE = Resource.COMPUTE
LONG_S = 30.0


@pytest.fixture
def store(tmp_path: Path) -> Iterator[FlakyStore]:
    store = FlakyStore(SqliteStore(tmp_path / "ledger.db"))
    yield store
    store.close()


class Writing:
    """A writer whose thread ends with the test."""

    def __init__(self, store: FlakyStore) -> None:
        self.store = store
        self.run = store.begin(RUN)
        self.made: list[LedgerWriter] = []

    def __call__(self, **options: int) -> LedgerWriter:
        self.made.append(LedgerWriter(self.store, self.run, retry_s=0.001, **options))
        return self.made[-1]


@pytest.fixture
def writing(store: FlakyStore) -> Iterator[Writing]:
    writing = Writing(store)
    yield writing
    store.gate.set()
    for writer in writing.made:
        writer.abandon()


def usage(request: int, at_us: int = START_US) -> Usage:
    return Usage(request, agent(), "null", "stop", at_us)


def until_failing(writer: LedgerWriter) -> str:
    with writer._changed:
        assert writer._changed.wait_for(lambda: writer.failing is not None, LONG_S)
    assert writer.failing is not None
    return writer.failing


def said(caplog: pytest.LogCaptureFixture) -> list[str]:
    return [record.getMessage() for record in caplog.records if record.levelno >= logging.WARNING]


def test_batches_are_written_in_order_and_the_run_ends(store: FlakyStore, writing: Writing) -> None:
    writer = writing()
    for number in range(1, 51):
        writer.submit(batch(number, computed(number)))
    assert writer.close(START_US + 99)
    assert store.numbers == sorted(store.numbers)
    assert store.numbers[-1] == 50
    assert balances(store)[agent(), COMPUTE] == sum(range(51))
    assert store.rows("SELECT ended_at_us, last_batch FROM runs") == [(START_US + 99, 50)]
    assert (writer.failing, writer.overfull, writer.backlog_postings) == (None, False, 0)


def test_each_step_is_its_own_transaction_by_default(store: FlakyStore, writing: Writing) -> None:
    writer = writing()
    for number in range(1, 21):
        writer.submit(batch(number, computed(1)))
    assert writer.flush(LONG_S)
    assert store.numbers == list(range(1, 21))


def test_submit_returns_at_once_and_waits_for_the_batch_before(
    store: FlakyStore, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(writer_module, "WAIT_MOST_S", LONG_S)
    writer = writing()
    store.gate.clear()
    writer.submit(batch(1, computed(1)))
    second = threading.Thread(target=writer.submit, args=(batch(2, computed(1)),))
    second.start()
    second.join(0.1)
    assert second.is_alive()
    assert count_of(store, "postings") == 0
    store.gate.set()
    second.join(LONG_S)
    assert not second.is_alive()
    assert writer.flush(LONG_S)
    assert count_of(store, "postings") == 2


def test_a_disk_that_hangs_does_not_hang_the_engine(
    store: FlakyStore, writing: Writing, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(writer_module, "WAIT_MOST_S", 0.001)
    writer = writing(backlog_postings=8)
    store.gate.clear()
    for number in range(1, 6):
        writer.submit(batch(number, computed(1)))
    overfull = [writer.overfull]
    assert until_failing(writer) == "the ledger has not answered for 0.001 s"
    assert len(said(caplog)) == 1
    store.gate.set()
    assert writer.flush(LONG_S)
    assert [*overfull, writer.overfull, writer.failing] == [True, False, None]
    assert balances(store)[agent(), COMPUTE] == 5


def test_a_full_disk_is_said_once_and_nothing_is_lost(
    store: FlakyStore, writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    writer = writing()
    writer.submit(batch(1, computed(1)))
    assert writer.flush(LONG_S)
    store.fill()
    for number in range(2, 30):
        writer.submit(batch(number, computed(number, request=number)))
    assert until_failing(writer) == SENTENCE
    assert not writer.flush(0.05)
    assert said(caplog) == [f"{SENTENCE}; entries wait in memory until it can be written again"]
    store.fault = None
    assert writer.flush(LONG_S)
    assert writer.failing is None
    assert len(said(caplog)) == 2
    assert "the ledger is written again" in said(caplog)[1]
    assert balances(store)[agent(), COMPUTE] == sum(range(30))
    assert count_of(store, "postings") == 29
    assert store.numbers == sorted(store.numbers)


def test_a_batch_whose_writing_was_not_confirmed_is_not_there_twice(
    store: FlakyStore, writing: Writing
) -> None:
    writer = writing()
    for number in range(1, 31):
        if number % 3 == 0:
            store.unsaid = 2
        writer.submit(batch(number, computed(number)))
    assert writer.flush(LONG_S)
    assert balances(store)[agent(), COMPUTE] == sum(range(31))
    assert count_of(store, "postings") == 30


def test_any_other_failure_does_not_end_the_thread(store: FlakyStore, writing: Writing) -> None:
    writer = writing()
    store.fault = RuntimeError("a driver's bug")
    writer.submit(batch(1, computed(1)))
    assert until_failing(writer) == "RuntimeError: a driver's bug"
    store.fault = None
    assert writer.flush(LONG_S)
    assert count_of(store, "postings") == 1


def test_a_full_backlog_adds_up_what_it_cannot_hold(store: FlakyStore, writing: Writing) -> None:
    """100 requests at most are under way; steps go on and on."""
    writer = writing(backlog_postings=1_000)
    store.fill()
    expected: Balances = {}
    turned: int | None = None
    for number in range(1, 501):
        postings = [computed(number, agent(f"a{n}"), request=n) for n in range(10)]
        step = replace(
            batch(number, *postings),
            usage=[usage(number)],
            positions=[Position(agent(), PerTier(number, 0, 0), number)],
        )
        writer.submit(step)
        added(expected, postings)
        if writer.overfull and turned is None:
            turned = number
    # 11 entries a step: half of 1,000 is passed with the 46th.
    assert turned == 46
    assert writer.backlog_postings <= 1_000 + 11 + 10 + 500
    store.fault = None
    assert writer.flush(LONG_S)
    assert balances(store) == expected
    assert count_of(store, "usage") == 500
    assert not writer.overfull
    (run,) = store.open_runs("node-a")
    assert (run.last_batch, run.totals, run.positions) == (
        500,
        {"compute_us": 500},
        [Position(agent(), PerTier(500, 0, 0), 500)],
    )


def test_steps_share_a_transaction_when_asked_to(store: FlakyStore, writing: Writing) -> None:
    writer = writing(batch_us=60_000_000)
    for number in range(1, 41):
        writer.submit(batch(number, computed(1, request=number)))
    assert store.numbers == []
    assert writer.flush(LONG_S)
    assert store.numbers == [40]
    assert store.rows("SELECT COUNT(*), COUNT(DISTINCT request), MIN(batch) FROM postings") == [(40, 40, 40)]


def test_a_shared_transaction_does_not_wait_for_ever(store: FlakyStore, writing: Writing) -> None:
    writer = writing(batch_us=1_000)
    writer.submit(batch(1, computed(1)))
    with writer._changed:
        assert writer._changed.wait_for(lambda: writer.backlog_postings == 0, LONG_S)
    assert count_of(store, "postings") == 1


def test_a_clock_that_goes_back_is_said_and_entries_follow_it(
    store: FlakyStore, writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    writer = writing()
    times_s = [100, 200, 150, 150, 250, 240]
    for number, time_s in enumerate(times_s, 1):
        at_us = START_US + time_s * 1_000_000
        step = batch(number, computed(1), at_us=at_us)
        writer.submit(replace(step, usage=[usage(number, at_us)]))
    assert writer.close(START_US)
    for table in "postings", "usage":
        rows = store.rows(f"SELECT (at_us - {START_US}) / 1000000 FROM {table} ORDER BY batch")
        assert [seconds for (seconds,) in rows] == times_s
    assert ["50.000 s" in text for text in said(caplog)] == [True, False]
    assert "10.000 s" in said(caplog)[1]
    assert store.rows("SELECT ended_at_us FROM runs") == [(START_US + 240_000_000,)]


def test_what_breaks_the_rules_is_said_and_does_not_stop_the_rest(
    store: FlakyStore, writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    writer = writing()
    writer.submit(batch(1, computed(1), computed(-7), Posting(agent(), agent(), COMPUTE, 5, Cause.STEP)))
    writer.submit(batch(2, computed(2)))
    assert writer.flush(LONG_S)
    assert balances(store)[agent(), COMPUTE] == 3
    left_out = [text for text in said(caplog) if "left out of the books" in text]
    assert len(left_out) == 2
    assert "amount=-7" in left_out[0]


def test_closing_while_the_store_fails_says_what_is_lost(
    store: FlakyStore, writing: Writing, caplog: pytest.LogCaptureFixture
) -> None:
    writer = writing()
    store.fill()
    writer.submit(batch(1, computed(1), computed(2)))
    assert not writer.close(START_US, timeout_s=0.05)
    assert said(caplog)[-1] == f"2 postings could not be entered into the books before the end: {SENTENCE}"
    store.fault = None
    assert [run.last_batch for run in store.open_runs("node-a")] == [0]


def test_closing_has_a_store_that_failed_tried_once_more(
    store: FlakyStore, writing: Writing, monkeypatch: pytest.MonkeyPatch
) -> None:
    writer = LedgerWriter(store, writing.run, retry_s=10 * LONG_S)
    store.fill()
    writer.submit(batch(1, computed(1)))
    until_failing(writer)
    store.fault = None
    assert writer.close(START_US, timeout_s=LONG_S)
    assert count_of(store, "postings") == 1


def test_a_run_that_cannot_be_ended_stays_open(store: FlakyStore, writing: Writing) -> None:
    writer = writing()
    writer.submit(batch(1, computed(1)))
    assert writer.flush(LONG_S)
    store.fault = LedgerError("gone")
    assert not writer.close(START_US)
    store.fault = None
    assert len(store.open_runs("node-a")) == 1


# --- the backlog alone ----------------------------------------------------------------------------

AMOUNTS = st.integers(1, 2**62)
NAMES, REQUESTS = st.sampled_from("ab"), st.integers(1, 2)
POSTINGS = st.lists(
    st.builds(lambda *of: computed(of[0], agent(of[1]), of[2]), AMOUNTS, NAMES, REQUESTS), max_size=4
)
STEPS = st.lists(st.one_of(POSTINGS, st.just("take")), max_size=40)


@given(STEPS, st.integers(1, 12), st.integers(1, 8))
def test_whatever_the_backlog_does_every_amount_comes_out(
    steps: list[list[Posting] | str], limit: int, most: int
) -> None:
    backlog, number = Backlog(limit), 0
    put: Balances = {}
    out: list[PostingBatch] = []
    for step in steps:
        if isinstance(step, str):
            if backlog.entries_waiting:
                out.append(backlog.take(most))
        else:
            number += 1
            backlog.add(PostingBatch(number, number, number, step, [usage(number)]))
            added(put, step)
        # Beyond the limit: one sum for each of four keys, and usage.
        assert backlog.entries <= limit + 4 + number
    while backlog.entries_waiting:
        out.append(backlog.take(most))
    assert backlog.entries == 0
    got: Balances = {}
    for taken in out:
        added(got, taken.postings)
    assert got == put
    numbers = [taken.number for taken in out]
    assert numbers == sorted(set(numbers))
    assert (numbers[-1] if numbers else 0) == number
    assert [row.request for taken in out for row in taken.usage] == list(range(1, number + 1))
