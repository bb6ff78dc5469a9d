"""The ledger in one SQLite file: the default, for one machine.

The file is in WAL mode: readers, in this process or another, never stop the writer. What ``write`` has
returned from survives the death of the process (``kill -9``) whole, because it lies with the operating
system. ``synchronous=NORMAL`` does not wait for the disk at every batch: a power cut or a crash of the
operating system may take the last batches (always the last ones, each whole; the file stays sound).
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import sqlite3
import threading
import time
from collections import deque
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import quote

from stepwell.basics.private import private_file, private_parent
from stepwell.ledger.base import LedgerError, LedgerFull, LedgerRefused, NoLedger
from stepwell.ledger.stores import schema
from stepwell.ledger.stores.node_lock import LockHeld, NodeLock
from stepwell.ledger.stores.sqlite_files import LedgerFiles
from stepwell.ledger.stores.sqlstore import INSERT_POSTING, Cursor, SqlStore

BUSY_S = 5.0
"""How long to wait for another process that writes to the same file."""
WAL_LIMIT_BYTES = 64 << 20
"""What is left of the write-ahead log after it has grown under a long read."""
MOST_IDLE_READERS = 8

_FULL = {
    sqlite3.SQLITE_FULL: "there is no room left",
    sqlite3.SQLITE_READONLY: "it is read-only",
    sqlite3.SQLITE_IOERR: "the disk reports an error",
}
_BROKEN = {
    sqlite3.SQLITE_CORRUPT: "is damaged: restore a copy, or see what 'sqlite3 FILE .recover' saves",
    sqlite3.SQLITE_NOTADB: "is not a ledger: it is no SQLite file",
    sqlite3.SQLITE_CANTOPEN: "cannot be opened: is its directory there, and writable?",
    sqlite3.SQLITE_BUSY: f"is busy: another process has been writing to it for more than {BUSY_S:.0f} s",
    sqlite3.SQLITE_LOCKED: "is locked by another connection",
    sqlite3.SQLITE_PERM: "may not be opened",
    sqlite3.SQLITE_AUTH: "may not be opened",
}
_NO_PROOF = {sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED, sqlite3.SQLITE_CANTOPEN, sqlite3.SQLITE_NOMEM}
"""Errors that say nothing about what lies in the files."""
_LATEST = ("runs", "postings", "usage", "budgets")
_REFUSED = {sqlite3.SQLITE_CONSTRAINT, sqlite3.SQLITE_MISMATCH, sqlite3.SQLITE_TOOBIG}


class SqliteStore(SqlStore):
    """See ``base.Store``. Several processes may have the same file open; writers take turns.

    ``create``: make the file when it is missing (its directory too); without it a missing file is a
    ``LedgerError``, and nothing is written before the first ``begin``, ``write`` or ``set_budget``.
    """

    def __init__(self, path: Path | str, *, create: bool = True) -> None:
        self.path = Path(path)
        super().__init__(f"the ledger {self.path}")
        self._connection: sqlite3.Connection | None = None
        self._readers: deque[sqlite3.Connection] = deque()
        self._locks: dict[str, NodeLock] = {}
        self._closed = threading.Event()
        self._files: LedgerFiles | None = None
        """As the last transaction left them: others of their names are another ledger's."""
        self._damage: str | None = None
        """What was found wrong with them."""
        self._require_file(create)
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

    # --- opening ------------------------------------------------------------------------------

    def _require_file(self, create: bool) -> None:
        if self.path.is_dir():
            raise LedgerError(f"{self.where} is a directory: name a file, such as {self.path}/ledger.db")
        if not create and not self.path.is_file():
            raise NoLedger(f"there is no ledger at {self.path}")
        if not create or self.path.exists():
            return
        try:
            private_parent(self.path)
            # Customers' names and bills: for this user alone. SQLite gives its other files the same mode.
            private_file(self.path).close()
        except OSError as error:
            raise LedgerError(f"{self.where} cannot be made: {error.strerror}") from error

    def _writer(self) -> sqlite3.Connection:
        """The one connection that writes, opened on first use."""
        if self._closed.is_set():
            raise LedgerError(f"{self.where} is closed")
        if self._connection is None:
            self._connection = self._connect("rw")
            try:
                self._prepare(self._connection)
                self._files = self._files or LedgerFiles.of(self.path)
            except BaseException:
                self._connection.close()
                self._connection = None
                raise
        return self._connection

    def _connect(self, mode: str) -> sqlite3.Connection:
        return sqlite3.connect(
            f"file:{quote(str(self.path.absolute()))}?mode={mode}",
            uri=True,
            timeout=BUSY_S,
            isolation_level=None,
            check_same_thread=False,
        )

    def _prepare(self, connection: sqlite3.Connection) -> None:
        # Look before touching: another program's database keeps its journal mode.
        self._version(connection)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = NORMAL")
        connection.execute(f"PRAGMA journal_size_limit = {WAL_LIMIT_BYTES}")
        # REPLACE removes rows without asking the triggers unless this is on.
        connection.execute("PRAGMA recursive_triggers = ON")
        found = self._version(connection)
        if found == schema.VERSION:
            return
        connection.execute("BEGIN IMMEDIATE")
        try:
            for statement in schema.statements(schema.SQLITE, self._version(connection), self.where):
                connection.execute(statement)
            connection.execute(f"PRAGMA application_id = {schema.APPLICATION_ID}")
            connection.execute(f"PRAGMA user_version = {schema.VERSION}")
            connection.execute("COMMIT")
            # Whatever becomes of the log: what is in the file is a ledger.
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")
        except BaseException:
            _roll_back(connection)
            raise

    def _version(self, connection: sqlite3.Connection) -> int:
        """Which version of the tables is there; 0: an empty file."""
        (application,) = connection.execute("PRAGMA application_id").fetchone()
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        (tables,) = connection.execute("SELECT COUNT(*) FROM sqlite_master").fetchone()
        if (application, version, tables) == (0, 0, 0):
            return 0
        if application != schema.APPLICATION_ID:
            raise LedgerError(f"{self.where} is not a ledger: another program's tables lie in it")
        if version > schema.VERSION:
            schema.statements(schema.SQLITE, version, self.where)
        return int(version)

    def _require_known(self) -> None:
        with self._reader() as connection:
            schema.require_current(self._version(connection), self.where)

    # --- writing ------------------------------------------------------------------------------

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[Cursor]:
        with self._write_lock, self._clear_errors():
            connection = self._writer()
            self._require_whole(connection)
            # IMMEDIATE: waits for another writer here, where waiting is possible, and not half way.
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection.cursor()
                connection.execute("COMMIT")
            except BaseException:
                self._forget_accounts()
                _roll_back(connection)
                raise
            self._files = LedgerFiles.of(self.path)
            self._bound_accounts()

    def _add_postings(self, cursor: Cursor, rows: list[tuple[Any, ...]]) -> None:
        cursor.executemany(INSERT_POSTING, rows)

    def _lock_name(self, cursor: Cursor, digest: str) -> int:
        """There is one writer at a time. All are on one machine, whose clock since its start is never set."""
        return time.monotonic_ns() // 1000

    def lost(self) -> str | None:
        """A deleted file can be written on for ever, and what is written is never read."""
        what = self._damage
        if what is None and self._files is not None:
            what = LedgerFiles.of(self.path).missing(self._files)
        return (
            None
            if what is None
            else f"{self.where} {what} while it was in use: put it back, or restart the server"
        )

    def _require_whole(self, connection: sqlite3.Connection) -> None:
        """Raises ``LedgerError`` where what is written now would never be found."""
        now, before = LedgerFiles.of(self.path), self._files
        if before is not None and self._damage is None:
            if now.missing(before) is not None and now.database == before.database:
                self._save_the_log(connection)
            elif now.touched(before) and (found := self._unreadable()) is not None:
                self._damage = f"was cut or written over ({found})"
        if (sentence := self.lost()) is not None:
            raise LedgerError(sentence)

    def _save_the_log(self, connection: sqlite3.Connection) -> None:
        """The log has no name any more, and goes with this process: into the file with it."""
        with contextlib.suppress(sqlite3.Error):
            connection.execute("PRAGMA wal_checkpoint(FULL)")

    def _unreadable(self) -> str | None:
        """Why a program that opens the files now cannot read the last entries; None: it can. The connections
        that are open cannot say: they remember pages."""
        try:
            with contextlib.closing(self._connect("ro")) as connection:
                self._version(connection)
                for table in _LATEST:
                    column = "id" if table in ("runs", "budgets") else "run"
                    connection.execute(f"SELECT * FROM {table} ORDER BY {column} DESC LIMIT 100").fetchall()
        except (sqlite3.Error, LedgerError) as error:
            code = getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF
            return None if code in _NO_PROOF else str(error)
        return None

    # --- reading ------------------------------------------------------------------------------

    def rows(self, sql: str, parameters: Sequence[Any] = ()) -> list[tuple[Any, ...]]:
        with self._clear_errors(), self._reader() as connection:
            return connection.execute(sql, parameters).fetchall()

    @contextlib.contextmanager
    def _reader(self) -> Iterator[sqlite3.Connection]:
        """A connection that cannot write, lent to one thread at a time."""
        if self._in_snapshot is not None:
            yield self._in_snapshot
            return
        if self._closed.is_set():
            raise LedgerError(f"{self.where} is closed")
        try:
            connection = self._readers.pop()
        except IndexError:
            connection = self._connect("ro")
        try:
            yield connection
        except BaseException:
            connection.close()
            raise
        if self._closed.is_set() or len(self._readers) >= MOST_IDLE_READERS:
            connection.close()
        else:
            self._readers.append(connection)

    @contextlib.contextmanager
    def _freeze(self) -> Iterator[sqlite3.Connection]:
        with self._clear_errors(), self._reader() as connection:
            connection.execute("BEGIN")
            # The state is that of the first statement.
            connection.execute("SELECT COUNT(*) FROM runs").fetchone()
            try:
                yield connection
            finally:
                with contextlib.suppress(sqlite3.Error):
                    connection.execute("ROLLBACK")

    # --- one server of a name -----------------------------------------------------------------

    def claim(self, node: str) -> None:
        """A file beside the database that is locked, see ``node_lock``."""
        with self._write_lock:
            if node not in self._locks:
                self._locks[node] = self._take_lock(node)

    def _take_lock(self, node: str) -> NodeLock:
        path = self.lock_path(node)
        try:
            return NodeLock.take(path)
        except LockHeld as error:
            raise LedgerError(
                f"{self.where} is in use by another server of the name {node!r} (process {error.holder}): "
                "stop it, or give this one another name"
            ) from error
        except OSError as error:
            raise LedgerError(f"the lock {path} cannot be made: {error.strerror}") from error

    def lock_path(self, node: str) -> Path:
        """Readable, and different for every name however it is written."""
        digest = hashlib.sha256(node.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        readable = re.sub(r"[^A-Za-z0-9_-]+", "-", node)[:40]
        return self.path.with_name(f"{self.path.name}.{readable}-{digest}.lock")

    # --- closing and errors -------------------------------------------------------------------

    def close(self) -> None:
        self._closed.set()
        with self._write_lock:
            with contextlib.suppress(IndexError):
                while True:
                    self._readers.pop().close()
            if self._connection is not None:
                self._connection.close()
                self._connection = None
            while self._locks:
                self._locks.popitem()[1].release()

    @contextlib.contextmanager
    def _clear_errors(self) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OverflowError) as error:
            raise self._explained(error) from error

    def _explained(self, error: Exception) -> LedgerError:
        code = getattr(error, "sqlite_errorcode", 0)
        if code == sqlite3.SQLITE_READONLY_DIRECTORY:
            return LedgerError(
                f"{self.where} cannot be used there: SQLite keeps two small files beside it, even for "
                "readers, and its directory is not writable"
            )
        code &= 0xFF  # the rest of it says where in SQLite
        if code in _FULL:
            return LedgerFull(f"{self.where} cannot be written: {_FULL[code]} ({error})")
        if code in _BROKEN:
            return LedgerError(f"{self.where} {_BROKEN[code]}")
        if code in _REFUSED or isinstance(error, OverflowError):
            return LedgerRefused(f"{self.where} refuses an entry: {error}")
        return LedgerError(f"{self.where}: {error}")


def _roll_back(connection: sqlite3.Connection) -> None:
    """SQLite has rolled back by itself after some errors."""
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")
