"""The ledger in PostgreSQL: one set of books for a fleet. Needs the extra 'postgres'.

The tables lie in the schema ``stepwell`` of the database that the URL names. A commit waits at least for the
database's own disk, also where ``synchronous_commit`` is off for everything else in it: a database that ends
without warning while this process lives on would take postings along that are never entered again. A
connection that breaks is a ``LedgerError``; the next call connects again.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import threading
from collections import deque
from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from typing import Any
from urllib.parse import unquote, urlsplit

import psycopg
from psycopg import errors

from stepwell.ledger.base import LedgerError, LedgerFull, LedgerRefused
from stepwell.ledger.stores import schema
from stepwell.ledger.stores.sqlstore import POSTING_COLUMNS, Cursor, SqlStore

SCHEMA = "stepwell"
CONNECT_S = 5
SILENCE_MS = 15_000
CLAIM_WAIT_MS = 1_000
"""The server takes a moment to see that a holder has died."""
_WAITS = "'synchronous_commit'"
STATEMENT_MS = 60_000
"""A statement over a year of postings takes its time; nothing takes for ever."""
COMMITS_REACH_THE_DISK = f"""
SELECT set_config({_WAITS}, 'local', false) WHERE current_setting({_WAITS}) = 'off'
"""
MOST_IDLE_READERS = 8
COPY_POSTINGS = f"COPY postings ({', '.join(POSTING_COLUMNS)}) FROM STDIN"
ROW = "\t".join(["%s"] * len(POSTING_COLUMNS)) + "\n"
NUMERIC = 1700
"""PostgreSQL's number for the type of a sum."""
_MARKS = re.compile(r"""'(?:[^']|'')*'|"(?:[^"]|"")*"|--[^\n]*|\?|%""")

_FULL = (errors.DiskFull, errors.ReadOnlySqlTransaction, errors.OutOfMemory, errors.IoError)
_REFUSED = (errors.IntegrityError, errors.DataError, errors.RaiseException)


class PostgresStore(SqlStore):
    """See ``base.Store``. ``create=False``: for reading; missing tables are a ``LedgerError``."""

    def __init__(self, url: str, *, create: bool = True) -> None:
        super().__init__(f"the ledger {without_password(url)}")
        self._url = url
        self._connection: psycopg.Connection[Any] | None = None
        self._readers: deque[psycopg.Connection[Any]] = deque()
        self._nodes: set[str] = set()
        self._closed = threading.Event()
        try:
            self._open(create)
        except BaseException:
            self.close()
            raise

    def _open(self, create: bool) -> None:
        with self._clear_errors():
            if create:
                self._writer()
            else:
                self._require_known()

    # --- connections --------------------------------------------------------------------------

    def _connect(self, *, read_only: bool) -> psycopg.Connection[Any]:
        if self._closed.is_set():
            raise LedgerError(f"{self.where} is closed")
        connection = psycopg.connect(
            self._url,
            autocommit=True,
            connect_timeout=CONNECT_S,
            # A network that is cut gives no error by itself; without this a write would wait for hours.
            tcp_user_timeout=SILENCE_MS,
            application_name="stepwell ledger",
            # A reader's values are put into the text: no types to guess of bare placeholders.
            cursor_factory=psycopg.ClientCursor if read_only else psycopg.Cursor,
        )
        connection.execute(f"SET statement_timeout = {STATEMENT_MS}")
        connection.execute(f"SET search_path = {SCHEMA}")
        connection.execute(f"SET default_transaction_read_only = {'on' if read_only else 'off'}")
        if not read_only:
            connection.execute(COMMITS_REACH_THE_DISK)
        return connection

    def _writer(self) -> psycopg.Connection[Any]:
        """The one connection that writes, made anew when it was lost."""
        if self._connection is not None and not self._connection.closed:
            return self._connection
        connection = self._connect(read_only=False)
        try:
            self._prepare(connection)
            for node in self._nodes:
                self._lock_node(connection, node)
        except BaseException:
            connection.close()
            raise
        self._connection = connection
        return connection

    def _prepare(self, connection: psycopg.Connection[Any]) -> None:
        found = self._version(connection)
        if found == schema.VERSION:
            return
        with connection.transaction():
            # Two servers that start together on an empty database take turns.
            connection.execute("SELECT pg_advisory_xact_lock(%s)", (schema.APPLICATION_ID,))
            found = self._version(connection)
            if found == schema.VERSION:
                return
            if found == 0:
                connection.execute(f"CREATE SCHEMA IF NOT EXISTS {SCHEMA}")
                connection.execute("CREATE TABLE version (number BIGINT NOT NULL)")
                connection.execute("INSERT INTO version VALUES (0)")
            for statement in schema.statements(schema.POSTGRES, found, self.where):
                connection.execute(statement)
            connection.execute("UPDATE version SET number = %s", (schema.VERSION,))

    def _version(self, connection: psycopg.Connection[Any]) -> int:
        """Which version of the tables is there; 0: none."""
        (table,) = _one(connection, f"SELECT to_regclass('{SCHEMA}.version')")
        if table is None:
            return 0
        (version,) = _one(connection, f"SELECT number FROM {SCHEMA}.version")
        if version > schema.VERSION:
            schema.statements(schema.POSTGRES, version, self.where)
        return int(version)

    def _require_known(self) -> None:
        with self._reader() as connection:
            schema.require_current(self._version(connection), self.where)

    # --- writing ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Cursor]:
        with self._write_lock, self._clear_errors():
            connection = self._writer()
            try:
                with connection.transaction():
                    yield _Marked(connection.cursor())
            except BaseException:
                self._forget_accounts()
                raise
            self._bound_accounts()

    def _add_postings(self, cursor: Cursor, rows: list[tuple[Any, ...]]) -> None:
        # Numbers and the words of two enumerations: nothing in them needs escaping.
        text = "".join([ROW % row for row in rows])
        assert isinstance(cursor, _Marked)
        cursor.copy(COPY_POSTINGS, text)

    def _lock_name(self, cursor: Cursor, digest: str) -> int:
        # 63 bits: two names that share a number only take turns with each other.
        cursor.execute("SELECT pg_advisory_xact_lock(?)", (int(digest[:16], 16) >> 1,))
        cursor.execute("SELECT CAST(EXTRACT(EPOCH FROM clock_timestamp()) * 1000000 AS BIGINT)")
        return int(cursor.fetchall()[0][0])

    # --- reading ------------------------------------------------------------------------------

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._clear_errors(), self._reader() as connection:
            cursor = _Marked(connection.cursor())
            cursor.execute(sql, parameters)
            return cursor.fetchall()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[psycopg.Connection[Any]]:
        """A connection that cannot write, lent to one thread at a time."""
        if self._in_snapshot is not None:
            yield self._in_snapshot
            return
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._connect(read_only=True)
        try:
            yield connection
        except BaseException:
            # The others may have been lost with the same server.
            connection.close()
            self._drop_readers()
            raise
        if self._closed.is_set() or len(self._readers) >= MOST_IDLE_READERS:
            connection.close()
        else:
            self._readers.append(connection)

    def _drop_readers(self) -> None:
        with contextlib.suppress(IndexError):
            while True:
                self._readers.pop().close()

    @contextlib.contextmanager
    def _freeze(self) -> Iterator[psycopg.Connection[Any]]:
        with self._clear_errors(), self._reader() as connection:
            connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
            # The state is that of the first statement.
            connection.execute("SELECT COUNT(*) FROM runs").fetchone()
            try:
                yield connection
            finally:
                with contextlib.suppress(psycopg.Error):
                    connection.execute("ROLLBACK")

    # --- one server of a name -----------------------------------------------------------------

    def claim(self, node: str) -> None:
        """An advisory lock of the writing connection: the server gives it back when that ends."""
        with self._write_lock, self._clear_errors():
            if node not in self._nodes:
                self._lock_node(self._writer(), node)
                self._nodes.add(node)

    def _lock_node(self, connection: psycopg.Connection[Any], node: str) -> None:
        digest = hashlib.sha256(node.encode("utf-8", "surrogatepass")).digest()
        key = int.from_bytes(digest[:8], "big", signed=True)
        try:
            with connection.transaction():
                connection.execute(f"SET LOCAL lock_timeout = {CLAIM_WAIT_MS}")
                connection.execute("SELECT pg_advisory_lock(%s)", (key,))
        except errors.LockNotAvailable as error:
            raise LedgerError(
                f"{self.where} is in use by another server of the name {node!r}: "
                "stop it, or give this one another name"
            ) from error

    # --- closing and errors -------------------------------------------------------------------

    def close(self) -> None:
        self._closed.set()
        with self._write_lock:
            self._drop_readers()
            if self._connection is not None:
                with contextlib.suppress(psycopg.Error):
                    # Now, and not when the server sees that the connection has ended.
                    self._connection.execute("SELECT pg_advisory_unlock_all()")
                self._connection.close()
                self._connection = None

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except psycopg.Error as error:
            raise self._explained(error) from error

    def _explained(self, error: psycopg.Error) -> LedgerError:
        text = without_secrets(" ".join(str(error).split()), self._url) or type(error).__name__
        if isinstance(error, _FULL):
            return LedgerFull(f"{self.where} cannot be written: {text}")
        if isinstance(error, _REFUSED):
            return LedgerRefused(f"{self.where} refuses an entry: {text}")
        if isinstance(error, psycopg.OperationalError):
            return LedgerError(f"{self.where} does not answer: {text}")
        return LedgerError(f"{self.where}: {text}")


class _Marked:
    """A cursor whose placeholders are ``?``, as in SQLite."""

    def __init__(self, cursor: psycopg.Cursor[Any]) -> None:
        self._cursor = cursor

    def execute(self, text: str, parameters: Sequence[Any] = ()) -> None:
        self._cursor.execute(marked(text), parameters)

    def executemany(self, text: str, rows: Iterable[Sequence[Any]]) -> None:
        self._cursor.executemany(marked(text), rows)

    def copy(self, text: str, content: str) -> None:
        with self._cursor.copy(text) as copy:
            copy.write(content)

    def fetchall(self) -> list[Any]:
        """Rows with whole numbers as int: SUM of BIGINT is NUMERIC here."""
        rows: list[Any] = self._cursor.fetchall()
        description = self._cursor.description or ()
        if not any(column.type_code == NUMERIC for column in description):
            return rows
        return [tuple(map(_whole, row)) for row in rows]

    @property
    def rowcount(self) -> int:
        return self._cursor.rowcount


def marked(text: str) -> str:
    """SQL with ``?`` as psycopg wants it: ``%s``, and ``%%`` for a percent sign. Quoted text keeps its
    question marks."""

    def one(match: re.Match[str]) -> str:
        found = match[0]
        return "%s" if found == "?" else found.replace("%", "%%")

    return _MARKS.sub(one, text)


def _whole(value: Any) -> Any:
    return int(value) if isinstance(value, Decimal) and value == value.to_integral_value() else value


def without_password(url: str) -> str:
    """For sentences and logs."""
    parts = urlsplit(url)
    where = parts.netloc.rpartition("@")[2]
    user = parts.username
    return f"postgresql://{f'{user}@' if user else ''}{where}{parts.path}"


def without_secrets(text: str, url: str) -> str:
    """libpq quotes parts of a URL that it does not understand, passwords included."""
    parts = urlsplit(url)
    secrets = [parts.netloc.rpartition("@")[0].partition(":")[2]]
    secrets += [word.partition("=")[2] for word in parts.query.split("&") if word.startswith("password=")]
    for secret in secrets:
        for form in (secret, unquote(secret)):
            text = text.replace(form, "***") if form else text
    return text


def _one(connection: psycopg.Connection[Any], text: str, values: Sequence[Any] = ()) -> tuple[Any, ...]:
    row = connection.execute(text, values).fetchone()
    assert row is not None
    return tuple(row)
