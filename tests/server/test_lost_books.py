"""Books whose file is deleted under the server."""

from __future__ import annotations

from functools import partialmethod
from pathlib import Path

import pytest

from stepwell.ledger.stores.sqlite import SqliteStore
from stepwell.ledger.stores.writer import LedgerWriter
from tests.server.ledgers import keeping


def test_a_deleted_ledger_is_noticed_and_one_put_back_is_written_again(tmp_path: Path) -> None:
    with keeping(tmp_path) as kept:
        file, aside = tmp_path / "books.db", tmp_path / "aside.db"
        assert kept.get("/health").json() == {"status": "ok", "ledger": "ok"}
        file.rename(aside)
        health = kept.get("/health")
        assert (health.status_code, health.json()) == (503, {"status": "ledger", "ledger": "lost"})

        file.write_bytes(b"another of the same name")
        assert kept.get("/health").status_code == 503

        aside.replace(file)
        assert kept.get("/health").json() == {"status": "ok", "ledger": "ok"}


def test_nothing_is_written_where_nobody_would_find_it(tmp_path: Path) -> None:
    store = SqliteStore(tmp_path / "books.db")
    (tmp_path / "books.db").unlink()
    sentence = store.lost()
    assert sentence is not None
    assert "was deleted or replaced while it was in use" in sentence
    store.close()


def test_a_deleted_log_is_noticed_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    # Nothing can be entered any more, and the writer need not try for long.
    monkeypatch.setattr(LedgerWriter, "close", partialmethod(LedgerWriter.close, timeout_s=0.1))
    with keeping(tmp_path) as kept:
        assert kept.get("/health").status_code == 200
        (tmp_path / "books.db-wal").unlink()
        assert kept.get("/health").json() == {"status": "ledger", "ledger": "lost"}
