"""One contract, two stores: SQLite, and a real PostgreSQL that the tests start."""

from __future__ import annotations

import os
import sqlite3
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest

from stepwell.basics.per_tier import PerTier
from stepwell.errors import BadInput
from stepwell.ledger.base import LedgerError, LedgerRefused, PostingBatch, Store
from stepwell.ledger.stores import schema
from stepwell.ledger.stores.open import open_store
from stepwell.ledger.stores.schema import APPEND_ONLY, VERSION
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import (
    IDLE,
    MACHINE,
    MAX_AMOUNT,
    Account,
    Budget,
    Cause,
    Kind,
    Position,
    Posting,
    Resource,
    Scope,
    Usage,
)
from tests.ledger.conftest import Opener
from tests.ledger.entries import RUN, START_US, Balances, added, agent, balances, batch, computed, count_of
from tests.ledger.postgres_server import Server

USAGE = Usage(
    request=7, account=agent(), model="null", reason="stop", at_us=START_US + 5, input_tokens=100,
    cached_tokens=60, visible_tokens=20, intermediate_tokens=3, recomputed_tokens=4, charge_microusd=12,
    ttft_us=900, e2e_us=1800,
)  # fmt: skip


def test_what_was_written_is_read_back(store: Store) -> None:
    run = store.begin(RUN)
    postings = [computed(5), Posting(MACHINE, IDLE, Resource.HOST, 2**40, Cause.REST)]
    store.write(run, PostingBatch(1, START_US + 9, 44, postings, [USAGE], totals={"compute_us": 5}))
    rows = store.rows(
        "SELECT run, batch, n, at_us, d.kind, c.kind, c.agent, resource, amount, cause, request "
        "FROM postings JOIN accounts d ON d.id = debit JOIN accounts c ON c.id = credit ORDER BY n"
    )
    assert rows == [
        (run, 1, 0, START_US + 9, "machine", "agent", "a", "compute_us", 5, "step", 1),
        (run, 1, 1, START_US + 9, "machine", "idle", "", "host_byte_us", 2**40, "rest", 0),
    ]
    assert store.rows(
        "SELECT u.at_us, request, a.agent, model, reason, requests, input_tokens, cached_tokens, "
        "visible_tokens, intermediate_tokens, recomputed_tokens, charge_microusd, ttft_us, e2e_us, cause "
        "FROM usage u JOIN accounts a ON a.id = u.account"
    ) == [(START_US + 5, 7, "a", "null", "stop", 1, 100, 60, 20, 3, 4, 12, 900, 1800, "settle")]
    assert store.rows("SELECT node, model, config, cost_book, price_book, last_now_us FROM runs") == [
        ("node-a", "null", '{"a": 1}', "cost", "price", 44)
    ]


def test_the_same_number_again_changes_nothing(store: Store) -> None:
    run = store.begin(RUN)
    store.write(run, batch(1, computed(5)))
    store.write(run, batch(2, computed(7)))
    for again in (batch(1, computed(5)), batch(2, computed(1000), computed(3)), batch(1)):
        store.write(run, replace(again, usage=[USAGE], positions=[Position(agent(), PerTier(1, 2, 3), 4)]))
    assert balances(store) == {(MACHINE, Resource.COMPUTE): -12, (agent(), Resource.COMPUTE): 12}
    assert count_of(store, "usage") == count_of(store, "positions") == 0
    assert store.open_runs("node-a")[0].totals == {"compute_us": 2}


WRONG = {
    "nothing": computed(0),
    "less than nothing": computed(-5),
    "to itself": Posting(agent(), agent(), Resource.COMPUTE, 5, Cause.STEP),
    "more than any machine": computed(2**90),
    "a number that is too large": computed(5, request=2**70),
}


@pytest.mark.parametrize("wrong", WRONG.values(), ids=WRONG)
def test_a_batch_is_there_whole_or_not_at_all(store: Store, wrong: Posting) -> None:
    run = store.begin(RUN)
    store.write(run, batch(1, computed(5)))
    new = agent("new")
    positions = [Position(new, PerTier(1, 2, 3), 4)]
    with pytest.raises(LedgerRefused, match="refuse"):
        store.write(run, replace(batch(2, computed(6, new), wrong), usage=[USAGE], positions=positions))
    assert count_of(store, "postings") == 1
    assert count_of(store, "usage") == count_of(store, "positions") == 0
    assert count_of(store, "accounts") == 2
    assert store.open_runs("node-a")[0].last_batch == 1
    # The number is free again, and the account that was rolled back gets a number that exists.
    store.write(run, batch(2, computed(6, new)))
    assert balances(store)[new, Resource.COMPUTE] == 6


@pytest.mark.parametrize("table", APPEND_ONLY)
def test_nothing_is_ever_changed_or_removed(
    table: str, tmp_path: Path, request: pytest.FixtureRequest, open_books: Opener
) -> None:
    """Whoever connects, with whatever program."""
    store = open_books()
    run = store.begin(RUN)
    store.write(run, PostingBatch(1, START_US, 1, [computed(5)], [USAGE]))
    store.set_budget(Budget(Scope.TENANT, "acme", "", 1, 2))
    for change in (f"UPDATE {table} SET at_us = 0", f"DELETE FROM {table}"):
        with pytest.raises(LedgerError):
            store.rows(change)
        with pytest.raises(Exception, match="append-only"):
            _as_another_program(change, tmp_path, request)
    assert count_of(store, table) == 1


def _as_another_program(change: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    if (tmp_path / "ledger.db").exists():
        connection = sqlite3.connect(tmp_path / "ledger.db")
        try:
            connection.execute(change)
        finally:
            connection.close()
    else:
        import psycopg

        with psycopg.connect(request.getfixturevalue("postgres_url")) as other:
            other.execute("SET search_path = stepwell")
            other.execute(change)


def test_sums_do_not_overflow_and_large_amounts_are_split(store: Store) -> None:
    run = store.begin(RUN)
    expected: Balances = {}
    for number in range(1, 6):
        postings = [computed(MAX_AMOUNT), computed(MAX_AMOUNT - 1), computed(3 * MAX_AMOUNT + 17)]
        store.write(run, batch(number, *postings))
        added(expected, postings)
    assert balances(store) == expected
    assert expected[agent(), Resource.COMPUTE] > 2**64
    assert store.rows("SELECT MAX(amount) FROM postings") == [(MAX_AMOUNT,)]


def test_runs_of_two_nodes_keep_apart(store: Store) -> None:
    first = store.begin(RUN)
    other = store.begin(replace(RUN, node="node-b", started_at_us=START_US + 1))
    second = store.begin(RUN)
    for run, amount in ((first, 1), (other, 10), (second, 100), (other, 1000)):
        number = store.rows("SELECT last_batch FROM runs WHERE id = ?", (run,))[0][0] + 1
        store.write(run, batch(number, computed(amount)))
    assert balances(store, other)[agent(), Resource.COMPUTE] == 1010
    assert [run.run for run in store.open_runs("node-a")] == [first, second]
    assert [(run.run, run.last_batch) for run in store.open_runs("node-b")] == [(other, 2)]
    assert store.open_runs("node-c") == []
    assert len({account for account, _ in balances(store)}) == count_of(store, "accounts") == 2


def test_a_run_that_has_ended_is_not_open_and_takes_nothing_more(store: Store) -> None:
    run = store.begin(RUN)
    store.write(run, replace(batch(1, computed(1)), positions=[Position(agent(), PerTier(1, 2, 3), 4)]))
    store.end(run, START_US - 100)
    store.end(run, START_US + 900)
    assert store.open_runs("node-a") == []
    # The clock had gone back; the end does not come before the last entry.
    assert store.rows("SELECT ended_at_us FROM runs") == [(START_US + 1,)]
    assert count_of(store, "positions") == 0
    store.write(run, batch(1, computed(1)))
    with pytest.raises(LedgerRefused, match="has closed its books"):
        store.write(run, batch(2, computed(1)))
    assert count_of(store, "postings") == 1


def test_an_unknown_run_is_refused(store: Store) -> None:
    with pytest.raises(LedgerRefused, match="knows no run 99"):
        store.write(99, batch(1, computed(1)))
    assert store.rows("SELECT * FROM postings WHERE run = ?", (99,)) == []
    store.end(99, START_US)
    assert count_of(store, "accounts") == 0


def test_the_latest_budget_of_a_name_is_in_force(store: Store) -> None:
    for hard in (5, None, 7):
        store.set_budget(Budget(Scope.KEY, "acme", "key_1", 3, hard, START_US, "operator"))
    store.set_budget(Budget(Scope.TENANT, "acme", "", None, 100, START_US - 5))
    in_force = (
        "SELECT scope, tenant, name, soft_microusd, hard_microusd, actor, at_us FROM budgets b "
        "WHERE id = (SELECT MAX(id) FROM budgets c WHERE c.scope = b.scope AND c.tenant = b.tenant "
        "AND c.name = b.name) ORDER BY scope"
    )
    assert store.rows(in_force) == [
        ("key", "acme", "key_1", 3, 7, "operator", START_US),
        ("tenant", "acme", "", None, 100, "", START_US - 5),
    ]
    assert count_of(store, "budgets") == 4
    with pytest.raises(LedgerRefused):
        store.set_budget(Budget(Scope.TENANT, "acme", "", None, -1))


def test_positions_are_the_latest_and_only_of_those_who_hold_something(store: Store) -> None:
    run = store.begin(RUN)
    a, b = agent("a"), agent("b")
    steps = [
        [Position(a, PerTier(1, 2, 3), 10), Position(b, PerTier(4, 5, 6), 10)],
        [Position(a, PerTier(9, 9, 9), 20), Position(a, PerTier(7, 0, 0), 20)],
        [Position(b, PerTier(0, 0, 0), 30)],
        [],
    ]
    for number, positions in enumerate(steps, 1):
        store.write(run, replace(batch(number), positions=positions))
    (open_run,) = store.open_runs("node-a")
    assert open_run.positions == [Position(a, PerTier(7, 0, 0), 20)]
    assert (open_run.last_batch, open_run.last_at_us, open_run.last_now_us) == (4, START_US + 4, 400)


def test_names_of_any_length_and_script(open_books: Opener) -> None:
    store = open_books()
    run = store.begin(replace(RUN, node="Knoten 'ä' \N{SNOWMAN}"))
    names = [
        "",
        "a'b\"c\\d\te\n;--",
        "\N{SNOWMAN}" * 50,
        "x" * 20_000,
        "nul\0byte",
        "half \ud83d",
        "ä",
        "a\u0308",
    ]
    accounts = [agent(name) for name in names]
    for number, account in enumerate(accounts, 1):
        store.write(run, batch(number, computed(number, account)))
    # Another process finds the same accounts by their names.
    again = open_books()
    run2 = again.begin(RUN)
    again.write(run2, batch(1, *(computed(100, account) for account in accounts)))
    assert count_of(store, "accounts") == len(names) + 1
    rows = store.rows(
        "SELECT agent, SUM(amount) FROM postings JOIN accounts a ON a.id = credit "
        "GROUP BY a.id, agent ORDER BY a.id"
    )
    shown = [name.replace("\0", "\ufffd").replace("\ud83d", "?") for name in names]
    assert rows == [(name, 100 + number) for number, name in enumerate(shown, 1)]


def test_ten_thousand_accounts_in_one_batch(store: Store) -> None:
    run = store.begin(RUN)
    postings = [computed(n + 1, agent(f"agent-{n}", f"tenant-{n % 7}")) for n in range(10_000)]
    store.write(run, batch(1, *postings))
    expected: Balances = {}
    added(expected, postings)
    assert balances(store) == expected


def test_readers_see_whole_batches_while_one_writes(store: Store) -> None:
    run = store.begin(RUN)
    sizes: list[int] = []
    stop = threading.Event()
    problems: list[LedgerError] = []

    def read() -> None:
        while not stop.is_set():
            try:
                sizes.append(count_of(store, "postings"))
            except LedgerError as error:
                problems.append(error)
                return

    threads = [threading.Thread(target=read) for _ in range(3)]
    for thread in threads:
        thread.start()
    for number in range(1, 61):
        store.write(run, batch(number, *(computed(1) for _ in range(10))))
    stop.set()
    for thread in threads:
        thread.join(30)
    assert not problems
    assert sizes
    assert all(size % 10 == 0 for size in sizes)


def test_a_snapshot_is_one_state_of_the_books_for_this_thread(store: Store) -> None:
    run = store.begin(RUN)
    store.write(run, batch(1, computed(1)))
    with store.snapshot():
        store.write(run, batch(2, computed(1)))
        with store.snapshot():
            assert count_of(store, "postings") == 1
        assert count_of(store, "postings") == 1
        others: list[int] = []
        thread = threading.Thread(target=lambda: others.append(count_of(store, "postings")))
        thread.start()
        thread.join(30)
        assert others == [2]
    assert count_of(store, "postings") == 2
    with pytest.raises(LedgerError), store.snapshot():
        store.rows("SELECT nonsense")
    assert count_of(store, "postings") == 2


def test_a_reader_cannot_write(store: Store) -> None:
    store.begin(RUN)
    with pytest.raises(LedgerError):
        store.rows("DELETE FROM runs")
    with pytest.raises(LedgerError):
        store.rows("SELECT nonsense FROM nowhere")
    assert count_of(store, "runs") == 1


def test_question_marks_and_percent_signs_in_text_are_text(store: Store) -> None:
    store.begin(RUN)
    sql = (
        "SELECT '100 % ?', COUNT(*) FROM runs WHERE node LIKE 'node%' AND node <> ? AND (? IS NULL OR id > ?)"
    )
    assert store.rows(sql, ("it's", None, 0)) == [("100 % ?", 1)]


def test_two_servers_of_one_name_do_not_run_at_once(open_books: Opener) -> None:
    first, second = open_books(), open_books()
    run = first.begin(RUN)
    first.begin(RUN)
    with pytest.raises(LedgerError, match="in use by another server of the name 'node-a'"):
        second.begin(RUN)
    second.begin(replace(RUN, node="node-b"))
    first.close()
    second.claim("node-a")
    assert [one.run for one in second.open_runs("node-a")] == [run, run + 1]


def test_the_books_are_there_after_closing(open_books: Opener) -> None:
    store = open_books()
    run = store.begin(RUN)
    store.write(run, batch(1, computed(5)))
    store.close()
    store.close()
    with pytest.raises(LedgerError, match="is closed"):
        store.rows("SELECT 1")
    with pytest.raises(LedgerError, match="is closed"):
        store.write(run, batch(2, computed(5)))
    assert balances(open_books())[agent(), Resource.COMPUTE] == 5


def test_older_tables_are_brought_up_to_date_by_who_writes(
    open_books: Opener, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = open_books()
    run = old.begin(RUN)
    old.write(run, batch(1, computed(5)))
    old.close()
    statement = "ALTER TABLE runs ADD COLUMN note TEXT NOT NULL DEFAULT 'none'"
    monkeypatch.setattr(schema, "VERSION", VERSION + 1)
    monkeypatch.setattr(schema, "MIGRATIONS", {**schema.MIGRATIONS, VERSION: lambda dialect: (statement,)})
    with pytest.raises(LedgerError, match="start a server on it once"):
        open_books(create=False)
    for _ in range(2):
        new = open_books()
        assert new.rows("SELECT note FROM runs") == [("none",)]
        assert balances(new)[agent(), Resource.COMPUTE] == 5
        new.close()


# --- SQLite's own ---------------------------------------------------------------------------------


def test_the_file_is_nobody_elses_to_read(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "new" / "ledger.db")
    store.begin(RUN)
    files = list((tmp_path / "new").iterdir())
    assert {path.stat().st_mode & 0o077 for path in files} == {0}
    store.close()


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


def test_what_is_no_ledger_is_one_sentence(tmp_path: Path) -> None:
    foreign = tmp_path / "foreign.db"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE postings (x)")
    connection.close()
    text = _write(tmp_path / "notes.txt", b"these are notes and not a database" * 40)
    wrong = {
        foreign: "is not a ledger: another program's tables",
        text: "is not a ledger: it is no SQLite file",
        tmp_path: "is a directory",
        text / "x.db": "cannot be made",
    }
    for path, sentence in wrong.items():
        with pytest.raises(LedgerError, match=sentence) as raised:
            SqliteStore(path)
        assert str(path) in str(raised.value)
        assert "\n" not in str(raised.value)
    assert text.read_bytes().startswith(b"these are notes")
    with pytest.raises(LedgerError, match="there is no ledger at"):
        open_store(tmp_path / "missing.db", create=False)
    assert not (tmp_path / "missing.db").exists()
    with pytest.raises(LedgerError, match="is empty"):
        open_store(_write(tmp_path / "empty.db", b""), create=False)
    with pytest.raises(BadInput, match="and not mysql://"):
        open_store("mysql://somewhere/books")


def test_a_damaged_file_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    store = SqliteStore(path)
    run = store.begin(RUN)
    store.write(run, batch(1, *(computed(1, agent(f"a{n}")) for n in range(5_000))))
    store.close()
    content = bytearray(path.read_bytes())
    content[4096:] = b"\xa5" * (len(content) - 4096)
    path.write_bytes(content)
    with pytest.raises(LedgerError, match="is damaged"):
        SqliteStore(path).rows("SELECT COUNT(*) FROM postings")


UNPRIVILEGED = """
import os
from stepwell.ledger.stores.open import open_store
if os.geteuid() == 0:
    os.setgid(65534), os.setuid(65534)
for name, create in ("new.db", True), ("ledger.db", True), ("ledger.db", False):
    try:
        open_store(name, create=create)
    except Exception as error:
        print(type(error).__name__, error)
"""


def test_a_directory_that_is_not_writable_is_one_sentence() -> None:
    """In a child, because root has to become somebody else first; not below pytest's own private place."""
    with tempfile.TemporaryDirectory(prefix="stepwell-books-") as made:
        place = Path(made)
        SqliteStore(place / "ledger.db").close()
        (place / "ledger.db").chmod(0o644)
        place.chmod(0o555)
        words = [sys.executable, "-c", UNPRIVILEGED]
        done = subprocess.run(
            words, cwd=place, env=_with_source(), capture_output=True, text=True, check=False
        )
        place.chmod(0o755)
    if done.returncode != 0:
        pytest.skip(f"another user cannot run this Python: {done.stderr[-200:]}")
    beside = "SQLite keeps two small files beside it, even for readers, and its directory is not writable"
    assert done.stdout.splitlines() == [
        "LedgerError the ledger new.db cannot be made: Permission denied",
        *[f"LedgerError the ledger ledger.db cannot be used there: {beside}"] * 2,
    ]


def _with_source() -> dict[str, str]:
    return os.environ | {"PYTHONPATH": str(Path(schema.__file__).parents[2])}


def test_a_file_of_a_newer_version_is_left_alone(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    SqliteStore(path).close()
    with sqlite3.connect(path) as connection:
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
    connection.close()
    for create in (True, False):
        with pytest.raises(LedgerError, match=f"version {VERSION + 1}.*use a newer Stepwell"):
            open_store(path, create=create)


def test_who_only_reads_makes_and_changes_nothing(tmp_path: Path) -> None:
    path = tmp_path / "ledger.db"
    writer = SqliteStore(path)
    run = writer.begin(RUN)
    reader = open_store(path, create=False)
    writer.write(run, batch(1, computed(5)))
    assert balances(reader)[agent(), Resource.COMPUTE] == 5
    writer.close()
    assert balances(reader)[agent(), Resource.COMPUTE] == 5
    reader.close()


def test_a_writer_waits_for_another_one(tmp_path: Path) -> None:
    first, second = SqliteStore(tmp_path / "ledger.db"), SqliteStore(tmp_path / "ledger.db")
    runs = first.begin(RUN), second.begin(replace(RUN, node="node-b"))

    def write(store: Store, run: int) -> None:
        for number in range(1, 101):
            store.write(run, batch(number, computed(1)))

    threads = [threading.Thread(target=write, args=pair) for pair in zip((first, second), runs, strict=True)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert balances(first)[agent(), Resource.COMPUTE] == 200
    first.close()
    second.close()


# --- PostgreSQL's own -----------------------------------------------------------------------------


def test_a_lost_server_is_an_error_and_the_next_write_connects_again(
    postgres_server: Server, postgres_url: str
) -> None:
    store = open_store(postgres_url)
    run = store.begin(RUN)
    store.write(run, batch(1, computed(1)))
    assert count_of(store, "postings") == 1
    # The fixture's database does not wait for its disk; the ledger's commits do all the same.
    postgres_server.stop(at_once=True)
    for _ in range(2):
        with pytest.raises(LedgerError, match="does not answer"):
            store.write(run, batch(2, computed(2)))
        with pytest.raises(LedgerError, match="does not answer"):
            count_of(store, "postings")
    postgres_server.start()
    store.write(run, batch(2, computed(2)))
    assert balances(store)[agent(), Resource.COMPUTE] == 3
    # The name was taken again with the new connection.
    other = open_store(postgres_url)
    with pytest.raises(LedgerError, match="in use by another server"):
        other.claim("node-a")
    other.close()
    store.close()


def test_a_password_is_in_no_sentence() -> None:
    pytest.importorskip("psycopg", reason="the extra 'postgres' is not installed")
    with pytest.raises(LedgerError) as raised:
        open_store("postgresql://me:secret@127.0.0.1:1/books")
    assert "secret" not in str(raised.value)
    assert "postgresql://me@127.0.0.1:1/books does not answer" in str(raised.value)
    for url in (
        "postgresql://me:se%zzcret@127.0.0.1:1/books",
        "postgresql://127.0.0.1:1/b?password=se%zzcret",
    ):
        with pytest.raises(LedgerError) as raised:
            open_store(url)
        assert "cret" not in str(raised.value)


def test_an_empty_database_is_said(postgres_url: str) -> None:
    with pytest.raises(LedgerError, match="is empty"):
        open_store(postgres_url, create=False)
    store = open_store(postgres_url)
    assert store.rows("SELECT number FROM version") == [(VERSION,)]
    store.close()


def test_an_account_kind_is_read_back_as_itself(store: Store) -> None:
    run = store.begin(RUN)
    kinds = [Account(kind, "acme") for kind in Kind if kind is not Kind.MACHINE]
    positions = [Position(account, PerTier(1, 1, 1), 1) for account in kinds]
    store.write(run, replace(batch(1), positions=positions))
    found = [position.account for position in store.open_runs("node-a")[0].positions]
    assert sorted(found) == sorted(kinds)
