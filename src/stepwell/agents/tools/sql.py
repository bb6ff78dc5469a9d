"""The tools ``sql`` and ``tables``: questions to the person's own CSV, Parquet and DuckDB files, and to
warehouses beside them.

Every file is a table named after it. CSV files are read once, whole (``sql_files``); every question has a
connection of its own, to which all files are read only, and which is locked before it is asked: it can
open no other file, load nothing, attach nothing and change no setting. Only what DuckDB itself understands
as one SELECT runs (``sql_gate``).

DuckDB runs in a process beside this one (``sql_child``), whose memory the kernel limits and which is ended
when a question takes too long. This process holds no more than the rows that are shown.
"""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from stepwell.agents.tools.base import Tool, ToolError
from stepwell.agents.tools.functions import from_function, in_thread
from stepwell.agents.tools.rows import Rows, show_rows
from stepwell.agents.tools.sql_files import PrivateFolder
from stepwell.agents.tools.sql_tables import DATABASES, PARQUET, PROGRESS, TABLES, FileTables
from stepwell.agents.tools.sql_wire import MOST_BYTES, read_row
from stepwell.agents.tools.warehouse import duckdb_path, open_warehouse
from stepwell.agents.tools.warehouses import Warehouses
from stepwell.agents.tools.workspace import Workspace
from stepwell.basics.line_child import LineChild, LineChildren
from stepwell.basics.this_machine import usable_cores
from stepwell.errors import MissingExtra

AT_ONCE = max(2, min(4, usable_cores()))
"""Questions that are answered at the same time by one program; each may hold ``limits.memory_bytes``."""
START_S = 30.0
"""What a tool's own timeout leaves beside the statement's, for reading files, for a process that starts on a
busy machine, and for ending it."""
KILL_S = 3.0
"""After the statement's time the child is ended from here, should it not have ended itself."""
READ_S = 600.0
"""For all files together, once."""
_PASSED_ON = ("HOME", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "PATH", "PYTHONPATH", "TMPDIR", "TZ", "TZDIR")
"""Of the environment: no keys and no passwords."""
_children = LineChildren(
    "stepwell.agents.tools.sql_child",
    AT_ONCE,
    # Each arena of the C library keeps room that counts as the question's.
    {name: os.environ[name] for name in _PASSED_ON if name in os.environ} | {"MALLOC_ARENA_MAX": "2"},
)


class _EndedError(Exception):
    """The child has ended or was ended, and why."""


class Database:
    """The person's data files as tables, read at the first question. Safe over threads."""

    def __init__(self, workspace: Workspace) -> None:
        kinds = (*TABLES, PARQUET, *DATABASES)
        paths = [path for path in workspace.files if path.suffix.lower() in kinds]
        found = [(address, duckdb_path(address)) for address in workspace.warehouses]
        self._databases = [Path(path) for _, path in found if path is not None]
        self._files = [*paths, *self._databases]
        away = [open_warehouse(address) for address, path in found if path is None]
        self._warehouses = Warehouses(away, workspace.limits.query_s)
        self._limits = workspace.limits
        self._lock = threading.Lock()
        self._folder: PrivateFolder | None = None
        self._tables: FileTables | None = None

    async def ask(self, statement: str, most_rows: int | None = None) -> Rows:
        """The rows of one read-only statement.

        ``ToolError``: several statements, one that is no question, DuckDB's own complaint in a line, or
        one that takes longer than ``limits.query_s`` or more memory than it may.
        """
        if len(statement) > self._limits.code_chars:
            raise ToolError(f"the statement is longer than {self._limits.code_chars} characters")
        return await in_thread(lambda: self._ask(statement, most_rows or self._limits.rows))

    async def describe(self) -> str:
        """Every table with its columns, their types and its number of rows, one a line."""
        return await in_thread(self._describe)

    def tables(self) -> FileTables:
        """What there is, read when first asked for. Raises ``ToolError``."""
        with self._lock:
            self._tables = self._tables or self._read()
            return self._tables

    def _ask(self, statement: str, most_rows: int) -> Rows:
        tables = self.tables()
        own = [view.name for view in tables.views]
        if (answer := self._warehouses.ask(statement, most_rows, own)) is not None:
            return answer
        order = {"do": "ask", "statement": statement, "most_rows": most_rows, "tables": tables.written()}
        try:
            said = self._ordered(order, self._limits.query_s)
            rows = tuple(read_row(json.loads(row)) for row in said["rows"])
            return Rows(tuple(said["columns"]), rows, said["count"], at_least=said["more"])
        except _EndedError as error:
            raise ToolError(f"the statement {error}") from None

    def _describe(self) -> str:
        tables = self.tables()
        lines: list[str] = []
        if tables.views:
            try:
                order = {"do": "describe", "tables": tables.written()}
                lines = self._ordered(order, self._limits.query_s)["lines"]
            except _EndedError as error:
                raise ToolError(f"the list of tables {error}") from None
        own = [view.name for view in tables.views]
        return (
            "\n".join([*lines, *self._warehouses.describe(own), *tables.notes, *tables.problems])
            or "There are no tables: no CSV, Parquet or DuckDB file and no warehouse was given."
        )

    def _read(self) -> FileTables:
        """A file at which the reader ends is left out, and the others are read again."""
        if importlib.util.find_spec("duckdb") is None:
            raise ToolError(str(MissingExtra("SQL", "analytics")))
        without: dict[int, str] = {}
        folder = self._folder = PrivateFolder()
        order = {
            "do": "read",
            "files": [str(path.absolute()) for path in self._files],
            "databases": [str(path.absolute()) for path in self._databases],
            "folder": str(folder.path),
        }
        while self._files:
            try:
                return FileTables.read(self._ordered({**order, "without": without}, READ_S))
            except _EndedError as error:
                number = _reached(folder.path)
                if number is None or number in without:
                    raise ToolError(f"reading the files {error}") from None
                without[number] = f"reading it {error}"
        return FileTables()

    def _ordered(self, order: Mapping[str, Any], limit_s: float) -> dict[str, Any]:
        """What the child says. Raises ``ToolError`` with its sentence, ``_EndedError``."""
        whole = {**order, "limit_s": limit_s, "memory_bytes": self._limits.memory_bytes}
        try:
            with _children.lent(limit_s + START_S) as child:
                said = _exchanged(child, json.dumps(whole).encode(), limit_s)
        except TimeoutError:
            raise ToolError("too many questions are being answered now: ask again") from None
        except (OSError, EOFError):
            raise ToolError("the process that answers questions does not start: ask again") from None
        if "error" in said:
            raise ToolError(said["error"])
        return said


def _reached(folder: Path) -> int | None:
    """The file at which the reader was, by number."""
    try:
        return int((folder / PROGRESS).read_text())
    except (OSError, ValueError):
        return None


def _exchanged(child: LineChild, order: bytes, limit_s: float) -> dict[str, Any]:
    try:
        said: dict[str, Any] = json.loads(child.ask(order, limit_s + KILL_S, 2 * MOST_BYTES))
    except TimeoutError:
        raise _EndedError(f"was ended after {limit_s:g} s") from None
    except EOFError:
        if child.close() == -signal.SIGALRM:
            raise _EndedError(f"was ended after {limit_s:g} s") from None
        raise _EndedError(
            "ended the process that answers it: it takes too much memory, or another program ended it"
        ) from None
    except (OverflowError, ValueError, RecursionError):
        raise _EndedError("has an answer that cannot be read") from None
    if said.pop("spent", True):
        child.close()
    return said


def shared_database(workspace: Workspace) -> Database:
    """One for all tools and agents of a workspace."""
    found = workspace.shared.setdefault("database", Database(workspace))
    assert isinstance(found, Database)
    return found


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
