"""BigQuery through ibis. What a statement may read is bounded, since Google bills by it."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cached_property
from typing import Any

from stepwell.agents.tools.dialects import called_names, one_line
from stepwell.agents.tools.warehouse_base import MAX_TABLES, Batches, WarehouseError, WarehouseTable, distinct
from stepwell.errors import BadInput, MissingExtra, StepwellError

MAX_BILLED_BYTES = 1 << 30
"""Of one statement: BigQuery refuses it before it runs when it would read more."""
REFUSED = frozenset({"external_query"})
"""Functions that ask other databases."""


class BigQueryWarehouse:
    """See ``Warehouse``. Credentials are Google's own (application default), never in the URL."""

    dialect = "bigquery"

    def __init__(self, project: str, dataset: str, connect: Callable[[str, str], Any] | None = None) -> None:
        """``connect`` (project, dataset) gives ibis' backend."""
        if not project or not dataset or "/" in dataset:
            raise BadInput("a BigQuery warehouse is written bigquery://project/dataset")
        self._project, self._dataset = project, dataset
        self._connect = connect or connect_by_ibis
        self.shown = f"bigquery://{project}/{dataset}"

    def tables(self) -> list[WarehouseTable]:
        """See ``Warehouse``."""
        with self._told():
            names = sorted(self._backend.list_tables())[:MAX_TABLES]
            return [WarehouseTable(self._dataset, name, self._columns(name)) for name in names]

    @contextmanager
    def read(self, sql: str, limit_s: float, batch_rows: int) -> Iterator[Batches]:
        """See ``Warehouse``."""
        if refused := REFUSED.intersection(called_names(sql, self.dialect)):
            raise WarehouseError(f"the function {min(refused)} asks other databases: not allowed here")
        with self._told():
            config = self._backend.client.default_query_job_config
            config.maximum_bytes_billed = MAX_BILLED_BYTES
            config.job_timeout_ms = int(limit_s * 1000)
            reader = self._backend.sql(sql).to_pyarrow_batches(chunk_size=batch_rows)
            names = distinct(reader.schema.names)
            schema = reader.schema.empty_table().rename_columns(names).schema
            yield Batches(schema, (batch.rename_columns(names) for batch in reader))

    def close(self) -> None:
        """See ``Warehouse``."""
        if "_backend" in self.__dict__:
            self._backend.disconnect()

    @cached_property
    def _backend(self) -> Any:
        return self._connect(self._project, self._dataset)

    def _columns(self, name: str) -> tuple[tuple[str, str], ...]:
        schema = self._backend.get_schema(name)
        return tuple((column, str(kind)) for column, kind in schema.items())

    @contextmanager
    def _told(self) -> Iterator[None]:
        """What Google's packages and ibis raise has no common root of its own."""
        try:
            yield
        except StepwellError:
            raise
        except Exception as error:
            raise WarehouseError(f"{self.shown} says: {one_line(error)}") from error


def connect_by_ibis(project: str, dataset: str) -> Any:
    """ibis' backend. Raises ``MissingExtra``."""
    import ibis

    try:
        return ibis.bigquery.connect(project_id=project, dataset_id=dataset)
    except ImportError:
        raise MissingExtra("BigQuery", "bigquery") from None
