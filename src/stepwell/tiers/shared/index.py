"""The index of a shared store: which records there are, whose they are, and whether there is room.

SQLite, because several processes change it and any of them may be killed at any moment: a transaction has
happened or has not. It is not synced, so a power cut may damage it; and it is not trusted, because a record
says itself what it holds. A damaged index is thrown away and made again from the records.

A record is counted from before its file exists until after its file is gone, so that the directory never
holds more than the index says.
"""

from __future__ import annotations

import re
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.policy.types import BlockId

_INDEX = re.compile(r"index-(\d{6})\.sqlite")
_SCHEMA_VERSION = 1
_WHOLE, _STUCK = 0, -1
_LEAST_CHANGES = 1_000
"""So many changes are kept for other processes to read, and more while they are fewer than the blocks: one
that is further behind reads everything again, which takes it no longer."""
_BUSY_S = 10.0
_LOG_BYTES = 512 << 10
_LOG_PAGES = 64
"""After so many the log is written over the tables, if no reader needs it."""

_SCHEMA = """
CREATE TABLE blocks (
    number INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, key BLOB NOT NULL, tenant TEXT NOT NULL,
    file_bytes INTEGER NOT NULL, used_us INTEGER NOT NULL, writer INTEGER NOT NULL, UNIQUE (model, key)
);
CREATE INDEX coldest ON blocks (writer, used_us);
CREATE INDEX coldest_of_tenant ON blocks (tenant, writer, used_us);
CREATE TABLE usage (tenant TEXT PRIMARY KEY, bytes INTEGER NOT NULL, blocks INTEGER NOT NULL);
CREATE TABLE changes (
    change INTEGER PRIMARY KEY AUTOINCREMENT, model TEXT NOT NULL, key BLOB NOT NULL, number INTEGER NOT NULL,
    file_bytes INTEGER NOT NULL
);
CREATE TRIGGER came AFTER INSERT ON blocks BEGIN
    INSERT INTO usage VALUES (new.tenant, new.file_bytes, 1)
        ON CONFLICT (tenant) DO UPDATE SET bytes = bytes + new.file_bytes, blocks = blocks + 1;
END;
CREATE TRIGGER went AFTER DELETE ON blocks BEGIN
    UPDATE usage SET bytes = bytes - old.file_bytes, blocks = blocks - 1 WHERE tenant = old.tenant;
    DELETE FROM usage WHERE tenant = old.tenant AND blocks = 0;
END;
"""


@dataclass(frozen=True, slots=True)
class Record:
    """One record of the index. ``number`` is in its file's name and is never given twice."""

    number: int
    model: str
    key: BlockId
    file_bytes: int


@dataclass(frozen=True, slots=True)
class WantedRecord:
    """A record that a process wants to write. ``used_us`` orders evictions: the smallest goes first."""

    key: BlockId
    tenant: str
    file_bytes: int
    used_us: int


@dataclass(slots=True)
class Changes:
    """What has become of a model's records since the last look; with ``everything``, all there are."""

    everything: bool = False
    present: dict[BlockId, Record] = field(default_factory=dict)
    gone: set[BlockId] = field(default_factory=set)


class SharedIndex:
    """One process's connection to the index. Calls may come from any thread; errors are ``sqlite3.Error``.

    ``writer`` names this process in what it has begun and not finished.
    """

    def __init__(self, directory: Path, writer: int) -> None:
        self._directory = directory
        self._writer = writer
        self._lock = threading.RLock()
        self._seen = -1
        self._path: Path | None = None
        self._connection: sqlite3.Connection | None = None

    # --- opening ------------------------------------------------------------------------------

    def open(self) -> bool:
        """Open the index that is there. False: there is none, or it is damaged or of another version."""
        try:
            with self._lock:
                if self._newest() is None:
                    return False
                connection = self._connect()
                version = connection.execute("PRAGMA user_version").fetchone()[0]
                whole = connection.execute("PRAGMA quick_check(1)").fetchone()[0] == "ok"
        except sqlite3.DatabaseError:
            self.close()
            return False
        return bool(whole and version == _SCHEMA_VERSION)

    def create(self) -> None:
        """A new, empty index in place of whatever is there, for one process at a time.

        It gets a name of its own: SQLite removes a log by its name when the last connection to it closes, so
        a new index of the old name could lose its log to a process that still has the old one open. Those
        see that the old file is gone, and change over.
        """
        with self._lock:
            old = self._newest()
            self.close()
            number = 1 if old is None else int(old.name[6:12]) + 1
            self._path = self._directory / f"index-{number:06d}.sqlite"
            self._connection = self._open(self._path)
            with self.transaction() as connection:
                for statement in _statements(_SCHEMA):
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {_SCHEMA_VERSION}")
            if old is not None:
                old.unlink(missing_ok=True)

    def size_bytes(self) -> int:
        """What the index's files take now."""
        return sum(_size(f"{self._path}{suffix}") for suffix in ("", "-wal", "-shm"))

    def clear_old(self) -> None:
        """Remove what earlier indexes left. Only while no other process is there."""
        for path in self._directory.glob("index-*.sqlite*"):
            if self._path is not None and not path.name.startswith(self._path.name):
                path.unlink(missing_ok=True)

    def _newest(self) -> Path | None:
        return max(
            (p for p in self._directory.glob("index-*.sqlite") if _INDEX.fullmatch(p.name)), default=None
        )

    def _connect(self) -> sqlite3.Connection:
        """The connection, made anew when another process has put another index in this one's place."""
        if self._connection is not None and self._path is not None and self._path.exists():
            return self._connection
        self.close()
        self._path = self._newest()
        if self._path is None:
            raise sqlite3.OperationalError("the index is gone")
        self._connection = self._open(self._path)
        self._seen = -1
        return self._connection

    @staticmethod
    def _open(path: Path) -> sqlite3.Connection:
        connection = sqlite3.connect(path, timeout=_BUSY_S, isolation_level=None, check_same_thread=False)
        path.chmod(0o600)
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = OFF")
        # The log takes room from records: SQLite's own 1,000 pages are all that the smallest store has.
        connection.execute(f"PRAGMA wal_autocheckpoint = {_LOG_PAGES}")
        connection.execute(f"PRAGMA journal_size_limit = {_LOG_BYTES}")
        return connection

    @contextmanager
    def transaction(self) -> Iterator[sqlite3.Connection]:
        """Everything inside happens at once, or not at all. Other processes' transactions wait."""
        with self._lock:
            connection = self._connect()
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
            except BaseException:
                connection.execute("ROLLBACK")
                raise
            connection.execute("COMMIT")

    def close(self) -> None:
        with self._lock:
            if self._connection is not None:
                self._connection.close()
            self._connection = None

    # --- what is there ------------------------------------------------------------------------

    def changes(self, model: str) -> Changes:
        """What this and other processes have published and removed since the last call."""
        with self._lock:
            connection = self._connect()
            connection.execute("BEGIN")
            try:
                first, last = connection.execute("SELECT min(change), max(change) FROM changes").fetchone()
                seen, self._seen = self._seen, last or 0
                if seen < 0 or (first or 0) > seen + 1:
                    return Changes(True, self._all_of(connection, model))
                rows = connection.execute(
                    "SELECT number, key, file_bytes FROM changes WHERE change > ? AND model = ?"
                    " ORDER BY change",
                    (seen, model),
                ).fetchall()
            finally:
                connection.execute("COMMIT")
        changes = Changes()
        for number, key, file_bytes in rows:
            if number:
                changes.present[key] = Record(number, model, key, file_bytes)
                changes.gone.discard(key)
            else:
                changes.present.pop(key, None)
                changes.gone.add(key)
        return changes

    def _all_of(self, connection: sqlite3.Connection, model: str) -> dict[BlockId, Record]:
        rows = connection.execute(
            "SELECT number, key, file_bytes FROM blocks WHERE model = ? AND writer = 0", (model,)
        )
        return {key: Record(number, model, key, file_bytes) for number, key, file_bytes in rows}

    def usage(self) -> dict[str, tuple[int, int]]:
        """Bytes and blocks of each tenant, what is being written included."""
        with self._lock:
            rows = self._connect().execute("SELECT tenant, bytes, blocks FROM usage")
            return {tenant: (bytes_, blocks) for tenant, bytes_, blocks in rows}

    def everything(self) -> list[Record]:
        """Every record of every model, also those that are being written."""
        with self._lock:
            rows = self._connect().execute("SELECT number, model, key, file_bytes FROM blocks")
            return [Record(*row) for row in rows]

    # --- inside a transaction -----------------------------------------------------------------

    @staticmethod
    def holds(connection: sqlite3.Connection, model: str, key: BlockId) -> bool:
        query = "SELECT 1 FROM blocks WHERE model = ? AND key = ?"
        return connection.execute(query, (model, key)).fetchone() is not None

    @staticmethod
    def used_bytes(connection: sqlite3.Connection, tenant: str | None = None) -> int:
        """Of one tenant, or of all."""
        query = "SELECT coalesce(sum(bytes), 0) FROM usage"
        if tenant is not None:
            return int(connection.execute(query + " WHERE tenant = ?", (tenant,)).fetchone()[0])
        return int(connection.execute(query).fetchone()[0])

    @staticmethod
    def coldest(connection: sqlite3.Connection, tenant: str | None = None) -> Record | None:
        """The whole record that was used longest ago, of one tenant or of all."""
        columns = "SELECT number, model, key, file_bytes FROM blocks"
        order = " ORDER BY used_us, number LIMIT 1"
        if tenant is None:
            row = connection.execute(columns + " WHERE writer = 0" + order).fetchone()
        else:
            row = connection.execute(
                columns + " WHERE tenant = ? AND writer = 0" + order, (tenant,)
            ).fetchone()
        return None if row is None else Record(*row)

    def begin(self, connection: sqlite3.Connection, model: str, wanted: WantedRecord) -> Record:
        """Count a record that is about to be written; it is not offered yet."""
        number = connection.execute(
            "INSERT INTO blocks (model, key, tenant, file_bytes, used_us, writer) VALUES (?, ?, ?, ?, ?, ?)",
            (model, wanted.key, wanted.tenant, wanted.file_bytes, wanted.used_us, self._writer),
        ).lastrowid
        assert number is not None
        return Record(number, model, wanted.key, wanted.file_bytes)

    @staticmethod
    def adopt(
        connection: sqlite3.Connection, record: Record, tenant: str, used_us: int, writer: int = _WHOLE
    ) -> None:
        """Count a record that was found on disk, under the number in its name."""
        connection.execute("DELETE FROM blocks WHERE model = ? AND key = ?", (record.model, record.key))
        connection.execute(
            "INSERT INTO blocks VALUES (?, ?, ?, ?, ?, ?, ?)",
            (record.number, record.model, record.key, tenant, record.file_bytes, used_us, writer),
        )

    @staticmethod
    def publish(connection: sqlite3.Connection, record: Record) -> bool:
        """Offer it to all processes. False: the index has been made anew meanwhile and does not know it."""
        done = connection.execute("UPDATE blocks SET writer = 0 WHERE number = ?", (record.number,)).rowcount
        if done:
            _tell(connection, record, record.number)
        return done == 1

    @staticmethod
    def remove(connection: sqlite3.Connection, record: Record) -> None:
        """Its file is gone."""
        if connection.execute("DELETE FROM blocks WHERE number = ?", (record.number,)).rowcount:
            _tell(connection, record, 0)

    @staticmethod
    def set_aside(connection: sqlite3.Connection, record: Record) -> None:
        """Its file cannot be removed: it stays counted and is not offered."""
        connection.execute("UPDATE blocks SET writer = ? WHERE number = ?", (_STUCK, record.number))
        _tell(connection, record, 0)

    @staticmethod
    def touch(connection: sqlite3.Connection, model: str, used: Iterable[tuple[BlockId, int]]) -> None:
        connection.executemany(
            "UPDATE blocks SET used_us = max(used_us, ?) WHERE model = ? AND key = ?",
            [(used_us, model, key) for key, used_us in used],
        )

    @staticmethod
    def begun_by(connection: sqlite3.Connection, writer: int) -> Sequence[Record]:
        """What a process has begun to write and not finished."""
        rows = connection.execute(
            "SELECT number, model, key, file_bytes FROM blocks WHERE writer = ?", (writer,)
        )
        return [Record(*row) for row in rows.fetchall()]

    @staticmethod
    def begun(connection: sqlite3.Connection) -> set[int]:
        """The processes that are writing something, dead ones among them."""
        return {row[0] for row in connection.execute("SELECT DISTINCT writer FROM blocks WHERE writer > 0")}


def _size(path: str) -> int:
    try:
        return Path(path).stat().st_size
    except FileNotFoundError:
        return 0


def _tell(connection: sqlite3.Connection, record: Record, number: int) -> None:
    change = connection.execute(
        "INSERT INTO changes (model, key, number, file_bytes) VALUES (?, ?, ?, ?)",
        (record.model, record.key, number, record.file_bytes),
    ).lastrowid
    assert change is not None
    if change % 256 == 0:
        blocks = connection.execute("SELECT coalesce(sum(blocks), 0) FROM usage").fetchone()[0]
        kept = max(_LEAST_CHANGES, int(blocks))
        connection.execute("DELETE FROM changes WHERE change <= ?", (change - kept,))


def _statements(script: str) -> Iterator[str]:
    """One by one: ``executescript`` would commit the transaction around it."""
    statement = ""
    for line in script.splitlines(keepends=True):
        statement += line
        if sqlite3.complete_statement(statement):
            yield statement
            statement = ""
