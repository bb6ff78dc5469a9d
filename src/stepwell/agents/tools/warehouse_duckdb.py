"""A DuckDB file as a warehouse, in process.

Not through ibis: its DuckDB backend calls functions that DuckDB 2.0 no longer has.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from stepwell.agents.tools.dialects import one_line
from stepwell.agents.tools.ended_after import ended_after
from stepwell.agents.tools.warehouse_base import MAX_TABLES, Batches, WarehouseError, WarehouseTable, distinct
from stepwell.errors import MissingExtra

OPTIONS = {
    "enable_external_access": "false",
    "autoinstall_known_extensions": "false",
    "lock_configuration": "true",
}


class DuckdbWarehouse:
    """See ``Warehouse``. The file is opened for each question: its owner is not locked out for long."""

    dialect = "duckdb"

    def __init__(self, path: str) -> None:
        self._path = Path(path)
        self.shown = f"duckdb:///{path}"

    def tables(self) -> list[WarehouseTable]:
        """See ``Warehouse``."""
        with self._connected() as connection:
            found = connection.execute(
                "SELECT schema_name, table_name, list(column_name ORDER BY column_index), "
                "list(data_type ORDER BY column_index) FROM duckdb_columns() WHERE NOT internal "
                f"GROUP BY ALL ORDER BY ALL LIMIT {MAX_TABLES}"
            ).fetchall()
        return [
            WarehouseTable(schema, name, tuple(zip(columns, types, strict=True)), by_name=schema == "main")
            for schema, name, columns, types in found
        ]

    @contextmanager
    def read(self, sql: str, limit_s: float, batch_rows: int) -> Iterator[Batches]:
        """See ``Warehouse``."""
        import duckdb

        with self._connected() as connection:
            try:
                with ended_after(limit_s, connection.interrupt):
                    reader = connection.sql(sql).to_arrow_reader(batch_rows)
                    yield Batches(_renamed(reader.schema), _batches(reader))
            except duckdb.InterruptException:
                raise WarehouseError(f"the statement was ended after {limit_s:g} s") from None

    def close(self) -> None:
        """Nothing is kept open."""

    @contextmanager
    def _connected(self) -> Iterator[Any]:
        try:
            import duckdb
        except ImportError:
            raise MissingExtra("a DuckDB file", "analytics") from None
        if not self._path.is_file():
            raise WarehouseError(f"there is no DuckDB file {self._path}")
        try:
            with duckdb.connect(str(self._path), read_only=True, config=dict(OPTIONS)) as connection:
                yield connection
        except duckdb.Error as error:
            raise WarehouseError(f"DuckDB says: {one_line(error)}") from None


def _renamed(schema: Any) -> Any:
    import pyarrow

    names = distinct(schema.names)
    return pyarrow.schema([field.with_name(name) for field, name in zip(schema, names, strict=True)])


def _batches(reader: Any) -> Iterator[Any]:
    names = distinct(reader.schema.names)
    for batch in reader:
        yield batch.rename_columns(names)
