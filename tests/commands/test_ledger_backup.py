"""The books copied while a server writes, and a server started on the copy after it was killed."""

from __future__ import annotations

import shutil
import sqlite3
import stat
from pathlib import Path

import pytest
from tests.commands.test_serve import ask, served
from tests.ledger.made_books import made_books

from stepwell import cli
from stepwell.errors import BadInput
from stepwell.ledger.stores.backup import back_up

Capture = pytest.CaptureFixture[str]


def test_backup_kill_restore_and_go_on(tmp_path: Path, capsys: Capture) -> None:
    books, copy = tmp_path / "ledger.db", tmp_path / "copy.db"
    flags = ("--ledger", str(books), "--disk-dir", str(tmp_path / "kv"))
    with served(*flags) as (process, url, _):
        ask(url)
        assert cli.run(["ledger", "backup", str(copy), "--ledger", str(books)]) == 0
        ask(url)
        process.kill()
        process.wait()
    out = capsys.readouterr().out
    assert f"{copy}: 1 run, " in out and "checks it" in out
    for file in (books, *tmp_path.glob("ledger.db-*")):
        file.unlink()
    shutil.copy(copy, books)
    with served(*flags) as (process, url, said):
        assert any("the books of the last time are closed" in line for line in said)
        ask(url)
        process.terminate()
        assert process.wait(60) == 0
    assert cli.run(["ledger", "verify", "--ledger", str(books)]) == 0
    out = capsys.readouterr().out
    assert "The books are right" in out
    assert cli.run(["ledger", "statement", "--ledger", str(books)]) == 0
    assert "2 requests" in capsys.readouterr().out  # one from the copy, one after it


def test_a_copy_is_private_equal_and_never_in_the_place_of_another(tmp_path: Path, capsys: Capture) -> None:
    made = made_books(tmp_path)
    books, copy = made.path, tmp_path / "copy.db"
    pages: list[tuple[int, int]] = []
    back_up(books, copy, lambda done, total: pages.append((done, total)))
    assert stat.S_IMODE(copy.stat().st_mode) == 0o600
    assert pages[-1][0] == pages[-1][1] > 0
    dumps = []
    for path in (books, copy):
        connection = sqlite3.connect(path)
        dumps.append(list(connection.iterdump()))
        connection.close()
    assert dumps[0] == dumps[1]
    assert not list(tmp_path.glob("copy.db*-*")), "a copy is one file, also when it was read"
    made.store.close()
    with pytest.raises(BadInput, match="is there already"):
        back_up(books, copy)
    with pytest.raises(BadInput, match="there is no ledger"):
        back_up(tmp_path / "none.db", tmp_path / "other.db")
    assert not list(tmp_path.glob("*.part"))
    assert cli.run(["ledger", "backup", "x.db", "--ledger", "postgresql://a@b/c"]) == 2
    assert "pg_dump" in capsys.readouterr().err
