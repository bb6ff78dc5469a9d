"""A ledger by its name: a file is SQLite, ``postgresql://...`` is PostgreSQL."""

from __future__ import annotations

import re
from pathlib import Path

from stepwell.errors import BadInput
from stepwell.ledger.base import Store
from stepwell.ledger.stores.sqlite import SqliteStore

POSTGRES_SCHEMES = ("postgresql://", "postgres://")


def open_store(name: str | Path, *, create: bool = True) -> Store:
    """Open the ledger of that path or URL. ``create=False``: for reading; what is not there is not made.

    Raises ``LedgerError`` when it cannot be opened, ``BadInput`` for another kind of URL, and
    ``ImportError`` when PostgreSQL is asked for without the extra 'postgres'.
    """
    text = str(name)
    if isinstance(name, str) and text.startswith(POSTGRES_SCHEMES):
        from stepwell.ledger.stores.postgres import PostgresStore

        return PostgresStore(text, create=create)
    if isinstance(name, str) and (scheme := re.match(r"([a-z][a-z0-9+.-]*)://", text)):
        raise BadInput(f"a ledger is a file or {POSTGRES_SCHEMES[0]}..., and not {scheme[1]}://")
    return SqliteStore(Path(text).expanduser(), create=create)
