"""Both stores, for every test that asks for ``store``."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import pytest

from stepwell.ledger.base import Store
from stepwell.ledger.stores.open import open_store
from tests.ledger.postgres_server import Server, running_server

Opener = Callable[..., Store]
"""Opens the same books again, as another process would."""


@pytest.fixture(scope="session")
def postgres_server() -> Iterator[Server]:
    """A private PostgreSQL; skips where none is installed."""
    with running_server() as server:
        yield server


_databases = count(1)


@pytest.fixture
def postgres_url(postgres_server: Server) -> str:
    """An empty database of one's own."""
    import psycopg

    name = f"books{next(_databases)}"
    with psycopg.connect(postgres_server.url(), autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return postgres_server.url(name)


@pytest.fixture(params=["sqlite", "postgres"])
def open_books(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Opener]:
    name = (
        str(tmp_path / "ledger.db") if request.param == "sqlite" else request.getfixturevalue("postgres_url")
    )
    opened: list[Store] = []

    def opener(**options: bool) -> Store:
        opened.append(open_store(name, **options))
        return opened[-1]

    yield opener
    for store in opened:
        store.close()


@pytest.fixture
def store(open_books: Opener) -> Store:
    return open_books()
