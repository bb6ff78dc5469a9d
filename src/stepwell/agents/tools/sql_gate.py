"""Which statements may run: one SELECT, understood by DuckDB itself before it runs.

DuckDB says what it has read as a tree (``json_serialize_sql``, which refuses all but SELECT), so that one
parser decides and runs: a second parser could understand a text otherwise. In the tree only queries are
let through (PostgreSQL's WITH may hold an INSERT), and of functions that make tables only those that compute.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Iterator, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from stepwell.agents.tools.base import ToolError

if TYPE_CHECKING:
    import duckdb

_QUERIES = frozenset({"SELECT_NODE", "SET_OPERATION_NODE", "RECURSIVE_CTE_NODE", "CTE_NODE", "VALUES_NODE"})
_TABLE_FUNCTIONS = frozenset(
    {"unnest", "range", "generate_series", "repeat", "repeat_row", "json_each", "json_tree"}
)
_REFUSED = frozenset({"getenv", "current_setting", "query", "query_table", "nextval", "write_log"})
"""Functions of values that tell of the machine, or run text that was not checked."""
_GROWING = frozenset(
    {
        "array_resize", "format", "generate_series", "list_resize", "lpad", "printf", "range",
        "regexp_replace", "repeat", "replace", "rpad",
    }
)  # fmt: skip
"""Functions that make one value of any size, which DuckDB cannot be interrupted within. Where the numbers say
so a sentence tells more than the end of the process."""
MOST_GROWTH = 10_000_000
_TELLING = frozenset(
    {
        "duckdb_databases", "duckdb_extensions", "duckdb_logs", "duckdb_secrets", "duckdb_settings",
        "duckdb_views", "pg_prepared_statements", "pg_settings", "pg_tablespace", "pg_views",
        "pragma_database_list", "sqlite_master", "sqlite_schema", "sqlite_temp_master", "sqlite_temp_schema",
    }
)  # fmt: skip
"""DuckDB's views of itself that name settings or the folders of files."""
_NUMBERS = re.compile(r"[0-9]{1,18}", re.ASCII)
_SCHEMAS = frozenset({"information_schema", "pg_catalog"})
_LISTS = frozenset({"tables", "columns", "schemata", "pg_tables"})
"""Of these what lists tables and columns."""


def require_question(connection: duckdb.DuckDBPyConnection, statement: str, own: Sequence[str] = ()) -> None:
    """``ToolError`` with one sentence for anything but one SELECT (WITH, DESCRIBE, SUMMARIZE and SHOW are
    such). ``own``: the tables that are listed, which may have any name."""
    try:
        row = connection.execute("SELECT json_serialize_sql(?::VARCHAR)", [statement]).fetchone()
        assert row is not None
        tree = json.loads(row[0])
        nodes = list(_objects(tree))
    except RecursionError:
        raise ToolError("the statement is nested too deep") from None
    if tree["error"]:
        raise ToolError(_why(connection, statement, str(tree.get("error_message"))))
    if len(tree["statements"]) != 1:
        raise ToolError(f"one statement at a time, not {len(tree['statements'])}")
    streamed = {id(node["function"]) for node in nodes if node.get("type") == "TABLE_FUNCTION"}
    for node in nodes:
        _require_harmless(node)
        if id(node) not in streamed:
            _require_small(node)
    _require_tables(nodes, {name.lower() for name in own})


def _why(connection: duckdb.DuckDBPyConnection, statement: str, message: str) -> str:
    """For a text that is SQL but no SELECT, what it is; else DuckDB's own complaint."""
    if "Only SELECT" not in message:
        return " ".join(f"Parser Error: {message}".split())[:600]
    found = connection.extract_statements(statement)
    if len(found) != 1:
        return f"one statement at a time, not {len(found)}"
    kind = "PIVOT with columns that are not named" if found[0].type.name == "MULTI" else found[0].type.name
    return f"only questions are allowed (SELECT, WITH, DESCRIBE, SUMMARIZE), not {kind}"


def _objects(tree: Any) -> Iterator[dict[str, Any]]:
    """Every object of the tree, without recursion."""
    waiting = [tree]
    while waiting:
        node = waiting.pop()
        if isinstance(node, dict):
            yield node
            waiting += node.values()
        elif isinstance(node, list):
            waiting += node


def _require_harmless(node: dict[str, Any]) -> None:
    kind = str(node.get("type", ""))
    if kind.endswith("_NODE") and kind not in _QUERIES:
        word = kind.removesuffix("_NODE").removesuffix("_QUERY")
        raise ToolError(f"only questions are allowed, and this one holds {word}")
    if kind == "TABLE_FUNCTION":
        name = str(node["function"].get("function_name", "")).lower()
        if name not in _TABLE_FUNCTIONS:
            raise ToolError(f"{name}() cannot be asked here: only the tables that are listed can")
    elif str(node.get("function_name", "")).lower() in _REFUSED:
        raise ToolError(f"the function {node['function_name']}() is not allowed here")


def _require_small(node: dict[str, Any]) -> None:
    """What the numbers in the call, one inside the other, can come to. A number that comes from a column is
    not known here."""
    function = str(node.get("function_name", "")).lower()
    if function not in _GROWING:
        return
    constants = [_constant(inner) for inner in _objects(node) if inner.get("class") == "CONSTANT"]
    numbers = [one for one in constants if isinstance(one, float) and one > 0]
    if function in ("format", "printf"):
        texts = [one for one in constants if isinstance(one, str)]
        given = any("*" in text or ":{" in text for text in texts)  # the width is one of the numbers
        growth = max([*_widths(texts), *(numbers if given else ())], default=0.0)
    elif function in ("range", "generate_series"):  # from one number to another
        growth = max(numbers, default=0.0) - (min(numbers) if len(numbers) > 1 else 0.0)
    else:
        growth = math.prod(max(1.0, number) for number in numbers)
    if growth > MOST_GROWTH:
        raise ToolError(f"{function}() may make no value of more than {MOST_GROWTH:,} signs or items here")


def _constant(node: dict[str, Any]) -> float | str:
    """A number as how large it is, anything else as text. DuckDB's versions write constants in two ways."""
    written = node.get("literal") or node.get("value") or {}
    value = written.get("text", written.get("value"))
    is_text = written.get("kind") == "STRING" or ("literal" not in node and isinstance(value, str))
    if value is not None and not is_text:
        with suppress(TypeError, ValueError):
            return abs(float(value))
    return str(value)


def _widths(texts: Sequence[str]) -> list[float]:
    """Every number in a text is taken for one, such as in ``{:1000}``."""
    return [float(number) for text in texts for number in _NUMBERS.findall(text[:10_000])]


def _require_tables(nodes: Sequence[dict[str, Any]], own: set[str]) -> None:
    """Tables and views of the person's, not those in which DuckDB tells of itself."""
    for node in nodes:
        if node.get("type") != "BASE_TABLE":
            continue
        name, schema = (str(node.get(key) or "").lower() for key in ("table_name", "schema_name"))
        listed = (name in own and not schema) or name in _LISTS
        if not listed and (schema in _SCHEMAS or name in _TELLING):
            raise ToolError(f"{name} cannot be asked here: only the tables that are listed can")
