"""The process that answers questions to files, one after another, each over a connection of its own.

DuckDB neither counts every value against its memory nor can it be interrupted within one, so memory is the
kernel's limit and time has an end that is none of DuckDB's. Run as a module it is the child of ``sql``: an
order a line on standard input, an answer a line back, both JSON.

Sources: setrlimit(2) (RLIMIT_DATA counts what is written to, not what is mapped), setitimer(2).
"""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from stepwell.agents.tools.base import ToolError
from stepwell.agents.tools.ended_after import ended_after
from stepwell.agents.tools.rows import plural
from stepwell.agents.tools.sql_gate import require_question
from stepwell.agents.tools.sql_names import name, quoted
from stepwell.agents.tools.sql_tables import OPTIONS, FilesReader, FileTables, TableView, limit, sentence
from stepwell.agents.tools.sql_wire import MOST_BYTES, written_row
from stepwell.agents.tools.warehouses import written_name
from stepwell.basics.line_child import IDLE_S, answer, questions, ready

if TYPE_CHECKING:
    import duckdb

COUNTED_ROWS = 1_000_000
BATCH_ROWS = 2_048
GRACE_S = 2.0
"""From DuckDB's interrupt to the end of the process."""
OWN_BYTES = 256 << 20
"""The interpreter, DuckDB itself and its threads, beside what a question may hold."""
MAPPED_BYTES = 1 << 30
"""Address space beside that: programs that are mapped and room that is only kept."""
READING_BYTES = 2 << 30
"""For reading a file once: one in another encoding is written anew whole."""
SPENT_BYTES = 256 << 20
"""A process that has ever held more is not asked again."""
_KIB = 1024


def do(order: Mapping[str, Any]) -> dict[str, Any]:
    """Whatever the order wants, or ``{"error": one sentence}``."""
    import duckdb

    try:
        return {"read": _read, "ask": _ask, "describe": _describe}[order["do"]](order)
    except duckdb.InterruptException:
        return {"error": f"the statement was ended after {order['limit_s']:g} s"}
    except MemoryError:
        return {"error": f"the statement takes more memory than {order['memory_bytes'] >> 20} MiB"}
    except (ToolError, duckdb.Error, RuntimeError, ValueError) as error:
        return {"error": str(error) if isinstance(error, ToolError) else sentence(error)}


def _read(order: Mapping[str, Any]) -> dict[str, Any]:
    reader = FilesReader(
        [Path(path) for path in order["files"]],
        [Path(path) for path in order["databases"]],
        Path(order["folder"]),
    )
    without = {int(number): why for number, why in order["without"].items()}
    return reader.read(order["memory_bytes"], without).written()


def _ask(order: Mapping[str, Any]) -> dict[str, Any]:
    statement = order["statement"]
    tables = FileTables.read(order["tables"])
    with connected(tables, order["memory_bytes"]) as connection:
        require_question(connection, statement, [view.name for view in tables.views])
        with ended_after(order["limit_s"], connection.interrupt):
            return _fetched(_execute(connection, statement), order["most_rows"])


def _describe(order: Mapping[str, Any]) -> dict[str, Any]:
    tables = FileTables.read(order["tables"])
    with connected(tables, order["memory_bytes"]) as connection:
        return {"lines": [_table_line(connection, view) for view in tables.views]}


@contextmanager
def connected(tables: FileTables, memory_bytes: int) -> Iterator[duckdb.DuckDBPyConnection]:
    """A new connection, locked, that sees every table and can change none of them."""
    import duckdb

    with duckdb.connect(":memory:", config=OPTIONS) as connection:
        limit(connection, memory_bytes)
        for alias, path in tables.attached.items():
            connection.execute(f"ATTACH {quoted(path)} AS {alias} (READ_ONLY)")
        for view in tables.views:
            connection.execute(f"CREATE VIEW {name(view.name)} AS SELECT * FROM {view.source}")
        connection.execute("SET allowed_paths = $paths", {"paths": tables.readable})
        connection.execute("SET enable_external_access = false")
        connection.execute("SET lock_configuration = true")
        yield connection


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


def _fetched(result: duckdb.DuckDBPyConnection, most_rows: int) -> dict[str, Any]:
    """The first rows, each as JSON, and how many there are as far as they are counted."""
    columns = [column[0] for column in result.description or ()]
    rows: list[str] = []
    size_bytes = 0
    while len(rows) < most_rows and (row := result.fetchone()):  # one by one: each may be large
        rows.append(written_row(row))
        size_bytes += len(rows[-1])
        if size_bytes > MOST_BYTES:
            raise ToolError(
                f"the answer is larger than {MOST_BYTES >> 20} MiB: ask for fewer columns or fewer rows"
            )
    count = len(rows)
    while count < COUNTED_ROWS and (more := result.fetchmany(BATCH_ROWS)):
        count += len(more)
    counted = {"count": min(count, COUNTED_ROWS), "more": count >= COUNTED_ROWS}
    return {"columns": columns, "rows": rows, **counted}


def _table_line(connection: duckdb.DuckDBPyConnection, view: TableView) -> str:
    import duckdb

    try:
        columns = connection.execute(f"DESCRIBE {name(view.name)}").fetchall()
        counted = connection.execute(f"SELECT count(*) FROM {name(view.name)}").fetchone()
    except duckdb.Error as error:
        return f"{view.name} cannot be read: {sentence(error)}"
    listed = ", ".join(f"{written_name(column[0])} {column[1]}" for column in columns)
    source = f", from {view.file}" if view.file else ""
    return f"{view.name} ({listed}): {plural(counted[0] if counted else 0)}{source}"


def _limit_memory(most_bytes: int) -> None:
    """The soft limits: the next order may have others."""
    for what, wanted in (
        (resource.RLIMIT_DATA, most_bytes),
        (resource.RLIMIT_AS, most_bytes + MAPPED_BYTES),
    ):
        hard = resource.getrlimit(what)[1]
        with suppress(ValueError, OSError):
            resource.setrlimit(what, (wanted if hard < 0 else min(wanted, hard), hard))


def main() -> None:
    """The child, until standard input ends or no question comes for long."""
    import duckdb  # noqa: F401 - before the first order, which has a limit of time

    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    answers = ready()
    for line in questions(IDLE_S):
        order = json.loads(line)
        more = READING_BYTES if order["do"] == "read" else 0
        _limit_memory(order["memory_bytes"] + OWN_BYTES + more)
        signal.setitimer(signal.ITIMER_REAL, order["limit_s"] + GRACE_S)  # whose signal ends the process
        done = do(order)
        signal.setitimer(signal.ITIMER_REAL, 0)
        held_bytes = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _KIB
        answer(answers, json.dumps({**done, "spent": held_bytes > SPENT_BYTES}).encode())


if __name__ == "__main__":
    main()
