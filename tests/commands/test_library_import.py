"""``stepwell library import``: tables of a real PostgreSQL and of a DuckDB file become documents."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, date, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("ibis", reason="the extra 'warehouse' is not installed")
pytest.importorskip("duckdb")

from tests.agents.tools.warehouses import QUOTED, Shop, running_shop
from tests.server.libraries import library_node

from stepwell import cli
from stepwell.commands.library.places import fetched, local_place

Import = Callable[..., tuple[int, Any]]


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with running_shop() as running:
        yield running


@pytest.fixture
def library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for name in ("OPENAI_API_KEY", "STEPWELL_CONFIG", "STEPWELL_WAREHOUSE"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "library"


@pytest.fixture
def run(library: Path, tmp_path: Path) -> Import:
    """Runs it; gives the exit code and the JSON."""
    result = tmp_path / "result.json"

    def command(*tokens: str, verb: str = "import") -> tuple[int, Any]:
        result.unlink(missing_ok=True)
        code = cli.run(["library", verb, *tokens, "--dir", str(library), "--json", str(result)])
        return code, json.loads(result.read_text()) if result.exists() else None

    return command


def rows(library: Path, name: str, folder: Path) -> tuple[dict[str, str], list[tuple[Any, ...]]]:
    """Types and rows of an imported table, as DuckDB reads the file that is kept."""
    import duckdb
    from pyarrow import parquet

    (path,) = fetched(local_place(library), [name], folder)
    with duckdb.connect() as connection:
        kinds = connection.execute(f"DESCRIBE FROM '{path}'").fetchall()
    kept = [tuple(row.values()) for row in parquet.read_table(path).to_pylist()]
    return {kind[0]: kind[1] for kind in kinds}, kept


def test_a_table_keeps_its_values_and_types(shop: Shop, run: Import, library: Path, tmp_path: Path) -> None:
    code, made = run(shop.url, "--table", "orders", "--table", "other.single")
    assert (code, made["rows"], made["failed"]) == (0, 102, 0)
    assert [file["filename"] for file in made["files"]] == ["orders.parquet", "other.single.parquet"]
    kinds, kept = rows(library, "orders.parquet", tmp_path)
    assert kinds == {
        "id": "BIGINT", "the note": "VARCHAR", "Amount": "DECIMAL(10,2)", "free": "DECIMAL(38,9)",
        "at": "TIMESTAMP WITH TIME ZONE", "seen": "TIMESTAMP", "day": "DATE", "clock": "TIME",
        "what": "VARCHAR", "key": "VARCHAR", "list": "VARCHAR", "span": "VARCHAR", "bytes": "BLOB",
        "ok": "BOOLEAN", "small": "SMALLINT", "share": "FLOAT",
    }  # fmt: skip
    assert len(kept) == 101
    first = dict(zip(kinds, kept[0], strict=True))
    assert (first["Amount"], first["free"]) == (Decimal("1.50"), Decimal("0.142857143"))
    assert first["at"] == datetime(2026, 1, 1, 5, tzinfo=UTC)
    assert (first["day"], first["what"], first["list"]) == (date(2026, 1, 3), '{"a": [1, null]}', "{1,2}")
    assert kept[-1] == (9223372036854775807, *[None] * 15)


@pytest.mark.parametrize(("table", "columns", "count"), [("empty", 2, 0), ("wide", 600, 1), ("recent", 2, 3)])
def test_empty_and_wide_tables_and_views(
    table: str, columns: int, count: int, shop: Shop, run: Import, library: Path, tmp_path: Path
) -> None:
    code, made = run(shop.url, "--table", table)
    assert (code, made["rows"]) == (0, count)
    kinds, kept = rows(library, f"{table}.parquet", tmp_path)
    assert (len(kinds), len(kept)) == (columns, count)


def test_a_million_rows_are_kept_whole_and_their_text_is_cut(
    shop: Shop, run: Import, library: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, made = run(shop.url, "--table", "Big Table")
    assert (code, made["rows"]) == (0, 1_000_000)
    assert made["files"][0]["status_details"] == "of its text the first 4,000,000 characters are kept"
    assert "1 of 1 tables imported: 1,000,000 rows, " in capsys.readouterr().out
    _, kept = rows(library, "Big Table.parquet", tmp_path)
    assert sum(row[0] for row in kept) == 500_000_500_000


def test_a_query_in_duckdb_sql_becomes_a_table(
    shop: Shop, run: Import, library: Path, tmp_path: Path
) -> None:
    columns = "strftime(at, '%Y') AS year, sum(amount) AS total, 1 AS total"
    query = f"SELECT {columns} FROM orders GROUP BY 1 ORDER BY 1"
    code, _ = run(shop.url, "--query", query, "--name", "a/../years")
    assert code == 0
    kinds, kept = rows(library, "a_.._years.parquet", tmp_path)
    assert list(kinds) == ["year", "total", "total_2"]
    assert kept == [("2026", Decimal("7575"), 1), (None, None, 1)]


@pytest.mark.parametrize(
    ("tokens", "says"),
    [
        (["--table", "ordrs"], "there is no table ordrs in the warehouse: did you mean orders?"),
        (["--table", "hidden"], "there is no table hidden in the warehouse"),
        (["--query", "DELETE FROM orders"], "only questions are allowed"),
        (["--query", "SELECT * FROM nowhere"], "there is no table nowhere"),
        (["--query", "SELECT 1"], "asks no table of the warehouse"),
        (["--query", "SELECT nope FROM orders"], 'column "nope" does not exist'),
        (["--query", "SELECT at FROM infinite"], "timestamp too large"),
        (["--table", "orders", "--max-rows", "100"], "more than 100 rows"),
        (["--table", "Big Table", "--max-bytes", "10KiB"], "larger than 10 KiB"),
        (["--table", "orders", "--max-bytes", "x"], "--max-bytes or --timeout"),
        (["--table", "orders", "--max-rows", "0"], "--max-rows must be at least 1"),
        (["--table", "orders", "--table", "empty", "--name", "x"], "--name is for one table"),
        ([], "say what to import"),
        (["--table", "orders", "--query", "SELECT 1"], "say what to import"),
        (["--query", "SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e",
          "--timeout", "500ms"], "was ended after 0.5 s"),
    ],
)  # fmt: skip
def test_what_cannot_be_imported_is_one_sentence(
    tokens: list[str], says: str, shop: Shop, run: Import, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _ = run(shop.url, *tokens)
    assert code in (1, 2)
    error = capsys.readouterr().err
    assert says in error
    assert error.count("\n") == 1
    assert "hunter2" not in error
    assert run(verb="list")[1] == {"files": []}


def test_one_bad_table_leaves_the_others(shop: Shop, run: Import, capsys: pytest.CaptureFixture[str]) -> None:
    code, made = run(shop.url, "--table", "infinite", "--table", "recent")
    assert (code, made["failed"], [file["filename"] for file in made["files"]]) == (1, 1, ["recent.parquet"])
    said = capsys.readouterr()
    assert "infinite.parquet: PostgreSQL says: timestamp too large" in said.err
    assert "1 of 2 tables imported: 3 rows, " in said.out


def test_the_url_may_come_from_the_environment_and_is_never_shown(
    run: Import, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPWELL_WAREHOUSE", f"postgresql://reader:{QUOTED}@127.0.0.1:1/shop")
    assert run("--table", "orders")[0] == 2
    said = capsys.readouterr()
    assert "postgresql://127.0.0.1:1/shop cannot be asked" in said.err
    assert "hunter2" not in said.out + said.err


def test_into_a_servers_library_from_a_duckdb_file(tmp_path: Path, library: Path) -> None:
    import duckdb

    with duckdb.connect(str(tmp_path / "shop.duckdb")) as connection:
        connection.execute("CREATE TABLE orders AS SELECT range AS id, 2 AS id_2 FROM range(5)")
    with library_node(library) as server:
        url = f"duckdb:///{tmp_path / 'shop.duckdb'}"
        assert cli.run(["library", "import", url, "--table", "orders", "--server", server.base_url]) == 0
    kinds, kept = rows(library, "orders.parquet", tmp_path)
    assert (list(kinds), len(kept)) == (["id", "id_2"], 5)
