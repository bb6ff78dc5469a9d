"""The index of the library: one SQLite file beside the contents, shared by every process that uses them.

A change is one immediate transaction, so that two processes never decide at once. ``synchronous=FULL``: an
upload that was answered is there after a power cut.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from stepwell.basics.private import private_file
from stepwell.library.errors import DamagedFile, StorageFull

BUSY_S = 10.0
SCHEMA_VERSION = 1
_FULL = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_CANTOPEN)
_SCHEMA = """
CREATE TABLE IF NOT EXISTS blobs (
    place TEXT PRIMARY KEY,
    tenant TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    UNIQUE (tenant, sha256)
) STRICT;
CREATE TABLE IF NOT EXISTS files (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    filename TEXT NOT NULL,
    kind TEXT NOT NULL,
    note TEXT NOT NULL,
    bytes INTEGER NOT NULL,
    sha256 TEXT NOT NULL,
    text_bytes INTEGER NOT NULL,
    text_sha256 TEXT NOT NULL,
    purpose TEXT NOT NULL,
    created_at INTEGER NOT NULL,
    expires_at INTEGER,
    tokens INTEGER,
    status TEXT NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS vectors (
    tenant TEXT NOT NULL,
    text_sha256 TEXT NOT NULL,
    made_by TEXT NOT NULL,
    sha256 TEXT NOT NULL,
    PRIMARY KEY (tenant, text_sha256)
) STRICT;
CREATE TABLE IF NOT EXISTS collections (
    seq INTEGER PRIMARY KEY AUTOINCREMENT,
    id TEXT NOT NULL UNIQUE,
    tenant TEXT NOT NULL,
    name TEXT NOT NULL,
    metadata TEXT NOT NULL,
    created_at INTEGER NOT NULL
) STRICT;
CREATE TABLE IF NOT EXISTS collected (
    collection TEXT NOT NULL,
    file TEXT NOT NULL,
    added_at INTEGER NOT NULL,
    attributes TEXT NOT NULL,
    batch TEXT NOT NULL,
    PRIMARY KEY (collection, file)
) STRICT;
CREATE INDEX IF NOT EXISTS collected_files ON collected (file);
CREATE INDEX IF NOT EXISTS collections_of_tenant ON collections (tenant, seq);
CREATE INDEX IF NOT EXISTS files_of_tenant ON files (tenant, seq);
CREATE INDEX IF NOT EXISTS files_of_content ON files (tenant, sha256);
CREATE INDEX IF NOT EXISTS files_of_text ON files (tenant, text_sha256);
"""


@dataclass(frozen=True, slots=True)
class FileRecord:
    """One file of one tenant. Times are Unix seconds."""

    id: str
    """``file-`` and 24 hex digits."""
    tenant: str
    filename: str
    kind: str
    note: str
    bytes: int
    sha256: str
    text_bytes: int
    """Of its text in UTF-8."""
    text_sha256: str
    purpose: str
    created_at: int
    expires_at: int | None = None
    tokens: int | None = None
    """What it takes of a context, for the model that was served when it came; None: not counted."""
    status: str = "processed"


COLUMNS = tuple(FileRecord.__slots__)


class Index:
    """Opens a connection per use: cheap beside the disk, and safe in any thread and after a fork."""

    def __init__(self, path: Path) -> None:
        self._path = path
        _make_private(path)
        with self._connected() as connection:
            connection.execute("PRAGMA journal_mode=WAL")
            (version,) = connection.execute("PRAGMA user_version").fetchone()
            if version not in (0, SCHEMA_VERSION):
                raise DamagedFile(f"{path} was made by another version of Stepwell (schema {version})")
            connection.executescript(_SCHEMA)
            connection.execute(f"PRAGMA user_version={SCHEMA_VERSION}")

    @contextmanager
    def read(self) -> Iterator[sqlite3.Connection]:
        """One consistent picture."""
        with self._connected() as connection:
            connection.execute("BEGIN")
            yield connection
            connection.execute("COMMIT")

    @contextmanager
    def change(self) -> Iterator[sqlite3.Connection]:
        """All of it or nothing; no other process changes anything meanwhile."""
        with self._connected() as connection:
            connection.execute("BEGIN IMMEDIATE")
            try:
                yield connection
                connection.execute("COMMIT")
            except BaseException:
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
                raise

    @contextmanager
    def _connected(self) -> Iterator[sqlite3.Connection]:
        """Raises ``StorageFull`` or ``DamagedFile`` for what SQLite reports."""
        try:
            connection = sqlite3.connect(self._path, timeout=BUSY_S, isolation_level=None)
            try:
                connection.execute("PRAGMA synchronous=FULL")
                yield connection
            finally:
                connection.close()
        except sqlite3.Error as error:
            code = (getattr(error, "sqlite_errorcode", 0) or 0) & 0xFF
            if code in _FULL or code == sqlite3.SQLITE_BUSY:
                raise StorageFull(f"the index of the library cannot be used now: {error}") from error
            raise DamagedFile(f"the index of the library {self._path.name} is damaged: {error}") from error


def _make_private(path: Path) -> None:
    """SQLite gives the files beside it the same mode."""
    try:
        private_file(path).close()
    except OSError as error:
        raise StorageFull(f"the index of the library cannot be used now: {error.strerror}") from error


def insert(connection: sqlite3.Connection, record: FileRecord) -> None:
    marks = ", ".join("?" * len(COLUMNS))
    values = [getattr(record, column) for column in COLUMNS]
    connection.execute(f"INSERT INTO files ({', '.join(COLUMNS)}) VALUES ({marks})", values)


def select(connection: sqlite3.Connection, where: str, values: tuple[object, ...]) -> list[FileRecord]:
    """``where``: what follows WHERE; never from outside."""
    rows = connection.execute(f"SELECT {', '.join(COLUMNS)} FROM files WHERE {where}", values)
    return [FileRecord(*row) for row in rows]
