"""What both stores do in the same SQL: enter runs, batches and budgets, and give accounts their numbers.

A subclass brings transactions, its own way to insert many rows, reading, and the lock that keeps two servers
of one name apart.
"""

from __future__ import annotations

import hashlib
import json
import threading
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from operator import itemgetter
from typing import Any, Protocol

from stepwell.basics.per_tier import PerTier
from stepwell.ledger.base import LedgerRefused, OpenRun, PostingBatch, Run, RunId
from stepwell.ledger.budgets.lease_rows import END_OF_NODE, ChargedUnder, lease_in
from stepwell.ledger.leases import Lease, LeaseNeed
from stepwell.ledger.stores.schema import ACCOUNT_FIELDS, USAGE_COUNTS
from stepwell.ledger.types import MAX_AMOUNT, Account, Budget, Kind, Position, Posting, Scope, Usage

MOST_ACCOUNTS_IN_MEMORY = 500_000
MOST_NAMES_ADDED_UP = 10_000
MOST_AMOUNT = MAX_AMOUNT << 16
"""A terabyte for three days in one posting: beyond that it is a mistake, not to be split into millions."""

POSTING_COLUMNS = ("run", "batch", "n", "at_us", "debit", "credit", "resource", "amount", "cause", "request")
USAGE_COLUMNS = (
    *("run", "batch", "n", "at_us", "request", "account", "model", "reason"),
    *USAGE_COUNTS,
    "cause",
)
BUDGET_COLUMNS = ("at_us", "scope", "tenant", "name", "soft_microusd", "hard_microusd", "actor")
POSITION_COLUMNS = ("run", "account", "device_bytes", "host_bytes", "disk_bytes", "as_of_us")
RUN_COLUMNS = ("node", "started_at_us", "last_at_us", "model", "config", "cost_book", "price_book")


def insert_sql(table: str, columns: Sequence[str]) -> str:
    return f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({', '.join('?' for _ in columns)})"


INSERT_POSTING = insert_sql("postings", POSTING_COLUMNS)
INSERT_USAGE = insert_sql("usage", USAGE_COLUMNS)
INSERT_BUDGET = insert_sql("budgets", BUDGET_COLUMNS)
INSERT_RUN = insert_sql("runs", RUN_COLUMNS) + " RETURNING id"
INSERT_ACCOUNT = insert_sql("accounts", (*ACCOUNT_FIELDS, "digest")) + " ON CONFLICT (digest) DO NOTHING"
UPSERT_POSITION = insert_sql("positions", POSITION_COLUMNS) + (
    " ON CONFLICT (run, account) DO UPDATE SET device_bytes = excluded.device_bytes, "
    "host_bytes = excluded.host_bytes, disk_bytes = excluded.disk_bytes, as_of_us = excluded.as_of_us"
)
DROP_POSITION = "DELETE FROM positions WHERE run = ? AND account = ?"
ADVANCE_RUN = (
    "UPDATE runs SET last_batch = ?, last_at_us = ?, last_now_us = ?, totals = ? "
    "WHERE id = ? AND last_batch < ? AND ended_at_us IS NULL"
)

_OPEN_HOLDS = " UNION ALL ".join(
    f"SELECT h.{side} AS account, h.request AS request, {sign}(h.amount >> 32) AS high, "
    f"{sign}(h.amount & 4294967295) AS low FROM postings h JOIN accounts a ON a.id = h.{side} "
    f"WHERE h.run = ? AND h.batch >= ? AND h.batch <= ? AND h.resource = 'microusd' AND a.kind = 'held'"
    for side, sign in (("credit", ""), ("debit", "-"))
)
_WHOSE = "CASE WHEN p.request = 0 THEN 0 WHEN o.request IS NULL THEN -1 ELSE p.request END"
_DAILY_KEY = f"p.run, p.at_us - p.at_us % 86400000000, p.debit, p.credit, p.resource, p.cause, {_WHOSE}"
ADD_UP = (
    "INSERT INTO daily (batch, run, at_us, debit, credit, resource, cause, request, high, low) "
    f"SELECT MAX(p.batch), {_DAILY_KEY}, SUM(p.amount >> 32), SUM(p.amount & 4294967295) FROM postings p "
    f"LEFT JOIN (SELECT t.request FROM ({_OPEN_HOLDS}) t GROUP BY t.request "
    "HAVING SUM(t.high) * 4294967296 + SUM(t.low) <> 0) o ON o.request = p.request "
    f"WHERE p.run = ? AND p.batch >= ? AND p.batch <= ? GROUP BY {_DAILY_KEY}"
)
"""Parameters: three times run, first and last batch. A request that holds money at the
end of the part, or held some at its beginning, keeps its number: what it holds is looked for by request."""


class Cursor(Protocol):
    """As much of a database cursor as the common SQL needs; placeholders are ``?``."""

    def execute(self, sql: str, parameters: Sequence[Any] = ()) -> Any: ...

    def executemany(self, sql: str, rows: Iterable[Sequence[Any]]) -> Any: ...

    def fetchall(self) -> list[Any]: ...

    @property
    def rowcount(self) -> int: ...


class SqlStore(ABC):
    """See ``base.Store``. One lock guards the writing connection."""

    def __init__(self, where: str) -> None:
        self.where = where
        """The file or address, without any password: for sentences."""
        self._write_lock = threading.RLock()
        self._ids: dict[Account, int] = {}
        self._charged: OrderedDict[tuple[Scope, str, str], ChargedUnder] = OrderedDict()
        """Of names under which leases were asked for, the latest last."""
        self._frozen = threading.local()
        """``reader``: this thread's connection while it is in a snapshot."""

    @abstractmethod
    def _transaction(self) -> AbstractContextManager[Cursor]:
        """Everything that is executed within happens as a whole or not at all. Takes ``_write_lock``."""

    @abstractmethod
    def _add_postings(self, cursor: Cursor, rows: list[tuple[Any, ...]]) -> None:
        """Insert rows of POSTING_COLUMNS."""

    @abstractmethod
    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]: ...

    @abstractmethod
    def _lock_name(self, cursor: Cursor, digest: str) -> int:
        """Keep others from the leases of a name until the transaction ends. The store's clock then, in
        microseconds; of what it begins at nothing is known."""

    @abstractmethod
    def _freeze(self) -> AbstractContextManager[Any]:
        """A reading connection that keeps to one state of the books."""

    @contextmanager
    def snapshot(self) -> Iterator[None]:
        if self._in_snapshot is not None:
            yield
            return
        with self._freeze() as reader:
            self._frozen.reader = reader
            try:
                yield
            finally:
                self._frozen.reader = None

    @property
    def _in_snapshot(self) -> Any:
        return getattr(self._frozen, "reader", None)

    @abstractmethod
    def claim(self, node: str) -> None: ...

    def begin(self, run: Run) -> RunId:
        self.claim(run.node)
        started = run.started_at_us
        values = (started, started, plain(run.model), run.config, run.cost_book, run.price_book)
        with self._transaction() as cursor:
            cursor.execute(INSERT_RUN, (plain(run.node), *values))
            return int(cursor.fetchall()[0][0])

    def write(self, run: RunId, batch: PostingBatch) -> None:
        with self._transaction() as cursor:
            if self._advance(cursor, run, batch):
                self._add(cursor, run, batch)

    def _advance(self, cursor: Cursor, run: RunId, batch: PostingBatch) -> bool:
        """Note that the run has come so far; False when this batch is in the books already."""
        totals = json.dumps(dict(batch.totals), sort_keys=True)
        values = (batch.number, batch.at_us, batch.now_us, totals, run, batch.number)
        cursor.execute(ADVANCE_RUN, values)
        if cursor.rowcount == 1:
            return True
        cursor.execute("SELECT last_batch, ended_at_us FROM runs WHERE id = ?", (run,))
        found = cursor.fetchall()
        if not found:
            raise LedgerRefused(f"{self.where} knows no run {run}")
        last_batch, ended_at_us = found[0]
        if last_batch < batch.number and ended_at_us is not None:
            raise LedgerRefused(f"{self.where}: run {run} has closed its books; nothing more can be entered")
        return False

    def _add(self, cursor: Cursor, run: RunId, batch: PostingBatch) -> None:
        try:
            rows = posting_rows(run, batch, self._ids)
        except KeyError:
            self._enter_accounts(cursor, (account for p in batch.postings for account in (p.debit, p.credit)))
            rows = posting_rows(run, batch, self._ids)
        if rows:
            self._add_postings(cursor, rows)
        if batch.usage:
            self._enter_accounts(cursor, (usage.account for usage in batch.usage))
            cursor.executemany(INSERT_USAGE, usage_rows(run, batch, self._ids))
        if batch.positions:
            self._add_positions(cursor, run, batch.positions)

    def _add_positions(self, cursor: Cursor, run: RunId, positions: Sequence[Position]) -> None:
        """An account that holds nothing any more needs no note."""
        latest = {position.account: position for position in positions}
        self._enter_accounts(cursor, latest)
        held, gone = [], []
        for account, position in latest.items():
            if any(position.held_bytes):
                held.append((run, self._ids[account], *position.held_bytes, position.as_of_us))
            else:
                gone.append((run, self._ids[account]))
        if held:
            cursor.executemany(UPSERT_POSITION, held)
        if gone:
            cursor.executemany(DROP_POSITION, gone)

    def _enter_accounts(self, cursor: Cursor, accounts: Iterable[Account]) -> None:
        """Give numbers to those that have none in memory. Sorted, so that two writers meet in one order."""
        missing = sorted(set(accounts) - self._ids.keys())
        if not missing:
            return
        digests = {account_digest(account): account for account in missing}
        fields = [(*map(plain, account), digest) for digest, account in digests.items()]
        cursor.executemany(INSERT_ACCOUNT, fields)
        for some in _in_parts(list(digests), 500):
            marks = ", ".join("?" for _ in some)
            cursor.execute(f"SELECT digest, id FROM accounts WHERE digest IN ({marks})", some)
            self._ids.update((digests[digest], number) for digest, number in cursor.fetchall())

    def _forget_accounts(self) -> None:
        """After a rollback: numbers that were given in it belong to no account. Asking again is cheap."""
        self._ids.clear()

    def _bound_accounts(self) -> None:
        if len(self._ids) > MOST_ACCOUNTS_IN_MEMORY:
            self._ids.clear()

    def end(self, run: RunId, at_us: int) -> None:
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE runs SET ended_at_us = CASE WHEN last_at_us > ? THEN last_at_us ELSE ? END "
                "WHERE id = ? AND ended_at_us IS NULL",
                (at_us, at_us, run),
            )
            cursor.execute("DELETE FROM positions WHERE run = ?", (run,))

    def compact(self, run: RunId, first: int, last: int) -> int:
        """Add up the postings of batches ``first`` to ``last`` into daily balances, as a whole or not at all.
        Returns how many postings there were; 0 when the run's balances do not end before ``first``: another
        process was here."""
        part = (run, first, last)
        with self._transaction() as cursor:
            cursor.execute(
                "UPDATE runs SET compacted_batch = ? "
                "WHERE id = ? AND compacted_batch = ? AND last_batch >= ?",
                (last, run, first - 1, last),
            )
            if cursor.rowcount != 1:
                return 0
            cursor.execute(ADD_UP, (*part, *part, *part))
            cursor.execute("DELETE FROM postings WHERE run = ? AND batch >= ? AND batch <= ?", part)
            return cursor.rowcount

    def open_runs(self, node: str) -> list[OpenRun]:
        found = self.rows(
            "SELECT id, last_batch, last_at_us, last_now_us, totals FROM runs "
            "WHERE node = ? AND ended_at_us IS NULL ORDER BY id",
            (plain(node),),
        )
        return [
            OpenRun(run, node, last_batch, at_us, now_us, json.loads(totals), self._positions(run))
            for run, last_batch, at_us, now_us, totals in found
        ]

    def _positions(self, run: RunId) -> list[Position]:
        columns = ", ".join(f"a.{name}" for name in ACCOUNT_FIELDS)
        found = self.rows(
            f"SELECT {columns}, p.device_bytes, p.host_bytes, p.disk_bytes, p.as_of_us "
            "FROM positions p JOIN accounts a ON a.id = p.account WHERE p.run = ? ORDER BY a.id",
            (run,),
        )
        return [Position(account_of(row), PerTier(*row[-4:-1]), row[-1]) for row in found]

    def lost(self) -> str | None:
        """See ``Store``. A server that answers has its books."""
        return None

    def set_budget(self, budget: Budget) -> None:
        names = (budget.scope.value, plain(budget.tenant), plain(budget.name))
        bounds = (budget.soft_microusd, budget.hard_microusd)
        with self._transaction() as cursor:
            cursor.execute(INSERT_BUDGET, (budget.at_us, *names, *bounds, plain(budget.actor)))

    def lease(self, name: tuple[Scope, str, str], node: str, need: LeaseNeed) -> Lease:
        full, node = (name[0], plain(name[1]), plain(name[2])), plain(node)
        digest = hashlib.sha256(json.dumps(full).encode("ascii")).hexdigest()
        charged = self._charged_under(full)
        with self._transaction() as cursor:
            return lease_in(cursor, charged, node, need, self._lock_name(cursor, digest))

    def _charged_under(self, name: tuple[Scope, str, str]) -> ChargedUnder:
        with self._write_lock:
            charged = self._charged.pop(name, None)
        if charged is None:
            charged = ChargedUnder(name)
            with self.snapshot():
                charged.begin(self.rows)
        with self._write_lock:
            charged = self._charged[name] = self._charged.get(name, charged)
            while len(self._charged) > MOST_NAMES_ADDED_UP:
                self._charged.popitem(last=False)
        return charged

    def end_leases(self, node: str) -> None:
        with self._transaction() as cursor:
            cursor.execute(END_OF_NODE, (plain(node),))


def account_of(row: Sequence[Any]) -> Account:
    """The account in the first columns of a row, in the order of ACCOUNT_FIELDS."""
    return Account(Kind(row[0]), *row[1 : len(ACCOUNT_FIELDS)])


def account_digest(account: Account) -> str:
    """Names an account in few characters: a database's index need not hold names of any length."""
    text = json.dumps(account)
    return hashlib.sha256(text.encode("ascii")).hexdigest()[:40]


def plain(text: str) -> str:
    """Text that both databases take: without NUL and without halves of surrogate pairs."""
    return str(text).replace("\0", "\N{REPLACEMENT CHARACTER}").encode("utf-8", "replace").decode("utf-8")


def posting_rows(run: RunId, batch: PostingBatch, ids: Mapping[Account, int]) -> list[tuple[Any, ...]]:
    """Rows of POSTING_COLUMNS. ``KeyError``: an account has no number yet.

    The one loop that every posting goes through: ``_value_`` because the property costs as much again.
    """
    number, at_us = batch.number, batch.at_us
    postings: Iterable[Posting] = batch.postings
    if batch.postings and max(map(itemgetter(3), batch.postings)) > MAX_AMOUNT:
        postings = _split(batch.postings)
    return [
        (run, number, n, at_us, ids[debit], ids[credit], resource._value_, amount, cause._value_, request)
        for n, (debit, credit, resource, amount, cause, request) in enumerate(postings)
    ]


def _split(postings: Iterable[Posting]) -> Iterator[Posting]:
    for posting in postings:
        left = posting.amount
        if left > MOST_AMOUNT:
            raise LedgerRefused(f"an amount that no machine comes to is refused: {posting}")
        while left > MAX_AMOUNT:
            yield posting._replace(amount=MAX_AMOUNT)
            left -= MAX_AMOUNT
        yield posting._replace(amount=left)


def usage_rows(run: RunId, batch: PostingBatch, ids: Mapping[Account, int]) -> list[tuple[Any, ...]]:
    """Rows of USAGE_COLUMNS."""
    return [
        (
            run,
            batch.number,
            n,
            usage.at_us,
            usage.request,
            ids[usage.account],
            *_texts(usage),
            *_counts(usage),
        )
        for n, usage in enumerate(batch.usage)
    ]


def _texts(usage: Usage) -> tuple[str, str]:
    return plain(usage.model), plain(usage.reason)


def _counts(usage: Usage) -> tuple[int | str, ...]:
    return (*(getattr(usage, name) for name in USAGE_COUNTS), usage.cause.value)


def _in_parts(values: list[str], size: int) -> Iterator[list[str]]:
    return (values[start : start + size] for start in range(0, len(values), size))
