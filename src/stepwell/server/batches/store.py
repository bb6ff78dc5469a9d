"""Batches, their files and their lines on disk: SQLite for what changes, plain files for what is whole.

A line's answer is written when it is there, so a server that is killed goes on with the lines that have none.
All methods may be called from any thread.
"""

from __future__ import annotations

import json
import secrets
import sqlite3
import threading
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from stepwell.errors import StepwellError
from stepwell.server.batches.lines import Line, LinePlace

ENDED = ("completed", "failed", "expired", "cancelled")
MARKS = ("in_progress", "finalizing", "completed", "failed", "expired", "cancelling", "cancelled")
WAITING, DONE, EXPIRED, CANCELLED = "waiting", "done", "expired", "cancelled"

SCHEMA = """
CREATE TABLE IF NOT EXISTS files (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, filename TEXT NOT NULL, bytes INTEGER NOT NULL,
    purpose TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER
);
CREATE TABLE IF NOT EXISTS batches (
    id TEXT PRIMARY KEY, tenant TEXT NOT NULL, key TEXT NOT NULL, face TEXT NOT NULL, endpoint TEXT NOT NULL,
    input_file TEXT, status TEXT NOT NULL, created_at INTEGER NOT NULL, expires_at INTEGER NOT NULL,
    marks TEXT NOT NULL DEFAULT '{}', errors TEXT NOT NULL DEFAULT '[]', metadata TEXT,
    window TEXT NOT NULL, model TEXT, output_file TEXT, error_file TEXT, total INTEGER NOT NULL DEFAULT 0
);
CREATE TABLE IF NOT EXISTS lines (
    batch TEXT NOT NULL, number INTEGER NOT NULL, custom_id TEXT NOT NULL, body TEXT NOT NULL,
    rank INTEGER NOT NULL, leader INTEGER NOT NULL, state TEXT NOT NULL, status INTEGER, request TEXT,
    answer TEXT, PRIMARY KEY (batch, number)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS lines_rank ON lines (batch, state, rank);
"""


@dataclass(frozen=True, slots=True)
class BatchFile:
    """A file of requests or of answers."""

    id: str
    tenant: str
    filename: str
    bytes: int
    purpose: str
    created_at: int
    expires_at: int | None


@dataclass(frozen=True, slots=True)
class Batch:
    """A batch as it stands."""

    id: str
    tenant: str
    key: str
    face: str
    """``openai`` or ``anthropic``."""
    endpoint: str
    input_file: str | None
    status: str
    created_at: int
    expires_at: int
    marks: Mapping[str, int]
    """When it came to be what."""
    errors: Sequence[Mapping[str, Any]]
    metadata: Mapping[str, str] | None
    window: str
    model: str | None
    output_file: str | None
    error_file: str | None
    total: int

    @property
    def ended(self) -> bool:
        return self.status in ENDED


@dataclass(frozen=True, slots=True)
class Pending:
    """A line that has no answer yet."""

    number: int
    body: str
    leader: bool


@dataclass(frozen=True, slots=True)
class Answered:
    """A line as the files of answers have it."""

    number: int
    custom_id: str
    state: str
    status: int | None
    request: str | None
    answer: str | None

    @property
    def succeeded(self) -> bool:
        return self.state == DONE and self.status == 200


class BatchStore:
    """One directory. Raises ``StepwellError`` with one sentence where it cannot be used."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self._lock = threading.RLock()
        try:
            (directory / "files").mkdir(parents=True, exist_ok=True, mode=0o700)
            self._db = sqlite3.connect(
                directory / "batches.db", check_same_thread=False, isolation_level=None
            )
            self._db.execute("PRAGMA journal_mode = WAL")
            self._db.execute("PRAGMA synchronous = NORMAL")
            self._db.executescript(SCHEMA)
        except (OSError, sqlite3.Error) as error:
            raise StepwellError(f"batches cannot be kept in {directory}: {error}") from error

    def close(self) -> None:
        with self._lock:
            self._db.close()

    @contextmanager
    def _writing(self) -> Iterator[sqlite3.Connection]:
        with self._lock:
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield self._db
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    def _rows(self, sql: str, *values: Any) -> list[Any]:
        with self._lock:
            return self._db.execute(sql, values).fetchall()

    # --- files --------------------------------------------------------------------------------

    def add_file(
        self, tenant: str, filename: str, data: bytes, purpose: str, now_s: int, expires_at: int | None = None
    ) -> BatchFile:
        """Whole or not at all: the row comes after the bytes."""
        made = BatchFile(_id("file-batch"), tenant, filename, len(data), purpose, now_s, expires_at)
        path = self.path(made.id)
        path.write_bytes(data)
        path.chmod(0o600)
        values = (made.id, tenant, filename, made.bytes, purpose, now_s, expires_at)
        with self._writing() as db:
            db.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        return made

    def write_file(
        self, tenant: str, filename: str, rows: Iterable[bytes], purpose: str, now_s: int
    ) -> BatchFile | None:
        """A file made row by row; None, and no file, where there are no rows."""
        made_id = _id("file-batch")
        path = self.path(made_id)
        size = 0
        with path.open("wb") as file:
            for row in rows:
                size += file.write(row + b"\n")
        if size == 0:
            path.unlink()
            return None
        path.chmod(0o600)
        made = BatchFile(made_id, tenant, filename, size, purpose, now_s, None)
        with self._writing() as db:
            values = (made_id, tenant, filename, size, purpose, now_s, None)
            db.execute("INSERT INTO files VALUES (?, ?, ?, ?, ?, ?, ?)", values)
        return made

    def file(self, tenant: str, file_id: str) -> BatchFile | None:
        rows = self._rows("SELECT * FROM files WHERE id = ? AND tenant = ?", file_id, tenant)
        return BatchFile(*rows[0]) if rows else None

    def files(self, tenant: str, purpose: str = "") -> list[BatchFile]:
        """The newest first."""
        rows = self._rows(
            "SELECT * FROM files WHERE tenant = ? AND (? = '' OR purpose = ?) ORDER BY created_at DESC, id",
            *(tenant, purpose, purpose),
        )
        return [BatchFile(*row) for row in rows]

    def held_bytes(self, tenant: str) -> int:
        return int(self._rows("SELECT COALESCE(SUM(bytes), 0) FROM files WHERE tenant = ?", tenant)[0][0])

    def path(self, file_id: str) -> Path:
        return self.directory / "files" / file_id

    def delete_file(self, file_id: str) -> None:
        with self._writing() as db:
            db.execute("DELETE FROM files WHERE id = ?", (file_id,))
        self.path(file_id).unlink(missing_ok=True)

    def expire_files(self, now_s: int) -> None:
        """Files whose time is over go, but for one that a batch has not read yet."""
        expired = self._rows(
            "SELECT id FROM files WHERE expires_at <= ? AND id NOT IN "
            "(SELECT input_file FROM batches WHERE status = 'validating' AND input_file IS NOT NULL)",
            now_s,
        )
        for (file_id,) in expired:
            self.delete_file(file_id)

    # --- batches ------------------------------------------------------------------------------

    def add(
        self,
        *,
        tenant: str,
        key: str,
        face: str,
        endpoint: str,
        now_s: int,
        window_s: int,
        window: str,
        input_file: str | None = None,
        metadata: Mapping[str, str] | None = None,
    ) -> Batch:
        """A new one, to be validated."""
        batch_id = _id("batch" if face == "openai" else "msgbatch")
        kept = None if metadata is None else json.dumps(dict(metadata))
        with self._writing() as db:
            db.execute(
                "INSERT INTO batches (id, tenant, key, face, endpoint, input_file, status, created_at, "
                "expires_at, metadata, window) VALUES (?, ?, ?, ?, ?, ?, 'validating', ?, ?, ?, ?)",
                (*(batch_id, tenant, key, face, endpoint, input_file), now_s, now_s + window_s, kept, window),
            )
        found = self.get(tenant, batch_id)
        assert found is not None
        return found

    def put_lines(self, batch_id: str, lines: Sequence[Line], places: Sequence[LinePlace]) -> None:
        at = {place.number: place for place in places}
        rows = [
            (batch_id, one.number, one.custom_id, one.body, at[one.number].rank, at[one.number].leader)
            for one in lines
        ]
        with self._writing() as db:
            db.execute("DELETE FROM lines WHERE batch = ?", (batch_id,))
            db.executemany(
                "INSERT INTO lines (batch, number, custom_id, body, rank, leader, state) "
                f"VALUES (?, ?, ?, ?, ?, ?, '{WAITING}')",
                rows,
            )
            db.execute("UPDATE batches SET total = ? WHERE id = ?", (len(rows), batch_id))

    def get(self, tenant: str | None, batch_id: str) -> Batch | None:
        rows = self._rows(
            "SELECT * FROM batches WHERE id = ? AND (? IS NULL OR tenant = ?)", batch_id, tenant, tenant
        )
        return _batch(rows[0]) if rows else None

    def all(self, tenant: str, face: str) -> list[Batch]:
        """The newest first."""
        rows = self._rows(
            "SELECT * FROM batches WHERE tenant = ? AND face = ? ORDER BY created_at DESC, id", tenant, face
        )
        return [_batch(row) for row in rows]

    def unfinished(self) -> list[Batch]:
        """Oldest first."""
        rows = self._rows("SELECT * FROM batches ORDER BY created_at, rowid")
        return [batch for batch in map(_batch, rows) if not batch.ended]

    def mark(
        self, batch_id: str, status: str, now_s: int, *, only_from: Sequence[str] = (), **more: Any
    ) -> bool:
        """It is something else now. False where it was none of ``only_from``, and nothing has changed."""
        with self._writing() as db:
            row = db.execute("SELECT status, marks FROM batches WHERE id = ?", (batch_id,)).fetchone()
            if row is None or (only_from and row[0] not in only_from):
                return False
            marks = {**json.loads(row[1]), status: now_s}
            fields = {"status": status, "marks": json.dumps(marks), **more}
            sets = ", ".join(f"{name} = ?" for name in fields)
            db.execute(f"UPDATE batches SET {sets} WHERE id = ?", (*fields.values(), batch_id))
            return True

    def delete(self, batch_id: str) -> None:
        with self._writing() as db:
            db.execute("DELETE FROM lines WHERE batch = ?", (batch_id,))
            db.execute("DELETE FROM batches WHERE id = ?", (batch_id,))

    # --- lines --------------------------------------------------------------------------------

    def pending(self, batch_id: str, after_rank: int, limit: int) -> list[tuple[int, Pending]]:
        """Lines without an answer, with their ranks, in the order in which they run."""
        rows = self._rows(
            "SELECT rank, number, body, leader FROM lines WHERE batch = ? AND state = ? AND rank > ? "
            "ORDER BY rank LIMIT ?",
            *(batch_id, WAITING, after_rank, limit),
        )
        return [(rank, Pending(number, body, bool(leader))) for rank, number, body, leader in rows]

    def answer(self, batch_id: str, number: int, status: int, request: str, answer: str) -> None:
        with self._writing() as db:
            db.execute(
                "UPDATE lines SET state = ?, status = ?, request = ?, answer = ? "
                "WHERE batch = ? AND number = ?",
                (DONE, status, request, answer, batch_id, number),
            )

    def again(self, batch_id: str, number: int) -> None:
        """Its answer does not count: it was never charged."""
        with self._writing() as db:
            db.execute(
                "UPDATE lines SET state = ?, status = NULL, request = NULL, answer = NULL "
                "WHERE batch = ? AND number = ?",
                (WAITING, batch_id, number),
            )

    def give_up(self, batch_id: str, state: str) -> None:
        """What has no answer gets none."""
        with self._writing() as db:
            db.execute("UPDATE lines SET state = ? WHERE batch = ? AND state = ?", (state, batch_id, WAITING))

    def counts(self, batch_id: str) -> tuple[int, int]:
        """Lines that succeeded, and lines that have failed."""
        rows = self._rows(
            "SELECT COALESCE(SUM(status = 200), 0), COALESCE(SUM(status <> 200), 0) FROM lines "
            f"WHERE batch = ? AND state = '{DONE}'",
            batch_id,
        )
        return int(rows[0][0]), int(rows[0][1])

    def states(self, batch_id: str) -> dict[str, int]:
        rows = self._rows("SELECT state, COUNT(*) FROM lines WHERE batch = ? GROUP BY state", batch_id)
        return dict(rows)

    def answers(self, batch_id: str, after: int = 0, limit: int = 500) -> list[Answered]:
        """In order of their numbers."""
        rows = self._rows(
            "SELECT number, custom_id, state, status, request, answer FROM lines "
            "WHERE batch = ? AND number > ? ORDER BY number LIMIT ?",
            *(batch_id, after, limit),
        )
        return [Answered(*row) for row in rows]

    def every_answer(self, batch_id: str) -> Iterator[Answered]:
        """A few at a time, because a batch may be larger than memory should be."""
        after = 0
        while page := self.answers(batch_id, after):
            yield from page
            after = page[-1].number


def _batch(row: Sequence[Any]) -> Batch:
    (batch_id, tenant, key, face, endpoint, input_file, status, created, expires, marks, errors, *rest) = row
    metadata, window, model, output, error, total = rest
    return Batch(
        *(batch_id, tenant, key, face, endpoint, input_file, status, created, expires),
        json.loads(marks),
        json.loads(errors),
        None if metadata is None else json.loads(metadata),
        *(window, model, output, error, total),
    )


def _id(prefix: str) -> str:
    return f"{prefix}{'-' if prefix.startswith('file') else '_'}{secrets.token_hex(12)}"
