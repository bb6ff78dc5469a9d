"""BigQuery as far as it goes without Google: the SQL it is asked, the bounds it is asked with, its answers.

ibis' own compiler writes and reads the types; the backend that would send them is a stand-in.
"""

from __future__ import annotations

import sys
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ibis", reason="the extra 'warehouse' is not installed")

from stepwell.agents.tools.base import ToolError
from stepwell.agents.tools.warehouse import open_warehouse
from stepwell.agents.tools.warehouse_base import WarehouseError
from stepwell.agents.tools.warehouse_bigquery import MAX_BILLED_BYTES, BigQueryWarehouse
from stepwell.agents.tools.warehouses import Warehouses
from stepwell.agents.tools.workspace import WarehouseUrl
from stepwell.errors import MissingExtra


class Backend:
    """What of ibis' BigQuery backend is used."""

    def __init__(self) -> None:
        import ibis

        self.client = SimpleNamespace(default_query_job_config=SimpleNamespace())
        self.asked: list[str] = []
        self.fails: Exception | None = None
        self.schema = ibis.schema({"id": "int64", "Amount": "decimal(38, 9)", "at": "timestamp('UTC')"})

    def list_tables(self) -> list[str]:
        return ["orders"]

    def get_schema(self, name: str) -> Any:
        return {"orders": self.schema}[name]

    def sql(self, text: str) -> Any:
        self.asked.append(text)
        if self.fails is not None:
            raise self.fails
        return self

    def to_pyarrow_batches(self, chunk_size: int) -> Any:
        import pyarrow

        table = pyarrow.table({"id": [1, 2, None], "name": ["a", None, "c"]})
        return pyarrow.RecordBatchReader.from_batches(table.schema, table.to_batches(chunk_size))

    def disconnect(self) -> None:
        self.asked.append("disconnect")


@pytest.fixture
def backend() -> Backend:
    return Backend()


@pytest.fixture
def houses(backend: Backend) -> Warehouses:
    return Warehouses([BigQueryWarehouse("project", "shop", lambda project, dataset: backend)], 7.0)


def test_a_question_goes_out_in_its_dialect_and_within_bounds(houses: Warehouses, backend: Backend) -> None:
    rows = houses.ask("SELECT id::INT, strftime(at, '%Y') AS name FROM Orders WHERE amount > 1.5", 2, ())
    assert backend.asked == [
        "SELECT CAST(id AS INT64), FORMAT_DATE('%Y', `at`) AS name FROM `shop`.`orders` AS Orders "
        "WHERE `Amount` > 1.5"
    ]
    assert rows is not None
    assert (rows.columns, rows.rows, rows.count) == (("id", "name"), ((1, "a"), (2, None)), 3)
    config = backend.client.default_query_job_config
    assert (config.maximum_bytes_billed, config.job_timeout_ms) == (MAX_BILLED_BYTES, 7_000)


def test_tables_are_listed_with_their_types(houses: Warehouses) -> None:
    assert houses.describe(()) == ["orders (id int64, Amount decimal(38, 9), at timestamp('UTC'))"]


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("SELECT * FROM EXTERNAL_QUERY('c', 'q'), orders", "external_query asks other databases"),
        ("DELETE FROM orders WHERE true", "only questions are allowed"),
        ("EXPORT DATA OPTIONS (uri = 'gs://x') AS SELECT * FROM orders", "only questions|cannot be read"),
        ("SELECT * FROM secrets", "there is no table secrets"),
        ("SELECT * FROM other.orders", "there is no table orders"),
    ],
)
def test_what_may_not_be_asked_is_not_sent(
    statement: str, says: str, houses: Warehouses, backend: Backend
) -> None:
    with pytest.raises(ToolError, match=says):
        houses.ask(statement, 5, ())
    assert backend.asked == []


def test_what_google_says_is_one_sentence(houses: Warehouses, backend: Backend) -> None:
    backend.fails = RuntimeError("403 Query exceeded limit for bytes billed.\n\nLocation: EU\nJob ID: 1")
    with pytest.raises(ToolError) as caught:
        houses.ask("SELECT id FROM orders", 5, ())
    assert str(caught.value) == "bigquery://project/shop says: 403 Query exceeded limit for bytes billed"


def test_its_own_compiler_agrees_about_a_whole_table() -> None:
    """What ibis would compile for a table of this schema is what we write, but for the alias."""
    import ibis
    from ibis.backends.sql.compilers.bigquery import BigQueryCompiler

    from stepwell.agents.tools.dialects import select_all

    table = ibis.table({"id": "int64"}, name="Big Table", database="shop")
    compiled = BigQueryCompiler().to_sqlglot(table).sql("bigquery")
    assert compiled.replace(" AS `t0`", "") == select_all("bigquery", "shop", "Big Table")


def test_without_googles_packages_it_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "google.cloud.bigquery", None)
    house = open_warehouse(WarehouseUrl("bigquery://project/shop"))
    with pytest.raises(MissingExtra, match="extra 'bigquery'"):
        house.tables()


def test_it_lets_go(backend: Backend) -> None:
    house = BigQueryWarehouse("project", "shop", lambda project, dataset: backend)
    house.close()
    assert backend.asked == []
    house.tables()
    house.close()
    assert backend.asked == ["disconnect"]


def test_an_error_is_told_as_ours(backend: Backend) -> None:
    backend.fails = ValueError("no")
    house = BigQueryWarehouse("project", "shop", lambda project, dataset: backend)
    with pytest.raises(WarehouseError, match="says: no"), house.read("SELECT 1", 1.0, 1):
        pass
