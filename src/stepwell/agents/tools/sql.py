"""The tools ``sql`` and ``tables``: questions to the person's own CSV, Parquet and DuckDB files, and to
warehouses beside them.

Every file is a view named after it. The views are made first; then DuckDB is locked: it can open no file
but these, load nothing, attach nothing and change no setting, whatever a statement asks for.
"""

from __future__ import annotations

import re
import threading
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.agents.tools.base import Tool, ToolError
from stepwell.agents.tools.ended_after import ended_after
from stepwell.agents.tools.functions import from_function, in_thread
from stepwell.agents.tools.rows import Rows, plural, show_rows
from stepwell.agents.tools.warehouse import duckdb_path, open_warehouse
from stepwell.agents.tools.warehouses import Warehouses, written_name
from stepwell.agents.tools.workspace import Workspace
from stepwell.errors import MissingExtra

if TYPE_CHECKING:
    import duckdb

READERS = {".csv": "read_csv", ".tsv": "read_csv", ".parquet": "read_parquet"}
DATABASES = (".duckdb", ".db")
COUNTED_ROWS = 1_000_000
BATCH_ROWS = 2_048
START_S = 5.0
"""What a tool's own timeout leaves on top of the statement's, for opening files and for interrupting."""
_KINDS = {"SELECT", "EXPLAIN", "RELATION"}


class Database:
    """The person's data files behind one locked DuckDB, opened at the first question. Safe over threads."""

    def __init__(self, workspace: Workspace) -> None:
        paths = [path for path in workspace.files if path.suffix.lower() in (*READERS, *DATABASES)]
        found = [(address, duckdb_path(address)) for address in workspace.warehouses]
        self._databases = [Path(path) for _, path in found if path is not None]
        """DuckDB files whatever they are called."""
        self._files = [*paths, *self._databases]
        away = [open_warehouse(address) for address, path in found if path is None]
        self._warehouses = Warehouses(away, workspace.limits.query_s)
        self._limits = workspace.limits
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self.problems: list[str] = []
        """Files that could not be read, each in a sentence; the others can be asked."""

    async def ask(self, statement: str, most_rows: int | None = None) -> Rows:
        """The rows of one read-only statement.

        ``ToolError``: several statements, one that is no question, DuckDB's own complaint in a line, or
        longer than ``limits.query_s``.
        """
        if len(statement) > self._limits.code_chars:
            raise ToolError(f"the statement is longer than {self._limits.code_chars} characters")
        return await in_thread(lambda: self._ask(statement, most_rows or self._limits.rows))

    async def describe(self) -> str:
        """Every table with its columns, their types and its number of rows, one a line."""
        return await in_thread(self._describe)

    def _ask(self, statement: str, most_rows: int) -> Rows:
        duck = _duckdb()
        cursor = self._cursor()
        try:
            if (answer := self._warehouses.ask(statement, most_rows, _views(cursor))) is not None:
                return answer
            _check_kind(cursor.extract_statements(statement))
            with ended_after(self._limits.query_s, cursor.interrupt):
                return _fetch(_execute(cursor, statement), most_rows)
        except duck.InterruptException:
            raise ToolError(f"the statement was ended after {self._limits.query_s:g} s") from None
        except (duck.Error, RuntimeError, ValueError) as error:
            raise ToolError(_sentence(error)) from None
        finally:
            cursor.close()

    def _cursor(self) -> duckdb.DuckDBPyConnection:
        with self._lock:
            if self._connection is None:
                self._connection = self._open()
            return self._connection.cursor()

    def _open(self) -> duckdb.DuckDBPyConnection:
        connection: duckdb.DuckDBPyConnection = _duckdb().connect(
            ":memory:", config={"autoinstall_known_extensions": "false"}
        )
        memory_mib = max(64, self._limits.memory_bytes >> 20)
        connection.execute(f"SET memory_limit = '{memory_mib}MiB'; SET threads = 2; SET temp_directory = ''")
        readable = []
        for path in self._files:
            try:
                self._add(connection, path)
                readable.append(str(path))
            except (_duckdb().Error, OSError, UnicodeError) as error:
                why = _sentence(error).replace(str(path), path.name)
                self.problems.append(f"{path.name} cannot be read: {why}")
        connection.execute("SET allowed_paths = $paths", {"paths": readable})
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        return connection

    def _add(self, connection: duckdb.DuckDBPyConnection, path: Path) -> None:
        if path.stat().st_size == 0:
            raise OSError("it is empty")
        name = _free(connection, _identifier(path.stem))
        if path not in self._databases and path.suffix.lower() in READERS:
            reader = READERS[path.suffix.lower()]
            connection.execute(f"CREATE VIEW {name} AS SELECT * FROM {reader}({_quoted(str(path))})")
            return
        alias = f"file_{name}"
        connection.execute(f"ATTACH {_quoted(str(path))} AS {alias} (READ_ONLY)")
        inside = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() "
            "WHERE database_name = $alias AND NOT internal "
            "UNION ALL SELECT schema_name, view_name FROM duckdb_views() WHERE database_name = $alias "
            "AND NOT internal ORDER BY ALL",
            {"alias": alias},
        ).fetchall()
        for schema, table in inside:
            view = _free(connection, _identifier(table))
            connection.execute(f'CREATE VIEW {view} AS SELECT * FROM {alias}."{schema}"."{table}"')

    def _describe(self) -> str:
        cursor = self._cursor()
        try:
            own = _views(cursor)
            lines = [_table_line(cursor, name) for name in own]
        finally:
            cursor.close()
        return (
            "\n".join([*lines, *self._warehouses.describe(own), *self.problems])
            or "There are no tables: no CSV, Parquet or DuckDB file and no warehouse was given."
        )


def shared_database(workspace: Workspace) -> Database:
    """One for all tools and agents of a workspace."""
    found = workspace.shared.setdefault("database", Database(workspace))
    assert isinstance(found, Database)
    return found


def _duckdb() -> Any:
    try:
        import duckdb
    except ImportError:
        raise ToolError(str(MissingExtra("SQL", "analytics"))) from None
    return duckdb


def _check_kind(statements: Sequence[Any]) -> None:
    if len(statements) != 1:
        raise ToolError(f"one statement at a time, not {len(statements)}")
    kind = statements[0].type.name
    if kind not in _KINDS:
        raise ToolError(f"only questions are allowed (SELECT, WITH, DESCRIBE, SUMMARIZE), not {kind}")


def _execute(cursor: duckdb.DuckDBPyConnection, statement: str) -> duckdb.DuckDBPyConnection:
    """Times with zones come as text: as values DuckDB needs one more package for them."""
    result = cursor.execute(statement)
    columns = result.description or []
    if not any("TIME ZONE" in str(column[1]) for column in columns):
        return result
    asked = [
        f"#{n}{'::VARCHAR' if 'TIME ZONE' in str(column[1]) else ''} AS {_name(column[0])}"
        for n, column in enumerate(columns, 1)
    ]
    return cursor.execute(f"SELECT {', '.join(asked)} FROM ({statement.strip().rstrip(';')})")


def _name(text: str) -> str:
    return '"' + text.replace('"', '""') + '"'


def _fetch(result: duckdb.DuckDBPyConnection, most_rows: int) -> Rows:
    columns = tuple(column[0] for column in result.description or ())
    rows = result.fetchmany(most_rows)
    count = len(rows)
    while count < COUNTED_ROWS and (more := result.fetchmany(BATCH_ROWS)):
        count += len(more)
    return Rows(columns, tuple(rows), min(count, COUNTED_ROWS), at_least=count >= COUNTED_ROWS)


def _views(cursor: duckdb.DuckDBPyConnection) -> list[str]:
    found = cursor.execute(
        "SELECT view_name FROM duckdb_views() "
        "WHERE database_name = 'memory' AND NOT internal ORDER BY view_oid"
    )
    return [name for (name,) in found.fetchall()]


def _table_line(cursor: duckdb.DuckDBPyConnection, name: str) -> str:
    try:
        columns = cursor.execute(f"DESCRIBE {name}").fetchall()
        counted = cursor.execute(f"SELECT count(*) FROM {name}").fetchone()
    except _duckdb().Error as error:
        return f"{name} cannot be read: {_sentence(error)}"
    listed = ", ".join(f"{written_name(column[0])} {column[1]}" for column in columns)
    return f"{name} ({listed}): {plural(counted[0] if counted else 0)}"


def _identifier(text: str) -> str:
    plain = re.sub(r"\W+", "_", text, flags=re.ASCII).strip("_") or "data"
    return f"t_{plain}" if plain[0].isdigit() else plain


def _free(connection: duckdb.DuckDBPyConnection, wanted: str) -> str:
    """The name itself, quoted when it is one of SQL's own words, or with a number when it is taken."""
    taken = {name.lower() for name in _views(connection)}
    number, name = 2, wanted
    while name.lower() in taken:
        number, name = number + 1, f"{wanted}_{number}"
    reserved = connection.execute(
        "SELECT 1 FROM duckdb_keywords() WHERE keyword_name = $name AND keyword_category = 'reserved'",
        {"name": name.lower()},
    ).fetchone()
    return f"{name}_" if reserved else name


def _quoted(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _sentence(error: BaseException) -> str:
    """DuckDB's complaint and its suggestion, without the drawing of where in the statement."""
    text = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\nLINE ")[0]
    return " ".join(text.split())[:600] or type(error).__name__


def sql_tool(workspace: Workspace) -> Tool:
    """The tool ``sql``."""
    database = shared_database(workspace)

    async def sql(query: str) -> str:
        """Asks the tables one read-only SQL question (DuckDB); call tables first to see what there is.

        Args:
            query: one SELECT
        """
        return show_rows(await database.ask(query))

    return from_function(sql, expected_ms=200, timeout_s=workspace.limits.query_s + START_S, idempotent=True)


def tables_tool(workspace: Workspace) -> Tool:
    """The tool ``tables``."""
    database = shared_database(workspace)

    async def tables() -> str:
        """Lists the tables that sql and chart can ask: names, columns, types, numbers of rows."""
        return await database.describe()

    return from_function(
        tables, expected_ms=200, timeout_s=workspace.limits.query_s + START_S, idempotent=True
    )
