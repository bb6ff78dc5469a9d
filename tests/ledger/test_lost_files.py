"""Files of a ledger that are taken away, cut or written over while it is in use: noticed before anything is
written where nobody would find it, and what was entered before stays in the books."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import pytest

from stepwell.ledger.base import LedgerError, PostingBatch, Run
from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.types import IDLE, MACHINE, Cause, Posting, Resource

RUN = Run("n", 1, "m", "{}", "", "")


def batch(number: int) -> PostingBatch:
    idle = Posting(MACHINE, IDLE, Resource.COMPUTE, 5, Cause.REST, 0)
    return PostingBatch(number, number, number, [idle])


def kept(database: Path, where: Path) -> int:
    """Postings that the next start finds after a kill -9 now."""
    where.mkdir()
    for file in database.parent.glob("books.db*"):
        shutil.copyfile(file, where / file.name)
    with closing(sqlite3.connect(where / "books.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(connection.execute("SELECT COUNT(*) FROM postings").fetchone()[0])


@pytest.mark.parametrize("gone", [["-wal"], ["-shm"], ["-wal", "-shm"]])
def test_a_log_that_was_deleted_is_noticed_and_what_it_held_is_saved(tmp_path: Path, gone: list[str]) -> None:
    database = tmp_path / "books" / "books.db"
    with closing(SqliteStore(database)) as store:
        run = store.begin(RUN)
        for number in (1, 2, 3):
            store.write(run, batch(number))
        for end in gone:
            database.with_name(database.name + end).unlink()
        assert "was deleted or replaced while it was in use" in (store.lost() or "")
        with pytest.raises(LedgerError, match=f"has lost its file {gone[0]}"):
            store.write(run, batch(4))
        assert kept(database, tmp_path / "killed") == 3
    assert kept(database, tmp_path / "closed") == 3
    with closing(SqliteStore(database)) as again:
        again.write(run, batch(4))
        assert again.lost() is None


def cut(file: Path, part: float) -> None:
    os.truncate(file, int(file.stat().st_size * part))


@pytest.mark.parametrize("part", [0, 0.5])
@pytest.mark.parametrize("end", ["", "-wal"])
def test_a_file_that_was_cut_is_noticed_before_more_is_written(tmp_path: Path, end: str, part: float) -> None:
    database = tmp_path / "books.db"
    with closing(SqliteStore(database)) as store:
        run = store.begin(RUN)
        for number in (1, 2, 3):
            store.write(run, batch(number))
        cut(database.with_name(database.name + end), part)
        for _ in range(2):
            with pytest.raises(LedgerError, match=r"was cut or written over .* while it was in use"):
                store.write(run, batch(4))
        assert store.lost() is not None


def vacuumed(database: Path) -> None:
    with closing(sqlite3.connect(database)) as other:
        other.execute("VACUUM")
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def checkpointed(database: Path) -> None:
    with closing(sqlite3.connect(database)) as other:
        other.execute("PRAGMA wal_checkpoint(TRUNCATE)")


def touched(database: Path) -> None:
    for file in database.parent.glob("books.db*"):
        os.utime(file)


def read(database: Path) -> None:
    with closing(SqliteStore(database, create=False)) as other:
        assert other.rows("SELECT COUNT(*) FROM runs") == [(1,)]


@pytest.mark.parametrize("deed", [vacuumed, checkpointed, touched, read])
def test_what_others_may_do_with_a_ledger_in_use_disturbs_nothing(
    tmp_path: Path, deed: Callable[[Path], None]
) -> None:
    database = tmp_path / "books" / "books.db"
    with closing(SqliteStore(database)) as store:
        run = store.begin(RUN)
        for number in range(1, 31):
            store.write(run, batch(number))
            if number % 7 == 0:
                deed(database)
        assert store.lost() is None
        assert kept(database, tmp_path / "killed") == 30
