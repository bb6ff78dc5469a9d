"""Which warehouse a question is for, and its answer as rows."""

from __future__ import annotations

import difflib
import threading
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from decimal import Decimal
from typing import Any

from stepwell.agents.tools.base import ToolError
from stepwell.agents.tools.dialects import Naming, Question, TableRef, understood
from stepwell.agents.tools.rows import Rows
from stepwell.agents.tools.warehouse_base import BATCH_ROWS, Warehouse, WarehouseError, WarehouseTable, values

COUNTED_ROWS = 10_000
"""More are not fetched only to be counted."""
SHOWN_TABLES = 200
SHOWN_COLUMNS = 60


@dataclass(frozen=True, slots=True)
class _Opened:
    """A warehouse and what it said it has."""

    house: Warehouse
    tables: Sequence[WarehouseTable]

    def find(self, ref: TableRef) -> WarehouseTable | None:
        """The table that is meant: as it is written, or else whatever the case of its letters."""
        named = [table for table in self.tables if _is_meant(table, ref)]
        exact = [t for t in named if t.name == ref.name] or named
        first = [t for t in exact if t.by_name] or exact
        return first[0] if len(first) == 1 or (first and first[0].by_name) else None

    def table(self, ref: TableRef) -> WarehouseTable:
        """As ``find``, for a name that it has found."""
        table = self.find(ref)
        assert table is not None
        return table

    def written(self, question: Question) -> str:
        """The question in the warehouse's own dialect. Raises ``ToolError``."""
        return question.written(self.house.dialect, lambda ref: _naming(self.table(ref)))


class Warehouses:
    """All that a run may ask. Asked for their tables once, at the first question. Safe over threads."""

    def __init__(self, houses: Sequence[Warehouse], query_s: float) -> None:
        self._houses = houses
        self._query_s = query_s
        self._lock = threading.Lock()
        self._opened: dict[str, _Opened] = {}

    def ask(self, statement: str, most_rows: int, own: Collection[str]) -> Rows | None:
        """The answer, or None where the statement is for the person's own files, whose tables ``own`` names.

        Raises ``ToolError`` with one sentence.
        """
        if not self._houses:
            return None
        try:
            question = self._understood(statement)
        except ToolError:
            if own:
                return None  # DuckDB may understand it, or says better why not
            raise
        if question.lists_tables:
            names = [*own, *(listed_name(table) for one in self._all() for table in one.tables)]
            return Rows(("name",), tuple((name,) for name in names[:SHOWN_TABLES]), len(names))
        opened = self._holder(question, own)
        if opened is None:
            return None
        if question.described:
            columns = opened.table(question.tables[0]).columns
            return Rows(("column_name", "column_type"), tuple(columns), len(columns))
        try:
            return rows_of(opened.house, opened.written(question), self._query_s, most_rows)
        except WarehouseError as error:
            raise ToolError(str(error)) from None

    def plan(self, statement: str) -> tuple[Warehouse, str]:
        """Which warehouse to ask, and what, in its own dialect. Raises ``ToolError``."""
        question = self._understood(statement)
        opened = self._holder(question, ())
        if opened is None or question.described:
            raise ToolError("the statement asks no table of the warehouse")
        return opened.house, opened.written(question)

    def tables(self) -> list[tuple[Warehouse, WarehouseTable]]:
        """Everything that may be asked. Raises ``ToolError`` when no warehouse answers."""
        return [(one.house, table) for one in self._all() for table in one.tables]

    def close(self) -> None:
        """Lets go of all connections."""
        for house in self._houses:
            house.close()

    def _understood(self, statement: str) -> Question:
        dialects = {house.dialect for house in self._houses}
        return understood(statement, dialects.pop() if len(dialects) == 1 else None)

    def _holder(self, question: Question, own: Collection[str]) -> _Opened | None:
        """What has all tables of the question; None: the files have, or DuckDB says better what is wrong."""
        refs, mine = question.tables, {name.lower() for name in own}
        if all(not ref.schema and ref.name.lower() in mine for ref in refs):
            return None
        opened = self._all()
        holding = [one for one in opened if all(one.find(ref) for ref in refs)]
        if not holding:
            _explain(refs, opened, mine)
            return None
        if len(holding) > 1:
            names = ", ".join(one.house.shown for one in holding)
            raise ToolError(f"{refs[0].name} is in more than one warehouse ({names}): write schema.table")
        return holding[0]

    def describe(self, own: Collection[str]) -> list[str]:
        """A line for each table, and a sentence for each warehouse that cannot be asked."""
        lines: list[str] = []
        taken = {name.lower() for name in own}
        for house in self._houses:
            try:
                tables = self._open(house).tables
            except WarehouseError as error:
                lines.append(str(error))
                continue
            lines += [_line(table, taken) for table in tables[:SHOWN_TABLES]]
            taken |= {table.name.lower() for table in tables if table.by_name}
            if len(tables) > SHOWN_TABLES:
                lines.append(f"... and {len(tables) - SHOWN_TABLES} more tables in {house.shown}")
        return lines

    def _all(self) -> list[_Opened]:
        """Those that answer. Raises ``ToolError`` when none does."""
        opened: list[_Opened] = []
        problem = ""
        for house in self._houses:
            try:
                opened.append(self._open(house))
            except WarehouseError as error:
                problem = problem or str(error)
        if not opened:
            raise ToolError(problem)
        return opened

    def _open(self, house: Warehouse) -> _Opened:
        with self._lock:
            if house.shown not in self._opened:
                self._opened[house.shown] = _Opened(house, house.tables())
            return self._opened[house.shown]


def rows_of(house: Warehouse, sql: str, limit_s: float, most_rows: int) -> Rows:
    """The first rows, and how many there are as far as ``COUNTED_ROWS``. Raises ``WarehouseError``."""
    kept: list[tuple[Any, ...]] = []
    count = 0
    with house.read(sql, limit_s, BATCH_ROWS) as found:
        for batch in found.batches:
            if len(kept) < most_rows:
                kept += values(batch)[: most_rows - len(kept)]
            count += batch.num_rows
            if count > COUNTED_ROWS:
                break
        columns = tuple(found.schema.names)
    shown = tuple(tuple(map(_plain, row)) for row in kept)
    return Rows(columns, shown, min(count, COUNTED_ROWS), at_least=count > COUNTED_ROWS)


def _explain(refs: Sequence[TableRef], opened: Sequence[_Opened], own: Collection[str]) -> None:
    """Raises ``ToolError`` with the reason, unless it is one that DuckDB tells better."""
    away = [ref for ref in refs if any(one.find(ref) for one in opened)]
    unknown = [ref for ref in refs if ref not in away and ref.name.lower() not in own]
    if unknown and not unknown[0].schema.startswith("file_"):
        known = sorted({*own, *(table.name for one in opened for table in one.tables)})
        near = difflib.get_close_matches(unknown[0].name, known, 1)
        meant = f"did you mean {written_name(near[0])}?" if near else "call tables to see what there is"
        raise ToolError(f"there is no table {unknown[0].name}: {meant}")
    if away:
        raise ToolError(
            "one statement asks one warehouse or the files, not both: ask each, and combine the answers"
        )


def _naming(table: WarehouseTable) -> Naming:
    return Naming(table.schema, table.name, tuple(name for name, _ in table.columns))


def listed_name(table: WarehouseTable) -> str:
    """With its schema where the name alone does not find it."""
    return table.name if table.by_name else f"{table.schema}.{table.name}"


def _line(table: WarehouseTable, taken: Collection[str]) -> str:
    name = written_name(table.name)
    if not table.by_name or table.name.lower() in taken:
        name = f"{written_name(table.schema)}.{name}"
    columns = [f"{written_name(column)} {kind}" for column, kind in table.columns[:SHOWN_COLUMNS]]
    more = len(table.columns) - SHOWN_COLUMNS
    listed = ", ".join([*columns, f"and {more} more columns"] if more > 0 else columns)
    return f"{name} ({listed})" + ("" if table.rows is None else f": about {table.rows} rows")


def written_name(name: str) -> str:
    """As a statement has to write it."""
    plain = name.isascii() and name.isidentifier()
    return name if plain else '"' + name.replace('"', '""') + '"'


def _is_meant(table: WarehouseTable, ref: TableRef) -> bool:
    schema = ref.schema.lower() in ("", table.schema.lower())
    return schema and table.name.lower() == ref.name.lower()


def _plain(value: Any) -> Any:
    """Without the noughts that a wide decimal type adds."""
    if not isinstance(value, Decimal) or not value.is_finite() or "." not in str(value):
        return value
    text = f"{value:f}".rstrip("0").rstrip(".")
    return text or "0"
