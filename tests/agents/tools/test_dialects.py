"""A question written for DuckDB, as PostgreSQL and BigQuery are asked it."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("sqlglot", reason="the extra 'warehouse' is not installed")

import sqlglot

from stepwell.agents.tools.base import ToolError
from stepwell.agents.tools.dialects import Naming, TableRef, called_names, select_all, understood

NAMES = {"orders": "orders", "big table": "Big Table"}
COLUMNS = ("id", "Amount", "at", "the note")


def shop(ref: TableRef) -> Naming:
    return Naming(
        ref.schema or "shop", {"orders": "orders", "big table": "Big Table"}[ref.name.lower()], COLUMNS
    )


def written(statement: str, dialect: str) -> str:
    return understood(statement, dialect).written(dialect, shop)


@pytest.mark.parametrize(
    ("statement", "sql"),
    [
        ("SELECT id::INT FROM orders", "SELECT CAST(id AS INT64) FROM `shop`.`orders` AS orders"),
        ("FROM orders SELECT Id LIMIT 3", "SELECT Id FROM `shop`.`orders` AS orders LIMIT 3"),
        ('SELECT "the note" FROM orders', "SELECT `the note` FROM `shop`.`orders` AS orders"),
        ('SELECT * FROM "Big Table" b', "SELECT * FROM `shop`.`Big Table` AS b"),
        (
            "SELECT date_trunc('month', at) AS m, count(*) FILTER (WHERE id > 1) FROM orders GROUP BY ALL",
            "SELECT TIMESTAMP_TRUNC(`at`, MONTH) AS m, COUNTIF(id > 1) "
            "FROM `shop`.`orders` AS orders GROUP BY ALL",
        ),
        (
            "WITH best AS (SELECT id, amount FROM orders) SELECT * FROM best QUALIFY "
            "row_number() OVER (ORDER BY amount DESC) <= 2",
            "WITH best AS (SELECT id, `Amount` FROM `shop`.`orders` AS orders) SELECT * FROM best QUALIFY "
            "ROW_NUMBER() OVER (ORDER BY `Amount` DESC) <= 2",
        ),
        ("SELECT * EXCLUDE (id) FROM orders", "SELECT * EXCEPT (id) FROM `shop`.`orders` AS orders"),
        ("SELECT id FROM other.orders", "SELECT id FROM `other`.`orders` AS orders"),
    ],
)
def test_bigquery(statement: str, sql: str) -> None:
    assert written(statement, "bigquery") == sql


@pytest.mark.parametrize(
    ("statement", "sql"),
    [
        ("SELECT orders.AMOUNT FROM ORDERS", 'SELECT orders."Amount" FROM "shop"."orders" AS ORDERS'),
        ("SELECT id // 2, id % 2 FROM orders", 'SELECT DIV(id, 2), id % 2 FROM "shop"."orders" AS orders'),
        (
            "WITH a AS (SELECT amount + 1 AS amount FROM orders) SELECT amount FROM a",
            'WITH a AS (SELECT "Amount" + 1 AS "Amount" FROM "shop"."orders" AS orders) '
            'SELECT "Amount" FROM a',
        ),
        (
            "SELECT strftime(at, '%Y-%m'), median(id) FROM orders",
            "SELECT TO_CHAR(at, 'YYYY-MM'), PERCENTILE_CONT(0.5) WITHIN GROUP (ORDER BY id) "
            'FROM "shop"."orders" AS orders',
        ),
    ],
)
def test_postgres(statement: str, sql: str) -> None:
    assert written(statement, "postgres") == sql


@pytest.mark.parametrize("dialect", ["postgres", "bigquery"])
@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM orders", "not DELETE"),
        ("DROP TABLE orders", "not DROP"),
        ("COPY orders TO 'x.csv'", "not COPY"),
        ("SET x = 1", "not SET"),
        ("EXPLAIN SELECT 1 FROM orders", "not EXPLAIN"),
        ("WITH gone AS (DELETE FROM orders RETURNING *) SELECT * FROM gone", "holds DELETE"),
        ("SELECT * INTO orders FROM orders", "holds INTO"),
        ("SELECT * FROM orders FOR UPDATE", "holds LOCK"),
        ("SELECT 1 FROM orders; SELECT 2 FROM orders", "one statement at a time, not 2"),
        ("", "one statement at a time, not 0"),
        ("SELECT id,\nFROM WHERE (", "cannot be read: line 2, near"),
        ("SELECT " + "(" * 20_000 + "1", "cannot be read"),
    ],
)
def test_what_is_no_question_is_refused(statement: str, says: str, dialect: str) -> None:
    with pytest.raises(ToolError, match=says) as caught:
        written(statement, dialect)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 400


def test_the_tables_of_a_question_are_those_it_does_not_make_itself() -> None:
    statement = "WITH a AS (FROM x), b AS (SELECT * FROM s.a) SELECT * FROM a, b, (SELECT * FROM Y) c"
    names = {(ref.schema, ref.name) for ref in understood(statement).tables}
    assert names == {("", "x"), ("s", "a"), ("", "Y")}


PIECES = (
    "SELECT FROM orders WHERE id ( ) , * 1 'a' \"the note\" AS x JOIN ON = WITH GROUP BY ALL ORDER UNION "
    "DELETE INSERT INTO VALUES SET ; :: INT CASE WHEN THEN END [ ] { } . $1 ? : -- /* */ \\ ' \" LATERAL "
    "PIVOT QUALIFY OVER LIMIT EXCLUDE COLUMNS FILTER INTERVAL day DESCRIBE SHOW TABLES"
)
WORDS = st.sampled_from(PIECES.split())


@given(st.lists(WORDS, max_size=14).map(" ".join), st.sampled_from(["postgres", "bigquery"]))
def test_any_text_is_a_question_or_one_sentence(statement: str, dialect: str) -> None:
    try:
        question = understood(statement, dialect)
        text = question.written(dialect, lambda ref: Naming("shop", ref.name, COLUMNS))
    except ToolError:
        return  # and nothing else
    (tree,) = sqlglot.parse(text, read=dialect)
    assert isinstance(tree, sqlglot.exp.Query)
    assert not list(tree.find_all(sqlglot.exp.Insert, sqlglot.exp.Delete, sqlglot.exp.Into))
    made = {common.alias for common in tree.find_all(sqlglot.exp.CTE)}
    for table in tree.find_all(sqlglot.exp.Table):
        if isinstance(table.this, sqlglot.exp.Identifier) and table.name not in made:
            assert table.db == "shop"


def test_every_function_is_found_however_it_is_written() -> None:
    text = """SELECT pg_catalog.pg_read_file('x'), "Lo_Export" (1, 'y'), count(*) FROM dblink('z') AS t"""
    assert {"pg_read_file", "lo_export", "count", "dblink"} <= set(called_names(text, "postgres"))


def test_a_whole_table_is_quoted_as_its_warehouse_wants_it() -> None:
    assert select_all("postgres", "my shop", 'a"b') == 'SELECT * FROM "my shop"."a""b"'
    assert select_all("bigquery", "shop", "Big Table") == "SELECT * FROM `shop`.`Big Table`"
    assert select_all("duckdb", "", "t") == 'SELECT * FROM "t"'
