"""PostgreSQL through ibis: connections and types are its, transactions are ours.

Every statement runs in a transaction that is read only from its first word, with a time limit that the server
keeps, over a cursor on the server, so that a million rows take the room of one batch. A function that
PostgreSQL calls volatile may change things, reach files or wait, and is refused.
"""

from __future__ import annotations

import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from decimal import ROUND_HALF_EVEN, Decimal
from typing import Any
from urllib.parse import SplitResult, parse_qsl, unquote

from stepwell.agents.tools.dialects import called_names, one_line
from stepwell.agents.tools.ended_after import ended_after
from stepwell.agents.tools.warehouse_base import (
    MAX_TABLES,
    Batches,
    WarehouseError,
    WarehouseTable,
    distinct,
    shown,
    without,
)
from stepwell.errors import BadInput, MissingExtra

CONNECTIONS = 4
CONNECT_S = 10
BATCH_CELLS = 500_000
"""In one batch: fewer rows of a wide table."""
SILENT_MS = 30_000
"""A connection without an answer is dead after this."""
ALLOWED = ("random", "gen_random_uuid", "clock_timestamp", "timeofday")
"""Volatile and harmless."""
REFUSED = ("table_to_xml", "schema_to_xml", "database_to_xml", "cursor_to_xml", "query_to_xml")
"""They read whatever they are told to, by a text; so do their kin with longer names."""
NUMERIC_SCALE = 9
"""A numeric without a scale of its own becomes decimal(38, 9), as BigQuery's NUMERIC is."""
_SIMPLE = frozenset(
    {
        "boolean",
        "smallint",
        "integer",
        "bigint",
        "real",
        "double precision",
        "numeric",
        "text",
        "date",
        "bytea",
    }
    | {"character", "character varying", "name", "oid", "time without time zone"}
    | {"timestamp without time zone", "timestamp with time zone"}
)
"""Types that Parquet has. All others (json, uuid, arrays, intervals, ranges) are kept as their text."""
_TABLES = """
SELECT n.nspname, c.relname,
       array_agg(a.attname::text ORDER BY a.attnum),
       array_agg(format_type(a.atttypid, a.atttypmod) ORDER BY a.attnum),
       max(CASE WHEN c.relkind IN ('r', 'm', 'p') AND c.reltuples >= 0 THEN c.reltuples::bigint END),
       n.nspname = current_schema()
FROM pg_class c
JOIN pg_namespace n ON n.oid = c.relnamespace
JOIN pg_attribute a ON a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped
WHERE c.relkind IN ('r', 'v', 'm', 'p', 'f') AND NOT c.relispartition
  AND n.nspname <> 'information_schema' AND n.nspname NOT LIKE 'pg\\_%%'
  AND has_schema_privilege(n.oid, 'USAGE') AND has_any_column_privilege(c.oid, 'SELECT')
GROUP BY n.nspname, c.relname
ORDER BY n.nspname <> current_schema(), n.nspname, c.relname
LIMIT %(most)s
"""


class PostgresWarehouse:
    """See ``Warehouse``."""

    dialect = "postgres"

    def __init__(self, url: SplitResult) -> None:
        """Raises ``BadInput`` for a URL that names no database."""
        if not url.path.strip("/"):
            raise BadInput(f"{shown(url)} names no database: write postgresql://user@host/database")
        self.shown = shown(url)
        self._options = _options(url)
        self._idle: list[Any] = []
        self._lock = threading.Lock()
        self._free = threading.BoundedSemaphore(CONNECTIONS)
        self._finalizer = weakref.finalize(self, _disconnect, self._idle)

    def tables(self) -> list[WarehouseTable]:
        """See ``Warehouse``."""
        with self._backend(CONNECT_S) as backend, _transaction(backend, CONNECT_S) as cursor:
            found = cursor.execute(_TABLES, {"most": MAX_TABLES}).fetchall()
        return [
            WarehouseTable(schema, name, tuple(zip(columns, types, strict=True)), rows, is_first)
            for schema, name, columns, types, rows, is_first in found
        ]

    @contextmanager
    def read(self, sql: str, limit_s: float, batch_rows: int) -> Iterator[Batches]:
        """See ``Warehouse``."""
        with (
            self._backend(limit_s) as backend,
            _transaction(backend, limit_s) as cursor,
            _ended_after(backend.con, limit_s),
        ):
            _require_harmless(cursor, sql)
            fields = _fields(backend, cursor, sql)
            with backend.con.cursor(name="stepwell") as named:
                _read_as_text(named, fields)
                named.execute(sql)
                schema = _schema(fields)
                yield Batches(schema, _batches(named, schema, batch_rows))

    def close(self) -> None:
        """See ``Warehouse``."""
        with self._lock:
            _disconnect(self._idle)

    @contextmanager
    def _backend(self, limit_s: float) -> Iterator[Any]:
        """A connection of one's own; others wait for it, but not for ever."""
        if not self._free.acquire(timeout=limit_s):
            raise WarehouseError(f"{self.shown} is busy with {CONNECTIONS} other questions: ask again later")
        backend = None
        try:
            with self._lock:
                backend = self._idle.pop() if self._idle else None
            if backend is None:
                with self._told(f"{self.shown} cannot be asked", limit_s):
                    backend = self._connected()
            with self._told("PostgreSQL says", limit_s):
                yield backend
        finally:
            self._give_back(backend)
            self._free.release()

    def _give_back(self, backend: Any) -> None:
        if backend is None or backend.con.closed or backend.con.broken:
            return
        with self._lock:
            self._idle.append(backend)

    def _connected(self) -> Any:
        try:
            import ibis

            backend = ibis.postgres.connect(**self._options)
        except ImportError:
            raise MissingExtra("PostgreSQL as a warehouse", "warehouse") from None
        backend.con.read_only = True
        return backend

    @contextmanager
    def _told(self, what: str, limit_s: float) -> Iterator[None]:
        import psycopg
        from ibis.common.exceptions import IbisError

        try:
            yield
        except psycopg.errors.QueryCanceled:
            raise WarehouseError(f"the statement was ended after {limit_s:g} s") from None
        except (psycopg.Error, IbisError) as error:
            said = without(self._options.get("password"), _said(error))
            raise WarehouseError(f"{what}: {said}") from None


def _disconnect(idle: list[Any]) -> None:
    while idle:
        idle.pop().disconnect()


def _options(url: SplitResult) -> dict[str, Any]:
    """For ``ibis.postgres.connect``. What is not in the URL libpq takes from its own places (PGPASSWORD,
    .pgpass)."""
    database, _, schema = url.path.strip("/").partition("/")
    named: dict[str, Any] = {
        "host": url.hostname,
        "port": url.port,
        "user": unquote(url.username) if url.username else None,
        "password": unquote(url.password) if url.password else None,
        "database": unquote(database),
        "schema": unquote(schema),
    }
    usual = {"connect_timeout": CONNECT_S, "tcp_user_timeout": SILENT_MS, "application_name": "stepwell"}
    return usual | dict(parse_qsl(url.query)) | {name: value for name, value in named.items() if value}


@contextmanager
def _transaction(backend: Any, limit_s: float) -> Iterator[Any]:
    with backend.con.transaction(force_rollback=True), backend.con.cursor() as cursor:
        cursor.execute(f"SET LOCAL statement_timeout = {max(1, int(limit_s * 1000))}")
        # What sqlglot quotes ends where it thinks that it ends.
        cursor.execute("SET LOCAL standard_conforming_strings = on")
        yield cursor


@contextmanager
def _ended_after(connection: Any, limit_s: float) -> Iterator[None]:
    """The server's own limit is one for each batch; this is for all of them."""

    def cancel() -> None:
        with suppress(Exception):  # it may have ended meanwhile
            connection.cancel_safe()

    with ended_after(limit_s, cancel):
        yield


def _require_harmless(cursor: Any, sql: str) -> None:
    names = called_names(sql, "postgres")
    found = cursor.execute(
        "SELECT proname FROM pg_catalog.pg_proc WHERE proname = ANY(%s) AND provolatile = 'v' "
        "AND proname <> ALL(%s) ORDER BY proname LIMIT 1",
        (names, list(ALLOWED)),
    ).fetchone()
    refused = found[0] if found else next((name for name in names if name.startswith(REFUSED)), None)
    if refused is not None:
        raise WarehouseError(f"the function {refused} may change things or reach files: not allowed here")


def _fields(backend: Any, cursor: Any, sql: str) -> list[tuple[int, Any]]:
    """Of every column of the answer: the type's oid, and an Arrow field for it."""
    import pyarrow

    described = cursor.execute(f"SELECT * FROM ({sql}) AS asked LIMIT 0").description
    names = distinct([column.name for column in described])
    oids = [column.type_code for column in described]
    types = _types(cursor, described)
    return [
        (oid, pyarrow.field(name, _arrow_type(backend, kind, column)))
        for name, oid, kind, column in zip(names, oids, types, described, strict=True)
    ]


def _types(cursor: Any, described: Sequence[Any]) -> list[str]:
    found = cursor.execute(
        "SELECT format_type(oid, NULL) FROM unnest(%s::oid[]) WITH ORDINALITY AS asked (oid, place) "
        "ORDER BY place",
        ([column.type_code for column in described],),
    ).fetchall()
    return [kind for (kind,) in found]


def _arrow_type(backend: Any, kind: str, column: Any) -> Any:
    import pyarrow

    if kind not in _SIMPLE:
        return pyarrow.string()
    if kind == "numeric":
        sized = column.precision is not None and column.precision <= 38 and column.scale >= 0
        return pyarrow.decimal128(*((column.precision, column.scale) if sized else (38, NUMERIC_SCALE)))
    if kind.startswith("time without"):
        return pyarrow.time64("us")  # what it has; ibis would say nanoseconds
    return backend.compiler.type_mapper.from_string(kind).to_pyarrow()


def _read_as_text(cursor: Any, fields: Sequence[tuple[int, Any]]) -> None:
    import pyarrow
    from psycopg.types.string import TextLoader

    for oid, field in fields:
        if pyarrow.types.is_string(field.type):
            cursor.adapters.register_loader(oid, TextLoader)


def _schema(fields: Sequence[tuple[int, Any]]) -> Any:
    import pyarrow

    return pyarrow.schema([field for _, field in fields])


def _batches(cursor: Any, schema: Any, batch_rows: int) -> Iterator[Any]:
    import pyarrow

    at_once = max(1, min(batch_rows, BATCH_CELLS // max(1, len(schema))))
    while rows := cursor.fetchmany(at_once):
        columns = [_column([row[at] for row in rows], field) for at, field in enumerate(schema)]
        yield pyarrow.record_batch(columns, schema=schema)


def _column(cells: list[Any], field: Any) -> Any:
    import pyarrow

    try:
        if pyarrow.types.is_decimal(field.type):
            step = Decimal(1).scaleb(-field.type.scale)
            cells = [None if cell is None else cell.quantize(step, ROUND_HALF_EVEN) for cell in cells]
        return pyarrow.array(cells, type=field.type)
    except (pyarrow.ArrowException, ArithmeticError, ValueError, TypeError):
        raise WarehouseError(
            f"column {field.name} holds values that do not fit {field.type}: cast it, as in "
            f'CAST("{field.name}" AS text)'
        ) from None


def _said(error: BaseException) -> str:
    """PostgreSQL's own sentence and its hint, without the drawing of where."""
    diagnosis = getattr(error, "diag", None)
    if diagnosis is None or not diagnosis.message_primary:
        return one_line(error)
    hint = f" ({diagnosis.message_hint.rstrip('.')})" if diagnosis.message_hint else ""
    return f"{diagnosis.message_primary}{hint}"
