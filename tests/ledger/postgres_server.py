"""A PostgreSQL server for tests; they are skipped where none can be started."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from stepwell.bench.ledger.postgres_server import PostgresServer, running_postgres, why_not

Server = PostgresServer


@contextmanager
def running_server() -> Iterator[Server]:
    if (reason := why_not()) is not None:
        pytest.skip(reason)
    with running_postgres() as server:
        yield server
