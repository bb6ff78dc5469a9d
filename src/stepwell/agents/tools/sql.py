"""The tools ``sql`` and ``tables``: questions to the person's own CSV, Parquet and DuckDB files, and to
warehouses beside them.

Every file is a table named after it. CSV files are read once, whole (``sql_files``); every question has a
connection of its own, to which all files are read only, and which is locked before it is asked: it can
open no other file, load nothing, attach nothing and change no setting. Only what DuckDB itself understands
as one SELECT runs (``sql_gate``).
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.agents.tools.base import Tool, ToolError
from stepwell.agents.tools.ended_after import ended_after
from stepwell.agents.tools.functions import from_function, in_thread
from stepwell.agents.tools.rows import Rows, plural, show_rows
from stepwell.agents.tools.sql_files import PrivateFolder, load_csv, plain_copy
from stepwell.agents.tools.sql_gate import require_question
from stepwell.agents.tools.sql_names import identifier, name, quoted
from stepwell.agents.tools.warehouse import duckdb_path, open_warehouse
from stepwell.agents.tools.warehouses import Warehouses, written_name
from stepwell.agents.tools.workspace import Workspace
from stepwell.errors import BadInput, MissingExtra

if TYPE_CHECKING:
    import duckdb

TABLES = (".csv", ".tsv")
PARQUET = ".parquet"
DATABASES = (".duckdb", ".db")
COUNTED_ROWS = 1_000_000
BATCH_ROWS = 2_048
AT_ONCE = 4
"""Questions that are answered at the same time; each may hold ``limits.memory_bytes``."""
START_S = 5.0
"""What a tool's own timeout leaves on top of the statement's, for opening files and for interrupting."""
OPTIONS: dict[str, str | bool | int | float | list[str]] = {
    "autoinstall_known_extensions": "false",
    "autoload_known_extensions": "false",
    # Else a table that is not there is looked for among the variables of this program.
    "python_enable_replacements": "false",
}


@dataclass(frozen=True, slots=True)
class _View:
    """A table that a question can name."""

    name: str
    source: str
    """What to select from, as SQL."""
    file: str
    """The file's name, where the table's does not say it."""


class Database:
    """The person's data files as tables, read at the first question. Safe over threads."""

    def __init__(self, workspace: Workspace) -> None:
        kinds = (*TABLES, PARQUET, *DATABASES)
        paths = [path for path in workspace.files if path.suffix.lower() in kinds]
        found = [(address, duckdb_path(address)) for address in workspace.warehouses]
        self._databases = [Path(path) for _, path in found if path is not None]
        """DuckDB files whatever they are called."""
        self._files = [*paths, *self._databases]
        away = [open_warehouse(address) for address, path in found if path is None]
        self._warehouses = Warehouses(away, workspace.limits.query_s)
        self._limits = workspace.limits
        self._lock = threading.Lock()
        self._places = threading.BoundedSemaphore(AT_ONCE)
        self._folder: PrivateFolder | None = None
        self._attached: dict[str, str] = {}
        """DuckDB files by the names that they are attached as."""
        self._readable: list[str] = []
        self._views: list[_View] = []
        self.notes: list[str] = []
        """What must be known about how a file was read, each in a sentence."""
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
        try:
            with self._connected() as connection:
                own = [view.name for view in self._views]
                if (answer := self._warehouses.ask(statement, most_rows, own)) is not None:
                    return answer
                require_question(connection, statement, own)
                with ended_after(self._limits.query_s, connection.interrupt):
                    return _fetch(_execute(connection, statement), most_rows)
        except duck.InterruptException:
            raise ToolError(f"the statement was ended after {self._limits.query_s:g} s") from None
        except (duck.Error, RuntimeError, ValueError) as error:
            raise ToolError(self._sentence(error)) from None

    @contextmanager
    def _connected(self) -> Iterator[duckdb.DuckDBPyConnection]:
        """A new connection, locked, that sees every table and can change none of them."""
        with self._lock:
            if self._folder is None:
                self._folder = self._read_files()
        with self._places, _duckdb().connect(":memory:", config=OPTIONS) as connection:
            self._limit(connection)
            for alias, path in self._attached.items():
                connection.execute(f"ATTACH {quoted(path)} AS {alias} (READ_ONLY)")
            for view in self._views:
                connection.execute(f"CREATE VIEW {name(view.name)} AS SELECT * FROM {view.source}")
            connection.execute("SET allowed_paths = $paths", {"paths": self._readable})
            connection.execute("SET enable_external_access = false")
            connection.execute("SET lock_configuration = true")
            yield connection

    def _limit(self, connection: duckdb.DuckDBPyConnection, spill: str = "") -> None:
        memory_mib = max(64, self._limits.memory_bytes >> 20)
        connection.execute(
            f"SET memory_limit = '{memory_mib}MiB'; SET threads = 2; SET temp_directory = {quoted(spill)}"
        )

    def _read_files(self) -> PrivateFolder:
        folder = PrivateFolder()
        store = folder.path / "tables.duckdb"
        with _duckdb().connect(str(store), config=OPTIONS) as connection:
            self._limit(connection, str(folder.path / "spill"))
            for number, path in enumerate(self._files, 1):
                try:
                    self._add(connection, path, folder.path, number)
                except (_duckdb().Error, OSError, UnicodeError, BadInput) as error:
                    self.problems.append(f"{path.name} cannot be read: {self._sentence(error, path, folder)}")
        self._attached["files"] = str(store)
        return folder

    def _add(self, connection: duckdb.DuckDBPyConnection, path: Path, folder: Path, number: int) -> None:
        if path.stat().st_size == 0:
            raise OSError("it is empty")
        kind = "" if path in self._databases else path.suffix.lower()
        if kind in TABLES:
            plain, separator, note = plain_copy(path, folder, number)
            notes = [note, load_csv(connection, f"t{number}", plain, separator)]
            self._name(connection, path.stem, f"files.main.t{number}", path)
            if said := "; ".join(one for one in notes if one):
                self.notes.append(f"{path.name}: {said}")
        elif kind == PARQUET:
            plain = folder / f"{number}{PARQUET}"
            plain.symlink_to(path.resolve())
            source = f"read_parquet({quoted(str(plain))})"
            connection.execute(f"DESCRIBE SELECT * FROM {source}")
            self._readable.append(str(plain))
            self._name(connection, path.stem, source, path)
        else:
            self._add_database(connection, path, f"file_{identifier(path.stem)}")

    def _add_database(self, connection: duckdb.DuckDBPyConnection, path: Path, wanted: str) -> None:
        alias, number = name(wanted), 2
        while alias in self._attached or alias == "files":
            alias, number = name(f"{wanted}_{number}"), number + 1
        connection.execute(f"ATTACH {quoted(str(path))} AS {alias} (READ_ONLY)")
        inside = connection.execute(
            "SELECT schema_name, table_name FROM duckdb_tables() "
            "WHERE database_name = $alias AND NOT internal "
            "UNION ALL SELECT schema_name, view_name FROM duckdb_views() WHERE database_name = $alias "
            "AND NOT internal ORDER BY ALL",
            {"alias": alias.strip('"')},
        ).fetchall()
        connection.execute(f"DETACH {alias}")
        self._attached[alias] = str(path)
        for schema, table in inside:
            self._name(connection, table, f"{alias}.{name(schema)}.{name(table)}", path)

    def _name(
        self,
        connection: duckdb.DuckDBPyConnection,
        wanted: str,
        source: str,
        path: Path,
    ) -> None:
        """Makes a view, whose name says where it is from unless the table's own does."""
        taken = {view.name.lower() for view in self._views}
        taken |= {stem for stem, keeper in _kept_names(self._files).items() if keeper != path}
        given = _free(connection, taken, identifier(wanted))
        self._views.append(_View(given, source, "" if given == wanted else path.name))

    def _sentence(
        self, error: BaseException, path: Path | None = None, folder: PrivateFolder | None = None
    ) -> str:
        """DuckDB's complaint without the drawing of where in the statement, and without names of folders."""
        text = (error.strerror if isinstance(error, OSError) else None) or str(error).partition("\nLINE ")[0]
        text = " ".join(text.split())[:600] or type(error).__name__
        if path is not None and folder is not None:
            for number in range(1, len(self._files) + 1):
                for suffix in (*TABLES, PARQUET):
                    text = text.replace(str(folder.path / f"{number}{suffix}"), path.name)
            text = text.replace(str(path), path.name)
        return text

    def _describe(self) -> str:
        with self._connected() as connection:
            lines = [_table_line(connection, view, self._sentence) for view in self._views]
        own = [view.name for view in self._views]
        return (
            "\n".join([*lines, *self._warehouses.describe(own), *self.notes, *self.problems])
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


def _execute(cursor: duckdb.DuckDBPyConnection, statement: str) -> duckdb.DuckDBPyConnection:
    """Times with zones come as text: as values DuckDB needs one more package for them."""
    result = cursor.execute(statement)
    columns = result.description or []
    if not any("TIME ZONE" in str(column[1]) for column in columns):
        return result
    asked = [
        f"#{n}{'::VARCHAR' if 'TIME ZONE' in str(column[1]) else ''} AS {name(column[0])}"
        for n, column in enumerate(columns, 1)
    ]
    return cursor.execute(f"SELECT {', '.join(asked)} FROM ({statement.strip().rstrip(';')})")


def _fetch(result: duckdb.DuckDBPyConnection, most_rows: int) -> Rows:
    columns = tuple(column[0] for column in result.description or ())
    rows = result.fetchmany(most_rows)
    count = len(rows)
    while count < COUNTED_ROWS and (more := result.fetchmany(BATCH_ROWS)):
        count += len(more)
    return Rows(columns, tuple(rows), min(count, COUNTED_ROWS), at_least=count >= COUNTED_ROWS)


def _table_line(
    connection: duckdb.DuckDBPyConnection, view: _View, sentence: Callable[[BaseException], str]
) -> str:
    try:
        columns = connection.execute(f"DESCRIBE {name(view.name)}").fetchall()
        counted = connection.execute(f"SELECT count(*) FROM {name(view.name)}").fetchone()
    except _duckdb().Error as error:
        return f"{view.name} cannot be read: {sentence(error)}"
    listed = ", ".join(f"{written_name(column[0])} {column[1]}" for column in columns)
    source = f", from {view.file}" if view.file else ""
    return f"{view.name} ({listed}): {plural(counted[0] if counted else 0)}{source}"


def _kept_names(files: Sequence[Path]) -> dict[str, Path]:
    """A file whose name is a table's as it stands keeps it, whatever the files before it would be called."""
    kept: dict[str, Path] = {}
    for path in files:
        if path.suffix.lower() in (*TABLES, PARQUET) and identifier(path.stem) == path.stem:
            kept.setdefault(path.stem.lower(), path)
    return kept


def _free(connection: duckdb.DuckDBPyConnection, taken: set[str], wanted: str) -> str:
    """The name itself, changed when it is one of SQL's own words, or with a number when it is taken."""
    reserved = connection.execute(
        "SELECT 1 FROM duckdb_keywords() WHERE keyword_name = $name AND keyword_category = 'reserved'",
        {"name": wanted.lower()},
    ).fetchone()
    free, number = f"{wanted}_" if reserved else wanted, 2
    while free.lower() in taken:
        free, number = f"{wanted}_{number}", number + 1
    return free


def sql_tool(workspace: Workspace) -> Tool:
    """The tool ``sql``."""
    database = shared_database(workspace)

    async def sql(query: str) -> str:
        """Asks the tables one read-only SQL question (DuckDB).

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
