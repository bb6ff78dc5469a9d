"""Agents ask a real PostgreSQL in place: read only, within limits, and no password anywhere."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

pytest.importorskip("ibis", reason="the extra 'warehouse' is not installed")

from stepwell.agents.tools import Limits, ToolResult, Workspace, build_tools, run_tool
from stepwell.agents.tools.warehouse import open_warehouse
from stepwell.agents.tools.warehouse_base import Warehouse, WarehouseError
from stepwell.agents.tools.workspace import WarehouseUrl
from stepwell.errors import BadInput, MissingExtra
from tests.agents.tools.warehouses import PASSWORD, QUOTED, Shop, running_shop


@pytest.fixture(scope="module")
def shop() -> Iterator[Shop]:
    with running_shop() as running:
        yield running


@pytest.fixture(scope="module")
def workspace(shop: Shop, tmp_path_factory: pytest.TempPathFactory) -> Workspace:
    folder = tmp_path_factory.mktemp("work")
    (folder / "months.csv").write_text("month,name\n1,January\n")
    url = WarehouseUrl(shop.url)
    return Workspace(folder, (folder / "months.csv",), limits=Limits(rows=3, query_s=2.0), warehouses=(url,))


def call(name: str, workspace: Workspace, **arguments: str) -> ToolResult:
    return asyncio.run(run_tool(build_tools([name], workspace)[0], arguments))


def sql(query: str, workspace: Workspace) -> ToolResult:
    return call("sql", workspace, query=query)


def test_tables_lists_what_may_be_read_beside_the_files(workspace: Workspace) -> None:
    lines = call("tables", workspace).text.splitlines()
    assert lines[0] == "months (month BIGINT, name VARCHAR): 1 row"
    assert lines[1] == '"Big Table" (n integer): about 1000000 rows'
    assert lines[2] == "empty (x integer, y text): about 0 rows"
    assert lines[4].startswith('orders (id bigint, "the note" text, Amount numeric(10,2), free numeric, at ')
    assert lines[5] == "recent (id bigint, Amount numeric(10,2))"
    assert lines[6].startswith("wide (c0 integer")
    assert lines[6].endswith("c59 integer, and 540 more columns): about 1 rows")
    assert lines[7:] == ["other.orders (x integer): about 0 rows", "other.single (x integer): about 1 rows"]
    assert not any("hidden" in line or "pg_" in line for line in lines)


@pytest.mark.parametrize(
    ("query", "row"),
    [
        ("SELECT count(*) FROM orders", "| 101 |"),
        ("SELECT max(id) FROM Orders", "| 9223372036854775807 |"),
        ("SELECT AMOUNT, \"the note\" FROM orders WHERE amount > 10 ORDER BY id", "| 10.5 | x\\|7 |"),
        ("SELECT at, seen, day, clock FROM orders WHERE id = 1",
         "| 2026-01-01 05:00:00+00:00 | 2026-01-02 03:04:05.678000 | 2026-01-03 | 10:11:00 |"),
        ("SELECT what, key, list, span FROM orders WHERE id = 1",
         '| {"a": [1, null]} | 00000000-0000-4000-8000-000000000001 | {1,2} | 1 day |'),
        ("SELECT free, ok, small, share, bytes FROM orders WHERE id = 7",
         "| 1 | False | 7 | 0.5 | b'\\x00\\xff' |"),
        ("SELECT id, amount, at, what, list FROM orders WHERE amount IS NULL",
         "| 9223372036854775807 | NULL | NULL | NULL | NULL |"),
        ('SELECT sum(n) FROM "Big Table"', "| 500000500000 |"),
        ("SELECT strftime(at, '%Y-%m') AS month, median(small) FROM orders WHERE id < 100 GROUP BY 1",
         "| 2026-01 | 50.0 |"),
        ("SELECT o.id FROM recent r JOIN orders o ON o.id = r.id WHERE o.id = 99", "| 99 |"),
        ("SELECT x FROM other.single", "| 7 |"),
        ("SELECT x FROM single", "| 7 |"),
        ("SELECT 1 AS a, 2 AS a FROM recent LIMIT 1", "| 1 | 2 |"),
        ("SELECT 10 % 3 AS m, '%s' AS p FROM recent LIMIT 1", "| 1 | %s |"),
        ("SELECT c599 FROM wide", "| 599 |"),
        ("DESCRIBE recent", "| Amount | numeric(10,2) |"),
        ("SELECT name FROM months", "| January |"),
        ("SHOW TABLES", "| months |"),
        ("SELECT random() >= 0 AS r FROM recent LIMIT 1", "| True |"),
    ],
)  # fmt: skip
def test_questions_in_duckdb_sql_are_answered_by_postgresql(
    query: str, row: str, workspace: Workspace
) -> None:
    answer = sql(query, workspace)
    assert answer.ok, answer.text
    assert row in answer.text.splitlines()


def test_counts_end_where_fetching_them_would_take_long(workspace: Workspace) -> None:
    assert sql('SELECT * FROM "Big Table"', workspace).text.endswith(
        "more than 10000 rows, the first 3 shown"
    )
    assert sql("SELECT id FROM orders", workspace).text.endswith("101 rows, the first 3 shown")
    assert sql("SELECT * FROM empty", workspace).text == "0 rows (columns: x, y)"


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT * FROM ordrs", "there is no table ordrs: did you mean orders?"),
        ("SELECT * FROM big_table", 'did you mean "Big Table"?'),
        ("SELECT * FROM hidden", "there is no table hidden"),
        ("SELECT * FROM pg_authid", "there is no table pg_authid"),
        ("SELECT * FROM pg_catalog.pg_shadow, orders", "there is no table pg_shadow"),
        ("WITH pg_authid AS (SELECT * FROM pg_authid) SELECT * FROM pg_authid", "pg_authid"),
        ("SELECT * FROM pg_authid, (WITH pg_authid AS (SELECT 1) SELECT * FROM pg_authid) q", "pg_authid"),
        ("SELECT * FROM months JOIN orders ON true", "one warehouse or the files, not both"),
        ("SELECT nope FROM orders", 'PostgreSQL says: column "nope" does not exist'),
        ("SELECT 1 / 0 FROM orders", "PostgreSQL says: division by zero"),
        ("SELECT count(*) FROM orders a, orders b, orders c, orders d, orders e", "was ended after 2 s"),
        ("DELETE FROM orders", "only questions are allowed"),
        ("WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone", "holds DELETE"),
        ("SELECT pg_read_file('/etc/passwd') FROM orders", "the function pg_read_file may change things"),
        ("SELECT set_config('transaction_read_only', 'off', true) FROM orders", "the function set_config"),
        (
            "SELECT query_to_xml('TABLE orders', true, true, '') FROM orders",
            "the function query_to_xml",
        ),
        ("SELECT table_to_xml('pg_authid', true, true, '') FROM orders", "the function table_to_xml"),
        ("SELECT harmful() FROM orders", "the function harmful"),
        ("SELECT pg_sleep(100) FROM orders", "the function pg_sleep"),
        ("SELECT at FROM infinite", "PostgreSQL says: timestamp too large"),
        ("SELECT number FROM infinite", "column number holds values that do not fit decimal128(38, 9)"),
        ("SELECT huge FROM infinite", "column huge holds values that do not fit"),
    ],
)
def test_what_cannot_be_asked_is_one_sentence(query: str, says: str, workspace: Workspace) -> None:
    answer = sql(query, workspace)
    assert not answer.ok
    assert says in answer.text
    assert "\n" not in answer.text
    assert sql("SELECT count(*) FROM orders", workspace).ok, "the next question is answered"


def test_a_statement_that_slips_through_changes_nothing(shop: Shop) -> None:
    """As the owner of everything, and without the checks before: the transaction itself is read only."""
    house = open_warehouse(WarehouseUrl(shop.server.url("shop")))
    for statement, says in {
        "SELECT * FROM (DELETE FROM orders RETURNING *) x": "syntax error",
        "WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone": "must be at the top level",
        "SELECT lo_creat(1)": "the function lo_creat",
        "SELECT sly()": "cannot execute DELETE in a read-only transaction",
    }.items():
        with pytest.raises(WarehouseError, match=says), house.read(statement, 5.0, 10) as found:
            list(found.batches)
    assert shop.rows("SELECT count(*) FROM orders") == [(101,)]
    house.close()


def failing(url: str) -> str:
    house = open_warehouse(WarehouseUrl(url))
    with pytest.raises(WarehouseError) as caught:
        house.tables()
    return str(caught.value)


def test_who_is_away_or_says_no_is_one_sentence_without_the_password(shop: Shop) -> None:
    away = failing(f"postgresql://reader:{QUOTED}@127.0.0.1:1/shop")
    assert away.startswith("postgresql://127.0.0.1:1/shop cannot be asked: ")
    assert "refused" in away
    wrong = failing(shop.url.replace("hunter2", "hunter3"))
    assert "password authentication failed" in wrong
    nowhere = failing(shop.url.removesuffix("shop") + "nowhere")
    assert 'database "nowhere" does not exist' in nowhere
    strange = failing(shop.url + "?sslmode=whatever")
    assert "sslmode" in strange
    for sentence in (away, wrong, nowhere, strange):
        assert "\n" not in sentence
        assert "hunter" not in sentence


def test_a_warehouse_that_is_away_leaves_the_files(tmp_path: Path) -> None:
    (tmp_path / "months.csv").write_text("month\n1\n")
    address = WarehouseUrl(f"postgresql://reader:{QUOTED}@127.0.0.1:1/shop")
    there = Workspace(tmp_path, (tmp_path / "months.csv",), warehouses=(address,))
    assert sql("SELECT * FROM months", there).ok
    asked = sql("SELECT * FROM orders", there)
    assert not asked.ok
    assert "cannot be asked" in asked.text
    assert "cannot be asked" in call("tables", there).text.splitlines()[1]


def test_the_password_is_in_nothing_that_is_shown(shop: Shop, workspace: Workspace) -> None:
    database = next(iter(workspace.shared.values()))
    house = open_warehouse(workspace.warehouses[0])
    shown = [repr(workspace), repr(database), repr(house), str(house), house.shown, str(workspace.warehouses)]
    shown += [sql(query, workspace).text for query in ("SELECT 1 FROM nowhere", "SELECT bad FROM orders")]
    for text in shown:
        assert PASSWORD not in text
        assert QUOTED not in text
        assert "hunter2" not in text


def test_many_ask_at_once_over_few_connections(shop: Shop) -> None:
    house = open_warehouse(WarehouseUrl(f"{shop.url}?application_name=many"))

    def ask(number: int) -> int:
        with house.read(f"SELECT {number} AS n", 10.0, 10) as found:
            return int(next(found.batches).column(0)[0].as_py())

    with ThreadPoolExecutor(16) as pool:
        assert list(pool.map(ask, range(64))) == list(range(64))
    ((used,),) = shop.rows("SELECT count(*) FROM pg_stat_activity WHERE application_name = 'many'")
    assert 1 <= used <= 4
    house.close()


def test_a_connection_that_was_cut_is_made_again(shop: Shop) -> None:
    house = open_warehouse(WarehouseUrl(shop.url))
    assert count_of(house) == 1
    shop.rows("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = 'reader'")
    with pytest.raises(WarehouseError):
        count_of(house)
    assert count_of(house) == 1
    house.close()


def count_of(house: Warehouse) -> int:
    with house.read("SELECT 1 AS n", 5.0, 10) as found:
        return sum(batch.num_rows for batch in found.batches)


def test_a_duckdb_file_by_url_is_asked_with_the_files(tmp_path: Path) -> None:
    duckdb = pytest.importorskip("duckdb")
    with duckdb.connect(str(tmp_path / "shop.store")) as shop:
        shop.execute("CREATE TABLE orders AS SELECT 1 AS month")
    (tmp_path / "months.csv").write_text("month,name\n1,January\n")
    address = WarehouseUrl(f"duckdb:///{tmp_path / 'shop.store'}")
    there = Workspace(tmp_path, (tmp_path / "months.csv",), warehouses=(address,))
    assert "| January |" in sql("SELECT name FROM months JOIN orders USING (month)", there).text


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("mysql://u:hunter2@h/d", "mysql:// is no warehouse"),
        ("hunter2", "that is no warehouse"),
        ("postgresql://", "names no warehouse"),
        ("postgresql://u:hunter2@host", "names no database"),
        ("postgresql://u:hunter2@host:port/db", "cannot be read"),
        ("postgresql://u:[hunter2@host/db", "cannot be read"),
        ("bigquery://project", "bigquery://project/dataset"),
    ],
)
def test_a_url_of_another_kind_is_one_sentence(url: str, says: str) -> None:
    with pytest.raises(BadInput, match=says) as caught:
        open_warehouse(WarehouseUrl(url))
    assert "hunter2" not in str(caught.value)


def test_without_the_extra_it_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(__import__("sys").modules, "ibis", None)
    with pytest.raises(MissingExtra, match="extra 'warehouse'"):
        open_warehouse(WarehouseUrl("postgresql://host/db"))
