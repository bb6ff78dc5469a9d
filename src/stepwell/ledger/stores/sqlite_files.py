"""The files of a ledger in SQLite as they lie on the disk, looked at from outside.

SQLite notices neither that a file it has open was deleted nor that it was cut: what it writes then lies in a
file without a name or behind a hole, and it would come out at the next start only. Three files belong to
a ledger: the database, the write-ahead log with what is not in it yet, and the index of that log. They are
never opened here: closing a file gives up every lock that the process has on it, SQLite's too.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

FileId = tuple[int, int]
"""Device and inode."""
NO_FILE = (0, 0)


@dataclass(frozen=True, slots=True)
class LedgerFiles:
    """One look. What is not there is ``NO_FILE`` and has no bytes."""

    database: FileId
    log: FileId
    index: FileId
    database_bytes: int
    log_bytes: int

    @classmethod
    def of(cls, database: Path) -> LedgerFiles:
        """As they are now."""
        log, index = (database.with_name(database.name + end) for end in ("-wal", "-shm"))
        (base, base_bytes), (log_id, log_bytes), (index_id, _) = map(_look, (database, log, index))
        return cls(base, log_id, index_id, base_bytes, log_bytes)

    def missing(self, before: LedgerFiles) -> str | None:
        """What was taken away since, as the end of a sentence about the ledger; None: nothing."""
        if self.database != before.database:
            return "was deleted or replaced"
        for now, then, what in ((self.log, before.log, "-wal"), (self.index, before.index, "-shm")):
            if then not in (NO_FILE, now):
                return f"has lost its file {what}, which was deleted or replaced"
        return None

    def touched(self, before: LedgerFiles) -> bool:
        """Whether another program may have cut them or written over them. Another process that puts the log
        into the database may."""
        return self.database_bytes != before.database_bytes or self.log_bytes < before.log_bytes


def _look(path: Path) -> tuple[FileId, int]:
    try:
        found = path.stat()
    except OSError:
        return NO_FILE, 0
    return (found.st_dev, found.st_ino), found.st_size
