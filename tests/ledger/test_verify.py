"""``verify``: right books are right, and every single thing done to them is named."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pytest

from stepwell.ledger.base import LedgerError
from stepwell.ledger.reading.queries import RunRow
from stepwell.ledger.reading.verify import Replayed, Verified, describe, verify
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import MACHINE, REVENUE, Account, Cause, Kind, Posting, Resource
from tests.ledger.made_books import AGENTS, LEAD, READER, Books, Writer, gave, made_books, used

HELD = Account(Kind.HELD, "acme")
CUSTOMER = Account(Kind.CUSTOMER, "acme")


@pytest.fixture
def books(tmp_path: Path) -> Iterator[Books]:
    made = made_books(tmp_path)
    yield made
    made.store.close()


def sentences(found: Verified) -> list[str]:
    return [difference.sentence for difference in found.differences]


def test_right_books(books: Books) -> None:
    told: list[tuple[int, int]] = []
    found = verify(books.store, progress=lambda done, total: told.append((done, total)))
    assert found.differences == []
    assert found.postings == sum(len(writer.postings) for writer in books.writers)
    assert (found.runs, told) == (2, [(0, 2), (1, 2)])
    assert found.accounts == len({side for w in books.writers for p in w.postings for side in p[:2]})


WRONG = [
    (
        "UPDATE postings SET amount = amount + 1 WHERE run = 1 AND batch = 1 AND n = 0",
        [
            "run 1 (one): compute_us of the machine: the books say 9,341,235, and it should be 9,341,234 by "
            "the machine's totals"
        ],
    ),
    (
        "UPDATE postings SET resource = 'host_byte_us' WHERE run = 1 AND batch = 2 AND n = 0",
        [
            "run 1 (one): device_byte_us of the machine: the books say 4,600,000,077, and it should be "
            "8,200,000,077 by the machine's totals",
            "run 1 (one): host_byte_us of the machine: the books say 25,945,678,901, and it should be "
            "22,345,678,901 by the machine's totals",
        ],
    ),
    (
        "UPDATE usage SET charge_microusd = 9001 WHERE run = 1 AND request = 1",
        [
            "run 1 (one), tenant acme: micro-dollars that went to revenue: the books say 12,001, and it "
            "should be 12,002 by the charges of the spend log"
        ],
    ),
    (
        "DELETE FROM usage WHERE run = 1 AND request = 3",
        [
            "run 1 (one), tenant rival: micro-dollars that went to revenue: the books say 777, and it should "
            "be 0 by the charges of the spend log"
        ],
    ),
    (
        "UPDATE postings SET amount = amount - 5 WHERE run = 1 AND cause = 'release' AND request = 2",
        [
            "run 1 (one), request 2: micro-dollars held of acme: the books say 5, and it should be 0, "
            "for the run has ended"
        ],
    ),
    (
        "DELETE FROM postings WHERE run = 1 AND batch = 3 AND n = 1",
        [
            "run 1 (one), batch 3: rows of postings: the books say 2, and it should be 3 (numbers 0 to 2)",
            "run 1 (one), tenant acme: micro-dollars that went to revenue: the books say 3,001, and it "
            "should be 12,001 by the charges of the spend log",
            "run 1 (one), request 1: micro-dollars held of acme: the books say 9,000, and it should be 0, "
            "for the run has ended",
        ],
    ),
    (
        "UPDATE postings SET amount = 0 WHERE run = 2 AND batch = 3",
        [
            "run 2 (two), batch 3, posting 0: microusd: the books say 0, and it should be more than 0",
            "run 2 (two), tenant acme/search: micro-dollars that went to revenue: the books say 600, and it "
            "should be 550 by the charges of the spend log",
        ],
    ),
    (
        "UPDATE postings SET debit = credit WHERE run = 2 AND batch = 3",
        [
            "run 2 (two), batch 3, posting 0: microusd: the books say from customer acme/search to customer "
            "acme/search, and it should be between two accounts",
            "run 2 (two), tenant acme/search: micro-dollars that went to revenue: the books say 600, and it "
            "should be 550 by the charges of the spend log",
        ],
    ),
    (
        "UPDATE postings SET credit = 999 WHERE run = 1 AND batch = 1 AND n = 1",
        [
            "run 1 (one): entries of account 999: the books say there are some, and it should be of an "
            "account that exists",
            "run 1 (one): compute_us over all accounts: the books say -1,000,000, and it should be 0",
        ],
    ),
    (
        "UPDATE postings SET at_us = at_us + 7 WHERE run = 1 AND batch = 7 AND n = 0",
        [
            "run 1 (one), batch 7: time: the books say 1795413609341234 to 1795413609341241, and it "
            "should be one moment"
        ],
    ),
    (
        "UPDATE runs SET last_batch = 5 WHERE id = 1",
        [
            "run 1 (one): last batch of postings: the books say 7, and it should be at most 5",
            "run 1 (one): last batch of usage: the books say 7, and it should be at most 5",
        ],
    ),
    (
        "UPDATE postings SET resource = 'favour' WHERE run = 1 AND cause = 'displaced' AND n = 11",
        [
            "run 1 (one): postings of 'favour': the books say there are some, and it should be of a resource "
            "that is known"
        ],
    ),
]


@pytest.mark.parametrize(("sql", "named"), WRONG, ids=[sql for sql, _ in WRONG])
def test_whatever_is_done_to_the_books_is_named(books: Books, sql: str, named: list[str]) -> None:
    books.corrupt(sql)
    assert sentences(verify(books.store)) == named


@pytest.mark.parametrize("more", [1, -1, 2**33])
def test_no_single_amount_can_be_changed_unseen(books: Books, more: int) -> None:
    """But for displacement, of which only a recording knows."""
    connection = books.unguarded()
    for writer in books.writers:
        for batch, n, resource in connection.execute(
            "SELECT batch, n, resource FROM postings WHERE run = ?", (writer.run,)
        ).fetchall():
            where = f"WHERE run = {writer.run} AND batch = {batch} AND n = {n}"
            connection.execute(f"UPDATE postings SET amount = amount + {more} {where}")
            connection.commit()
            assert bool(verify(books.store).differences) is (resource != Resource.DISPLACED.value)
            connection.execute(f"UPDATE postings SET amount = amount - {more} {where}")
            connection.commit()
    connection.close()
    assert verify(books.store).differences == []


def test_entries_of_a_run_that_does_not_exist(books: Books) -> None:
    books.corrupt("DELETE FROM runs WHERE id = 2")
    found = sentences(verify(books.store))
    assert found == [
        "run 2: the books say 6 rows of postings, and it should be none: there is no such run",
        "run 2: the books say 2 rows of usage, and it should be none: there is no such run",
    ]


def test_totals_that_nobody_can_read(books: Books) -> None:
    books.corrupt("UPDATE runs SET totals = 'nothing' WHERE id = 2")
    with pytest.raises(LedgerError, match=r"run 2 \(two\): its totals cannot be read"):
        verify(books.store)


def test_holds_of_a_run_that_goes_on_are_as_they_should_be(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "ledger.db")
    writer = Writer.begin(store, "one")
    writer.write([Posting(CUSTOMER, HELD, Resource.MONEY, 70, Cause.HOLD, 1)])
    assert verify(store).differences == []
    writer.end()
    assert sentences(verify(store)) == [
        "run 1 (one), request 1: micro-dollars held of acme: the books say 70, and it should be 0, for the "
        "run has ended"
    ]
    store.close()


def test_room_is_posted_later_than_it_is_used(tmp_path: Path) -> None:
    """The machine's totals say at every step what was given; who had it is posted now and then."""
    store = SqliteStore(tmp_path / "ledger.db")
    writer = Writer.begin(store, "one")
    writer.totals["device_byte_us"] = 70
    writer.write([gave(LEAD, Resource.COMPUTE, 10, 1)])
    assert verify(store).differences == []
    writer.totals["compute_us"] += 1
    writer.write([gave(LEAD, Resource.HOST, 5)])
    assert ["compute_us of the machine" in one for one in sentences(verify(store))] == [True]
    writer.totals["compute_us"] -= 1
    writer.totals["host_byte_us"] -= 1
    writer.write([gave(LEAD, Resource.DEVICE, 69)])
    assert ["host_byte_us of the machine" in one for one in sentences(verify(store))] == [True]
    writer.totals["host_byte_us"] += 1
    writer.end()
    found = sentences(verify(store))
    store.close()
    assert [one.partition(":")[2] for one in found] == [
        " device_byte_us of the machine: the books say 69, and it should be 139 by the machine's totals",
        " host_byte_us of the machine: the books say 5, and it should be 4 by the machine's totals",
    ]


def test_large_holds_whose_halves_do_not_cancel(tmp_path: Path) -> None:
    """2^32 held, two parts of 2^31 given back: upper and lower halves differ, the sum is right."""
    store = SqliteStore(tmp_path / "ledger.db")
    writer = Writer.begin(store, "one")
    half = 2**31
    writer.write(
        [
            Posting(CUSTOMER, HELD, Resource.MONEY, 2 * half, Cause.HOLD, 1),
            Posting(HELD, REVENUE, Resource.MONEY, half, Cause.SETTLE, 1),
            Posting(HELD, CUSTOMER, Resource.MONEY, half, Cause.RELEASE, 1),
        ],
        [used(LEAD, 1, writer.at_us, half)],
    )
    writer.end()
    assert verify(store).differences == []
    store.close()


def test_a_server_may_write_on_meanwhile(tmp_path: Path) -> None:
    """What comes after ``verify`` began is not held against totals from before."""
    store = SqliteStore(tmp_path / "ledger.db")
    writer = Writer.begin(store, "one")
    writer.write([gave(LEAD, Resource.COMPUTE, 10, 1)])
    found = verify(store, progress=lambda done, total: writer.write([gave(READER, Resource.COMPUTE, 5, 2)]))
    assert (found.differences, found.postings) == ([], 1)
    assert verify(store).postings == 2
    store.close()


def balances(books: Books, run: int) -> dict[Account, dict[Resource, int]]:
    found: dict[Account, dict[Resource, int]] = {}
    for posting in books.writers[run - 1].postings:
        for account, amount in ((posting.debit, -posting.amount), (posting.credit, posting.amount)):
            own = found.setdefault(account, {})
            own[posting.resource] = own.get(posting.resource, 0) + amount
    return found


def test_against_a_recording(books: Books) -> None:
    again = balances(books, 1)
    totals = dict(books.writers[0].totals)

    def replay(run: RunRow) -> Replayed | None:
        return Replayed(totals, again) if run.id == 1 else None

    found = verify(books.store, replay)
    assert (found.differences, found.replayed) == ([], 1)
    again[LEAD][Resource.COMPUTE] += 3
    again[MACHINE][Resource.COMPUTE] -= 3
    totals["compute_us"] += 3
    assert sentences(verify(books.store, replay)) == [
        "run 1 (one): compute_us of the machine: the books say 9,341,234, and it should be 9,341,237 by the "
        "recording",
        "run 1 (one), agent acme / s1 / s1 (key_acme, priority): compute_us: the books say 3,000,001, and it "
        "should be 3,000,004 by the recording",
        "run 1 (one), machine: compute_us: the books say -9,341,234, and it should be -9,341,237 by the "
        "recording",
    ]


def test_postings_moved_between_agents_show_against_a_recording_only(books: Books) -> None:
    again, totals = balances(books, 1), json.loads(json.dumps(books.writers[0].totals))
    lead, reader = (
        books.store.rows("SELECT id FROM accounts WHERE agent = ? AND tenant = 'acme'", (account.agent,))[0][
            0
        ]
        for account in (LEAD, READER)
    )
    books.corrupt(f"UPDATE postings SET credit = {reader} WHERE credit = {lead} AND run = 1 AND batch = 1")
    assert verify(books.store).differences == []
    found = sentences(verify(books.store, lambda run: Replayed(totals, again) if run.id == 1 else None))
    assert len(found) == 2
    assert all("by the recording" in one and "compute_us" in one for one in found)


def test_accounts_in_words() -> None:
    assert describe(MACHINE) == "machine"
    assert describe(CUSTOMER) == "customer acme"
    assert describe(AGENTS[1]) == "agent acme / s1 / s1/reader (key_acme, priority)"
    assert describe(Account(Kind.AGENT, "t")) == "agent t / - / - (-, -)"
