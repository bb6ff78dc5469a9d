"""Runs that were cut off are closed at the next start: storage, holds, and what nobody can be named for."""

from __future__ import annotations

from dataclasses import replace

import pytest

from stepwell.basics.per_tier import PerTier
from stepwell.ledger.base import LedgerError, LedgerFull, PostingBatch, RunId, Store
from stepwell.ledger.stores.recovery import recover
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
from tests.ledger.conftest import Opener
from tests.ledger.entries import RUN, START_US, agent, balances, computed, count_of
from tests.ledger.flaky import FlakyStore

CUSTOMER, HELD = Account(Kind.CUSTOMER, "acme"), Account(Kind.HELD, "acme")
OTHER_CUSTOMER, OTHER_HELD = Account(Kind.CUSTOMER, "zeta"), Account(Kind.HELD, "zeta")
MONEY, COMPUTE, DEVICE, HOST, DISK = (
    Resource.MONEY, Resource.COMPUTE, Resource.DEVICE, Resource.HOST, Resource.DISK,
)  # fmt: skip
NOW_US = 1_000


def money(debit: Account, credit: Account, amount: int, cause: Cause, request: int) -> Posting:
    return Posting(debit, credit, MONEY, amount, cause, request)


def hold(amount: int, request: int) -> Posting:
    return money(CUSTOMER, HELD, amount, Cause.HOLD, request)


FIRST = [
    hold(100, 1),
    hold(50, 2),
    hold(30, 3),
    money(OTHER_CUSTOMER, OTHER_HELD, 7, Cause.HOLD, 4),
    computed(40, agent("a")),
    Posting(MACHINE, IDLE, COMPUTE, 60, Cause.REST),
]
SECOND = [
    money(HELD, REVENUE, 80, Cause.SETTLE, 1),
    money(HELD, CUSTOMER, 20, Cause.RELEASE, 1),
    # Settled in part: the rest of it is still held.
    money(HELD, REVENUE, 10, Cause.SETTLE, 3),
    Posting(MACHINE, agent("a"), DEVICE, 5_000, Cause.STORAGE),
]
POSITIONS = [Position(agent("a"), PerTier(10, 0, 4), 700), Position(agent("b"), PerTier(0, 3, 0), 1_000)]
TOTALS = {"compute_us": 130, "device_byte_us": 8_100, "disk_byte_us": 1_000}
"""30 of compute and 100 of the device that nothing explains; of the disk 200 too little."""


def cut_off(store: Store) -> RunId:
    run = store.begin(RUN)
    store.write(run, PostingBatch(1, START_US + 1, 700, FIRST, (), POSITIONS, {"compute_us": 100}))
    store.write(run, PostingBatch(2, START_US + 9, NOW_US, SECOND, (), POSITIONS, TOTALS))
    return run


def test_a_run_that_was_cut_off_is_closed(store: Store) -> None:
    run = cut_off(store)
    (found,) = recover(store, "node-a", START_US + 5_000)
    assert balances(store) == {
        # 10 bytes on the device and 4 on disk for the 300 us since the last posting.
        (agent("a"), COMPUTE): 40,
        (agent("a"), DEVICE): 5_000 + 3_000,
        (agent("a"), DISK): 1_200,
        (IDLE, COMPUTE): 60,
        (UNATTRIBUTED, COMPUTE): 30,
        (UNATTRIBUTED, DEVICE): 100,
        (UNATTRIBUTED, DISK): -200,
        (MACHINE, COMPUTE): -130,
        (MACHINE, DEVICE): -8_100,
        (MACHINE, DISK): -1_000,
        # 80 and 10 were earned; all else went back, to whom it belonged.
        (CUSTOMER, MONEY): -90,
        (REVENUE, MONEY): 90,
    }
    assert (found.run, found.last_batch, found.last_at_us) == (run, 2, START_US + 9)
    assert (found.released_requests, found.released_microusd) == (3, 50 + 20 + 7)
    assert found.storage_byte_us == {DEVICE: 3_000, DISK: 1_200}
    assert found.unattributed == {COMPUTE: 30, DEVICE: 100, DISK: -200}
    rows = store.rows("SELECT DISTINCT batch, at_us FROM postings WHERE cause = 'recovery'")
    assert rows == [(3, START_US + 5_000)]
    assert store.rows("SELECT ended_at_us FROM runs") == [(START_US + 5_000,)]


def test_releases_name_their_request(store: Store) -> None:
    cut_off(store)
    recover(store, "node-a", START_US + 5_000)
    assert store.rows(
        "SELECT request, amount, c.tenant FROM postings JOIN accounts c ON c.id = credit "
        "WHERE cause = 'recovery' AND resource = 'microusd' ORDER BY request"
    ) == [(2, 50, "acme"), (3, 20, "acme"), (4, 7, "zeta")]


def test_recovering_again_changes_nothing(store: Store) -> None:
    cut_off(store)
    recover(store, "node-a", START_US + 5_000)
    before = balances(store), count_of(store, "postings")
    assert recover(store, "node-a", START_US + 9_000) == []
    assert (balances(store), count_of(store, "postings")) == before


def test_a_recovery_that_is_cut_off_itself_is_finished_by_the_next(open_books: Opener) -> None:
    """Between the last batch and the end: storage and holds are in the books already."""
    store = FlakyStore(open_books())
    cut_off(store)
    store.unsaid = 1
    with pytest.raises(LedgerFull):
        recover(store, "node-a", START_US + 5_000)
    before = balances(store)
    (found,) = recover(store, "node-a", START_US + 6_000)
    assert balances(store) == before
    assert (found.released_microusd, found.storage_byte_us, found.unattributed) == (0, {}, {})
    assert store.open_runs("node-a") == []


def test_a_store_that_fails_leaves_the_run_open(open_books: Opener) -> None:
    store = FlakyStore(open_books())
    cut_off(store)
    store.fill()
    before = balances(store)
    with pytest.raises(LedgerFull):
        recover(store, "node-a", START_US + 5_000)
    assert balances(store) == before
    store.fault = None
    assert len(recover(store, "node-a", START_US + 5_000)) == 1


def test_what_ended_well_and_what_is_anothers_is_left_alone(store: Store) -> None:
    well, other = store.begin(RUN), store.begin(replace(RUN, node="node-b"))
    for run in (well, other):
        store.write(run, PostingBatch(1, START_US, NOW_US, FIRST, (), POSITIONS, TOTALS))
    store.end(well, START_US + 1)
    before = balances(store)
    assert recover(store, "node-a", START_US + 5_000) == []
    assert balances(store) == before
    assert [run.run for run in store.open_runs("node-b")] == [other]


def test_a_run_that_is_alive_in_another_process_is_left_alone(open_books: Opener) -> None:
    alive, starting = open_books(), open_books()
    cut_off(alive)
    with pytest.raises(LedgerError, match="in use by another server of the name 'node-a'"):
        recover(starting, "node-a", START_US + 5_000)
    assert len(alive.open_runs("node-a")) == 1
    alive.close()
    assert len(recover(starting, "node-a", START_US + 5_000)) == 1


def test_every_run_of_the_node_is_closed_by_its_own_books(store: Store) -> None:
    """Requests count from 1 in each run: the hold of one is not settled by the other."""
    first, second = store.begin(RUN), store.begin(RUN)
    store.write(first, PostingBatch(1, START_US, 1, [hold(100, 1)]))
    settled = [hold(40, 1), money(HELD, REVENUE, 40, Cause.SETTLE, 1)]
    store.write(second, PostingBatch(1, START_US + 5, 1, settled, (), (), {"compute_us": 9}))
    found = recover(store, "node-a", START_US + 5_000)
    assert [(one.run, one.released_microusd, one.unattributed) for one in found] == [
        (first, 100, {}),
        (second, 0, {COMPUTE: 9}),
    ]
    assert balances(store)[CUSTOMER, MONEY] == -40


def test_a_run_without_any_batch_is_just_ended(store: Store) -> None:
    store.begin(RUN)
    (found,) = recover(store, "node-a", START_US - 77)
    assert count_of(store, "postings") == 0
    # The clock was set back between two starts.
    assert store.rows("SELECT ended_at_us FROM runs") == [(START_US,)]
    assert "nothing stays unattributed" in found.sentence


def test_amounts_of_any_size(store: Store) -> None:
    run = store.begin(RUN)
    size_bytes, time_us = 2**36 + 1, 2**29
    positions = [Position(agent("a"), PerTier(size_bytes, 0, 0), 0)]
    store.write(
        run, PostingBatch(1, START_US, time_us, [], (), positions, {"device_byte_us": size_bytes * time_us})
    )
    recover(store, "node-a", START_US + 1)
    assert balances(store)[agent("a"), DEVICE] == size_bytes * time_us > MAX_AMOUNT
    assert (UNATTRIBUTED, DEVICE) not in balances(store)


def test_the_sentence_says_what_was_done(store: Store) -> None:
    run = cut_off(store)
    (found,) = recover(store, "node-a", START_US + 5_000)
    assert found.sentence == (
        f"run {run} was cut off after batch 2: 77 micro-dollars held for 3 requests went back, "
        "0 byte-seconds were attributed by the last known positions, "
        "30 compute_us, 100 device_byte_us, -200 disk_byte_us stays unattributed; "
        "the step in flight is not counted"
    )
