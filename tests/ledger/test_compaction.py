"""Postings that become daily balances: everything that is asked of the books is answered as before."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.cli import run
from stepwell.errors import BadInput
from stepwell.ledger.base import LedgerError, Store
from stepwell.ledger.reading.calendar import parts
from stepwell.ledger.reading.export import postings_sheet
from stepwell.ledger.reading.grouping import parse_by
from stepwell.ledger.reading.margin import margin, read_sums
from stepwell.ledger.reading.over_time import statement_over_time
from stepwell.ledger.reading.queries import DAY_US, Period, runs
from stepwell.ledger.reading.run_rates import rates_of
from stepwell.ledger.reading.verify import verify
from stepwell.ledger.stores import sqlstore
from stepwell.ledger.stores.compaction import Compactor, compact, cutoff_us, would_compact
from stepwell.ledger.stores.recovery import recover
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import REVENUE, Account, Cause, Kind, Posting, Resource
from tests.ledger.conftest import Opener
from tests.ledger.entries import count_of
from tests.ledger.made_books import AGENTS, HOUR_US, START_US, Writer, gave, made_books, used, write_runs

MACHINES = (Resource.COMPUTE, Resource.DEVICE, Resource.DISK)


def everything(store: Store) -> dict[str, Any]:
    """What the books say, in every way that somebody asks them."""
    said: dict[str, Any] = {"differences": [one.sentence for one in verify(store).differences]}
    for by in ("tenant,role", "agent,model", "day", "week,tenant"):
        said[f"statement {by}"] = statement_over_time(
            store, Period(), parse_by(by, beyond=("model", "day", "week"))
        )
    fields, rates = parse_by("tenant,role"), rates_of(runs(store))
    for label, part in [("all", Period()), *parts(store, Period(), "day")]:
        said[f"margin {label}"] = margin(read_sums(store, part), rates, fields)
    return said


# --- whatever is in the books -------------------------------------------------------------------

STEP = st.tuples(
    st.sampled_from(("compute", "hold", "settle", "rest", "correct")),
    st.integers(0, len(AGENTS) - 1),
    st.integers(1, 2**61),
    st.integers(0, 40 * HOUR_US),
)


def written(store: Store, steps: list[tuple[str, int, int, int]], *, ended: bool) -> Writer:
    """Books in which requests hold, settle and are corrected over days, in any order."""
    writer, open_holds, number = Writer.begin(store, "one"), [], 0
    for what, who, amount, after_us in steps:
        account = AGENTS[who]
        customer, held = (Account(kind, account.tenant) for kind in (Kind.CUSTOMER, Kind.HELD))
        if what == "hold":
            number += 1
            money = 2 + amount % 1_000_000
            writer.write([Posting(customer, held, Resource.MONEY, money, Cause.HOLD, number)], (), after_us)
            open_holds.append((number, account, customer, held, money))
        elif what == "settle" and open_holds:
            request, account, customer, held, money = open_holds.pop(amount % len(open_holds))
            settle(writer, request, account, customer, held, money, after_us)
        elif what == "correct":
            pair = (customer, REVENUE) if amount % 2 else (REVENUE, customer)
            usage = used(account, 1, writer.at_us, 5 if amount % 2 else -5, requests=0)
            writer.write([Posting(*pair, Resource.MONEY, 5, Cause.CORRECTION, 1)], [usage], after_us)
        else:
            resource = MACHINES[amount % len(MACHINES)]
            request = 0 if what == "rest" else 1 + amount % 3
            writer.write([gave(account, resource, amount, request)] * (1 + amount % 2), (), after_us)
    while ended and open_holds:
        settle(writer, *open_holds.pop(), 0)
    if ended:
        writer.end()
    return writer


def settle(
    writer: Writer,
    request: int,
    account: Account,
    customer: Account,
    held: Account,
    money: int,
    after_us: int,
) -> None:
    rows = [
        Posting(held, REVENUE, Resource.MONEY, money // 2, Cause.SETTLE, request),
        Posting(held, customer, Resource.MONEY, money - money // 2, Cause.RELEASE, request),
    ]
    writer.write(rows, [used(account, request, writer.at_us + after_us, money // 2)], after_us)


@contextmanager
def in_a_file() -> Iterator[SqliteStore]:
    with TemporaryDirectory() as directory:
        store = SqliteStore(Path(directory) / "ledger.db")
        try:
            yield store
        finally:
            store.close()


@given(
    steps=st.lists(STEP, min_size=1, max_size=14),
    ended=st.booleans(),
    cuts=st.lists(st.integers(0, 12), min_size=1, max_size=3),
    slice_postings=st.integers(1, 6),
)
@settings(deadline=None, max_examples=25)
def test_nothing_that_is_asked_has_another_answer(
    steps: list[tuple[str, int, int, int]], ended: bool, cuts: list[int], slice_postings: int
) -> None:
    with in_a_file() as store:
        written(store, steps, ended=ended)
        before = everything(store)
        assert before["differences"] == []
        for days in cuts:
            until_us = START_US - START_US % DAY_US + days * DAY_US
            young = count_of(store, f"postings WHERE at_us >= {until_us}")
            compact(store, until_us, slice_postings=slice_postings)
            assert everything(store) == before
            assert count_of(store, f"postings WHERE at_us >= {until_us}") == young
            assert compact(store, until_us).postings == 0, "a second time finds nothing"


@given(
    steps=st.lists(STEP, min_size=1, max_size=12),
    days=st.integers(0, 12),
    slice_postings=st.integers(1, 4),
)
@settings(deadline=None, max_examples=15)
def test_a_run_that_was_cut_off_is_closed_as_before(
    steps: list[tuple[str, int, int, int]], days: int, slice_postings: int
) -> None:
    """Holds that are open when their first postings are added up go back all the same."""
    found = []
    for compacted in (False, True):
        with in_a_file() as store:
            writer = written(store, steps, ended=False)
            until_us = START_US - START_US % DAY_US + days * DAY_US
            if compacted:
                compact(store, until_us, slice_postings=slice_postings)
            found.append((recover(store, "one", writer.at_us + 5), everything(store)))
            if compacted:
                compact(store, writer.at_us - writer.at_us % DAY_US + DAY_US, slice_postings=slice_postings)
                found.append((found[-1][0], everything(store)))
    assert found[0] == found[1] == found[2]
    assert found[0][1]["differences"] == []


# --- both stores ---------------------------------------------------------------------------------


def test_both_stores_do_the_same(open_books: Opener) -> None:
    store = open_books()
    write_runs(store)
    before, postings = everything(store), count_of(store, "postings")
    until_us = START_US + 2 * DAY_US
    expected = would_compact(store, until_us)
    done = compact(store, until_us)
    assert done.postings == expected.postings == postings - count_of(store, "postings") > 0
    assert (done.runs, done.balances) == (expected.runs, expected.balances)
    assert everything(store) == before
    assert verify(store).balances == done.balances == count_of(store, "daily")
    for change in (
        "DELETE FROM daily",
        "UPDATE daily SET low = 0",
        "DELETE FROM postings WHERE batch > 1000",
    ):
        with pytest.raises(LedgerError):
            store.rows(change)


def test_only_what_is_in_the_balances_may_leave(open_books: Opener) -> None:
    store = open_books()
    writer = Writer.begin(store, "one")
    for _ in range(4):
        writer.write([gave(AGENTS[0], Resource.COMPUTE, 7, 1)], after_us=DAY_US)
    compact(store, START_US + 3 * DAY_US)
    assert isinstance(store, sqlstore.SqlStore)
    with pytest.raises(LedgerError, match="append-only"), store._transaction() as cursor:
        cursor.execute("DELETE FROM postings")
    with pytest.raises(LedgerError, match="append-only"), store._transaction() as cursor:
        cursor.execute("DELETE FROM daily")
    assert (count_of(store, "postings"), count_of(store, "daily")) == (2, 2)
    assert store.compact(writer.run, 1, 4) == 0, "another process was here"


def test_a_slice_is_there_whole_or_not_at_all(open_books: Opener, monkeypatch: pytest.MonkeyPatch) -> None:
    store = open_books()
    write_runs(store)
    before, postings = everything(store), count_of(store, "postings")
    monkeypatch.setattr(sqlstore, "ADD_UP", f"{sqlstore.ADD_UP} HAVING SUM(p.nothing) > 0")
    with pytest.raises(LedgerError):
        compact(store, START_US + 9 * DAY_US)
    assert (count_of(store, "postings"), count_of(store, "daily")) == (postings, 0)
    assert everything(store) == before
    monkeypatch.undo()
    compact(store, START_US + 9 * DAY_US, slice_postings=3)
    assert everything(store) == before


# --- what is no longer there ---------------------------------------------------------------------


def test_a_part_of_an_old_day_is_refused(tmp_path: Path) -> None:
    books = made_books(tmp_path)
    compact(books.store, START_US + DAY_US)
    with pytest.raises(BadInput, match=r"2026-11-22 are kept as daily balances \(UTC\)"):
        read_sums(books.store, Period(START_US + HOUR_US, START_US + 9 * DAY_US))
    read_sums(books.store, Period(START_US + DAY_US + HOUR_US))
    books.store.close()


@pytest.mark.parametrize(
    ("harm", "found"),
    [
        ("DELETE FROM daily WHERE resource = 'compute_us'", "by the machine's totals"),
        ("UPDATE daily SET low = low + 1 WHERE resource = 'compute_us' AND request = 0", "machine's totals"),
        ("UPDATE daily SET low = 0 WHERE cause = 'settle'", "by the charges of the spend log"),
        ("UPDATE daily SET batch = 99", "rows of daily"),
        ("UPDATE runs SET compacted_batch = 99 WHERE id = 1", "rows of postings"),
        ("UPDATE daily SET run = 7", "there is no such run"),
    ],
)
def test_who_changes_balances_is_found_out(tmp_path: Path, harm: str, found: str) -> None:
    books = made_books(tmp_path)
    compact(books.store, START_US + DAY_US)
    books.corrupt(harm)
    assert any(found in difference.sentence for difference in verify(books.store).differences)
    books.store.close()


def test_an_export_adds_up_to_the_same(tmp_path: Path) -> None:
    """Amounts beyond what one posting holds are several rows."""
    with in_a_file() as store:
        writer = Writer.begin(store, "one")
        for _ in range(5):
            writer.write([gave(AGENTS[0], Resource.DISK, 2**61 + 1, 1)], after_us=1)
        sheet = postings_sheet(store, Period())
        at = list(sheet.columns).index("amount")
        before = sum(row[at] for row in sheet.rows)
        compact(store, START_US + DAY_US)
        rows = list(postings_sheet(store, Period()).rows)
        assert sum(row[at] for row in rows) == before == 5 * (2**61 + 1)
        assert len(rows) == 3 and all(row[at] <= 2**62 for row in rows)
        assert verify(store).differences == []


# --- doors ---------------------------------------------------------------------------------------


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    books = made_books(tmp_path)
    postings = count_of(books.store, "postings")
    place, file = str(books.path), tmp_path / "out.json"
    assert run(["ledger", "compact", "--ledger", place, "--keep-days", "30", "--dry-run"]) == 0
    assert "nothing was changed" in capsys.readouterr().out
    assert cutoff_us(START_US + 40 * HOUR_US + 9 * DAY_US, 9) == START_US + DAY_US
    assert run(["ledger", "compact", "--ledger", place]) == 2
    assert "--keep-days 90, or set ledger.keep_days" in capsys.readouterr().err
    assert run(["ledger", "compact", "--ledger", place, "--keep-days", "2", "--json", str(file)]) == 0
    found = json.loads(file.read_text("utf-8"))
    capsys.readouterr()
    assert found["postings"] == postings - count_of(books.store, "postings")
    assert run(["ledger", "verify", "--ledger", place]) == 0
    books.store.close()


def test_a_server_adds_up_by_itself(tmp_path: Path) -> None:
    books = made_books(tmp_path)
    done = threading.Event()

    class Told(SqliteStore):
        def close(self) -> None:
            super().close()
            done.set()

    compactor = Compactor(lambda: Told(books.path), 2, lambda: START_US + 9 * DAY_US, first_s=0.0)
    assert done.wait(60)
    compactor.close()
    assert count_of(books.store, "postings") == 0 < count_of(books.store, "daily")
    assert verify(books.store).differences == []
    books.store.close()


def test_a_clock_that_has_leapt_ahead_adds_nothing_up(tmp_path: Path) -> None:
    """Somebody starts a server with a wrong clock: yesterday's postings are not a year old."""
    books = made_books(tmp_path)
    looked, opened = threading.Event(), list[int]()

    def ahead() -> int:
        looked.set()
        return START_US + 400 * DAY_US

    def connect() -> Store:
        opened.append(1)
        return SqliteStore(books.path)

    compactor = Compactor(connect, 90, ahead, first_s=0.0, last_entry_us=START_US + 3 * HOUR_US)
    assert looked.wait(60)
    compactor.close()
    assert not opened
    assert compactor._leapt() is False, "a day later it is taken at its word"
    books.store.close()
