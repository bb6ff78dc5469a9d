"""Tables of a warehouse: PostgreSQL and BigQuery by URL through ibis, a DuckDB file in process.

Asked in place by the tools ``sql`` and ``tables``, read only, or read out as Arrow batches by
``stepwell library import``.
"""

from __future__ import annotations

from urllib.parse import unquote

from stepwell.agents.tools.warehouse_base import Warehouse, parts, require_arrow
from stepwell.agents.tools.workspace import WarehouseUrl


def open_warehouse(address: WarehouseUrl) -> Warehouse:
    """Connects at the first question, not here.

    Raises ``BadInput`` for a URL of another kind, ``MissingExtra`` without ibis.
    """
    url = parts(address)
    require_arrow()
    if url.scheme == "duckdb":
        from stepwell.agents.tools.warehouse_duckdb import DuckdbWarehouse

        return DuckdbWarehouse(duckdb_path(address) or "")
    if url.scheme == "bigquery":
        from stepwell.agents.tools.warehouse_bigquery import BigQueryWarehouse

        return BigQueryWarehouse(url.netloc, url.path.strip("/"))
    from stepwell.agents.tools.warehouse_postgres import PostgresWarehouse

    return PostgresWarehouse(url)


def duckdb_path(address: WarehouseUrl) -> str | None:
    """The file of a ``duckdb://`` URL; None for another kind."""
    url = parts(address)
    if url.scheme != "duckdb":
        return None
    path = unquote(url.netloc + url.path)
    # Three strokes are a path from here, four one from the root, as in the URLs of SQLAlchemy and ibis.
    return path.removeprefix("/") if not url.netloc else path
