"""Questions to the person's files get answers; nothing else of the machine does."""

from __future__ import annotations

import asyncio
import sys
import threading
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents.tools import Limits, ToolError, ToolResult, Workspace, build_tools, run_tool
from stepwell.agents.tools.chart import ChartSeries, draw, ticks
from stepwell.agents.tools.ended_after import ended_after
from stepwell.agents.tools.rows import Rows, show_rows
from stepwell.agents.tools.sql import Database
from stepwell.agents.tools.sql_child import connected

duckdb = pytest.importorskip("duckdb")


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("files")
    (folder / "sales.csv").write_text("month,revenue,the note\n2026-01,10.5,a|b\n2026-02,20,\n2026-03,5,x\n")
    (folder / "select.csv").write_text("a,b\n1,2\n")
    (folder / "2026 plan.tsv").write_text("a\tb\n1\t2\n")
    (folder / "empty.csv").write_text("")
    (folder / "broken.parquet").write_bytes(b"nothing" * 9)
    (folder / "secret.csv").write_text("word\nhunter2\n")
    with duckdb.connect(str(folder / "shop.duckdb")) as shop:
        shop.execute("CREATE TABLE orders AS SELECT range AS id FROM range(100)")
        shop.execute("CREATE TABLE sales AS SELECT 1 AS other")
        shop.execute(f"COPY (SELECT 42 AS answer) TO '{folder}/it''s.parquet'")
    return folder


NAMES = (
    "sales.csv",
    "select.csv",
    "2026 plan.tsv",
    "empty.csv",
    "broken.parquet",
    "it's.parquet",
    "shop.duckdb",
)


@pytest.fixture(scope="module")
def workspace(files: Path) -> Workspace:
    given = tuple(files / name for name in (*NAMES, "missing.csv", "notes.md"))
    return Workspace(files / "workspace", given, limits=Limits(rows=5, query_s=10.0))


def call(name: str, workspace: Workspace, **arguments: Any) -> ToolResult:
    return asyncio.run(run_tool(build_tools([name], workspace)[0], arguments))


def sql(query: str, workspace: Workspace) -> ToolResult:
    return call("sql", workspace, query=query)


def test_every_table_is_listed_and_every_bad_file(workspace: Workspace) -> None:
    listed = call("tables", workspace).text.splitlines()
    assert listed[:6] == [
        'sales (month VARCHAR, revenue DOUBLE, "the note" VARCHAR): 3 rows',
        "select_ (a BIGINT, b BIGINT): 1 row, from select.csv",
        "t_2026_plan (a BIGINT, b BIGINT): 1 row, from 2026 plan.tsv",
        "it_s (answer INTEGER): 1 row, from it's.parquet",
        "orders (id BIGINT): 100 rows",
        "sales_2 (other INTEGER): 1 row, from shop.duckdb",
    ]
    assert listed[6] == "empty.csv cannot be read: it is empty"
    assert listed[7].startswith("broken.parquet cannot be read: ")
    assert listed[8] == "missing.csv cannot be read: No such file or directory"
    assert len(listed) == 9


def test_a_result_is_a_table_with_its_count(workspace: Workspace) -> None:
    assert sql("SELECT * FROM sales", workspace).text == (
        "| month | revenue | the note |\n| --- | --- | --- |\n"
        "| 2026-01 | 10.5 | a\\|b |\n| 2026-02 | 20.0 | NULL |\n| 2026-03 | 5.0 | x |\n3 rows"
    )
    assert sql("SELECT id FROM orders ORDER BY id DESC", workspace).text.splitlines()[2:] == [
        "| 99 |", "| 98 |", "| 97 |", "| 96 |", "| 95 |", "100 rows, the first 5 shown",
    ]  # fmt: skip
    assert sql("SELECT id FROM orders WHERE id < 0", workspace).text == "0 rows (columns: id)"


@pytest.mark.parametrize(
    ("query", "contains"),
    [
        ("FROM sales SELECT sum(revenue)", "35.5"),
        ("WITH a AS (SELECT 1 AS x) SELECT * FROM a", "| 1 |"),
        ("SELECT 1 AS a, 2 AS a", "| 1 | 2 |"),
        ("SELECT 1 AS a, '2026-01-01 10:00+05'::TIMESTAMPTZ AS a;", "| 1 | 2026-01-01 05:00:00+00 |"),
        ("SELECT ['2026-01-01 10:00+05'::TIMESTAMPTZ] AS a", "05:00:00+00"),
        ("DESCRIBE sales", "| revenue | DOUBLE"),
        ("SUMMARIZE sales", "revenue"),
        ("SHOW TABLES", "orders"),
        ("SELECT table_name FROM information_schema.tables", "orders"),
        ("WITH pg_total AS (SELECT 1 AS x) FROM pg_total", "| 1 |"),
        ("SELECT * FROM file_shop.orders LIMIT 1;", "1 row"),
        ("SELECT s.revenue, o.id FROM sales s JOIN orders o ON o.id = s.revenue", "| 20.0 | 20 |"),
        ("SELECT repeat('x', 1000)", "x" * 200 + "..."),
    ],
)
def test_questions(query: str, contains: str, workspace: Workspace) -> None:
    answer = sql(query, workspace)
    assert answer.ok, answer.text
    assert contains in answer.text


@pytest.mark.parametrize(
    ("query", "says"),
    [
        ("SELECT revnue FROM sales", 'Candidate bindings: "revenue"'),
        ("SELECT * FROM sale", 'Did you mean "sales"'),
        ("SELEKT 1", "Parser Error"),
        ("SELECT 'a'::INTEGER", "Could not convert"),
        ("", "one statement at a time, not 0"),
        ("SELECT 1; SELECT 2", "one statement at a time, not 2"),
        ("DROP TABLE orders", "not DROP"),
        ("INSERT INTO orders VALUES (1)", "not INSERT"),
        ("DELETE FROM file_shop.orders", "not DELETE"),
        ("CREATE TEMP TABLE x AS SELECT 1", "not CREATE"),
        ("COPY sales TO 'x.csv'", "not COPY"),
        ("EXPORT DATABASE 'x'", "not EXPORT"),
        ("ATTACH 'x.db'", "not ATTACH"),
        ("SET enable_external_access = true", "not SET"),
        ("PRAGMA database_list", "not PRAGMA"),
        ("CALL pragma_version()", "not CALL"),
        ("SELECT * FROM query('DROP VIEW sales')", "query() cannot be asked here"),
        ("SELECT * FROM query('SELECT 42')", "query() cannot be asked here"),
        ("EXPLAIN ANALYZE COPY sales TO 'x.csv'", "not EXPLAIN"),
        ("EXPLAIN ANALYZE CREATE VIEW sales AS SELECT 1", "not EXPLAIN"),
        ("EXPLAIN SELECT 1", "not EXPLAIN"),
        ("SELECT repeat('x', 1000000000)", "repeat() may make no value of more than 10,000,000 signs"),
        ("SELECT max(length(Repeat('x', 1e9::INT))) FROM sales", "repeat() may make no value"),
        ("SELECT lpad('x', 1000 * 1000000, 'y')", "lpad() may make no value"),
        ("SELECT len(range(300000000))", "range() may make no value"),
        ("SELECT len(list_resize([1], 300000000))", "list_resize() may make no value"),
        ("SELECT format('{:1000000000}', 1)", "format() may make no value"),
        ("SELECT printf('%1000000000d', 1)", "printf() may make no value"),
        ("SELECT printf('%*d', 1000000000, 1)", "printf() may make no value"),
        ("SELECT format('{:{}}', 1, 1000000000)", "format() may make no value"),
        ("SELECT replace(repeat('x', 1000000), 'x', repeat('y', 2000))", "may make no value"),
        ("WITH a AS (SELECT rpad('x', 99999999, 'y') s) SELECT 1", "rpad() may make no value"),
        ("WITH x AS (INSERT INTO sales VALUES (1) RETURNING *) SELECT * FROM x", "holds INSERT"),
        ("WITH x AS (DELETE FROM sales RETURNING *) SELECT * FROM x", "holds DELETE"),
        ("SELECT * FROM enable_logging('x')", "enable_logging() cannot be asked here"),
        ("SELECT * FROM duckdb_settings()", "duckdb_settings() cannot be asked here"),
        ("SELECT * FROM (SELECT (SELECT count(*) FROM duckdb_secrets()))", "cannot be asked here"),
        ("SELECT current_setting('temp_directory')", "current_setting() is not allowed here"),
        ("SELECT * FROM pg_catalog.pg_settings", "pg_settings cannot be asked here"),
        ("FROM PG_SETTINGS", "pg_settings cannot be asked here"),
        ("SELECT path FROM duckdb_databases", "duckdb_databases cannot be asked here"),
        ("SELECT * FROM system.main.duckdb_databases", "duckdb_databases cannot be asked here"),
        ("FROM pragma_database_list", "pragma_database_list cannot be asked here"),
        ("SELECT (SELECT max(sql) FROM duckdb_views)", "duckdb_views cannot be asked here"),
        ("SELECT view_definition FROM information_schema.views", "views cannot be asked here"),
        ("SELECT s.id FROM orders s JOIN sqlite_master m ON true", "sqlite_master cannot be asked here"),
        ("PIVOT pg_views ON viewname IN ('x') USING count(*)", "pg_views cannot be asked here"),
        ("INSTALL httpfs", "not"),
        ("LOAD httpfs", "not LOAD"),
        ("DETACH files", "not DETACH"),
        ("VACUUM", "not VACUUM"),
        ("CHECKPOINT", "not CALL"),
        ("SELECT " + "(" * 20_000 + "1" + ")" * 20_000, "depth"),
        ("SELECT * FROM statement", "does not exist"),
    ],
)
def test_what_is_not_a_good_question_is_one_sentence(query: str, says: str, workspace: Workspace) -> None:
    answer = sql(query, workspace)
    assert not answer.ok
    assert says in answer.text
    assert "\n" not in answer.text
    assert sql("SELECT count(*) FROM orders", workspace).text.splitlines()[2] == "| 100 |"


@pytest.mark.parametrize(
    "query",
    [
        "SELECT * FROM read_csv('{folder}/secret.csv')",
        "SELECT * FROM '{folder}/secret.csv'",
        "SELECT * FROM read_text('{folder}/secret.csv')",
        "SELECT * FROM read_blob('{folder}/*')",
        "SELECT * FROM glob('{folder}/*')",
        "SELECT * FROM read_text('/etc/passwd')",
        "SELECT * FROM sniff_csv('{folder}/secret.csv')",
        "SELECT * FROM read_csv('http://127.0.0.1:9/x.csv')",
        "SELECT * FROM 'https://127.0.0.1:9/x.parquet'",
        "SELECT getenv('HOME')",
    ],
)
def test_nothing_else_can_be_read(query: str, workspace: Workspace, files: Path) -> None:
    answer = sql(query.format(folder=files), workspace)
    assert not answer.ok
    assert "hunter2" not in answer.text


def test_the_locks_hold_without_the_check_of_the_statement(workspace: Workspace, files: Path) -> None:
    before, database = (files / "sales.csv").read_bytes(), Database(workspace)
    tables = database.tables()
    for statement in (
        "SET enable_external_access = true",
        "SET lock_configuration = false",
        f"SET allowed_paths = ['{files}/secret.csv']",
        f"ATTACH '{files}/other.duckdb'",
        f"COPY (SELECT 1) TO '{files}/out.csv'",
        f"COPY (SELECT 1) TO '{files}/sales.csv'",
        f"EXPLAIN ANALYZE COPY (SELECT 1) TO '{files}/sales.csv' (FORMAT csv, USE_TMP_FILE false)",
        "INSERT INTO file_shop.orders VALUES (1)",
        "DROP TABLE files.main.t1",
        "INSTALL httpfs",
    ):
        with connected(tables, 512 << 20) as connection, pytest.raises(duckdb.Error):
            connection.execute(statement)
    assert (files / "sales.csv").read_bytes() == before
    assert not (files / "out.csv").exists()


def test_a_question_that_takes_too_long_is_ended(files: Path) -> None:
    short = Workspace(files / "workspace", (), limits=Limits(query_s=0.2))
    answer = sql("SELECT count(*) FROM range(10000000000) a, range(1000000) b", short)
    assert answer.text.endswith("the statement was ended after 0.2 s")
    assert sql("SELECT 1 AS one", short).ok


def test_nothing_of_a_question_goes_on_when_it_is_answered(workspace: Workspace) -> None:
    """A thread that still holds the database when the process ends takes it down."""
    before = set(threading.enumerate())
    for _ in range(20):
        assert sql("SELECT count(*) AS n FROM orders", workspace).ok
        assert set(threading.enumerate()) <= before


def test_what_ends_a_question_ends_with_it() -> None:
    before = set(threading.enumerate())
    ended = threading.Event()
    for _ in range(100):
        with ended_after(60.0, ended.set):
            pass
        assert set(threading.enumerate()) <= before
    assert not ended.is_set()
    with ended_after(0.001, ended.set):
        assert ended.wait(60.0)


def test_memory_is_limited(files: Path) -> None:
    small = Workspace(files / "workspace", (), limits=Limits(memory_bytes=64 << 20))
    answer = sql("SELECT list(range) FROM range(100000000)", small)
    assert not answer.ok
    assert "Out of Memory" in answer.text


def test_many_ask_at_once(workspace: Workspace) -> None:
    tool = build_tools(["sql"], workspace)[0]

    async def main() -> list[ToolResult]:
        queries = [f"SELECT {n} + count(*) AS n FROM orders" for n in range(20)]
        return list(await asyncio.gather(*(run_tool(tool, {"query": query}) for query in queries)))

    assert [answer.text.splitlines()[2] for answer in asyncio.run(main())] == [
        f"| {100 + n} |" for n in range(20)
    ]


def test_without_files_and_without_the_extra_it_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    nothing = call("tables", Workspace(tmp_path)).text
    assert nothing == "There are no tables: no CSV, Parquet or DuckDB file and no warehouse was given."
    monkeypatch.setitem(sys.modules, "duckdb", None)
    answer = sql("SELECT 1", Workspace(tmp_path))
    assert not answer.ok
    assert "the extra 'analytics'" in answer.text


def test_all_tools_of_a_workspace_share_one_database(workspace: Workspace) -> None:
    build_tools(["sql", "tables", "chart", "sql"], workspace)
    first = workspace.shared["database"]
    build_tools(["sql"], workspace)
    assert workspace.shared["database"] is first


def test_a_count_says_when_it_gave_up() -> None:
    shown = show_rows(Rows(("a",), ((1,),), 1_000_000, at_least=True))
    assert shown.endswith("more than 1000000 rows, the first 1 shown")


def chart(workspace: Workspace, **arguments: Any) -> ToolResult:
    return call(
        "chart",
        workspace,
        **{"kind": "bar", "query": "FROM sales", "x": "month", "y": "revenue", **arguments},
    )


def texts(path: Path) -> list[str]:
    return [
        "".join(node.itertext()) for node in ElementTree.parse(path).iter("{http://www.w3.org/2000/svg}text")
    ]


def count(path: Path, tag: str) -> int:
    return len(list(ElementTree.parse(path).iter(f"{{http://www.w3.org/2000/svg}}{tag}")))


def test_a_bar_chart_is_a_file_with_a_bar_per_row(tmp_path: Path, workspace: Workspace) -> None:
    own = Workspace(tmp_path, workspace.files)
    answer = chart(own, title="<Revenue> & co")
    assert answer.text == "chart-1.svg: bar chart of revenue by month, 3 points from 5 to 20"
    path = tmp_path / "chart-1.svg"
    assert count(path, "rect") == 1 + 3
    assert {"<Revenue> & co", "2026-01", "2026-03", "revenue", "month", "0", "20"} <= set(texts(path))
    assert chart(own).text.startswith("chart-2.svg")


def test_a_line_chart_has_one_line_and_few_labels(tmp_path: Path, workspace: Workspace) -> None:
    answer = chart(
        Workspace(tmp_path, workspace.files),
        kind="line",
        query="SELECT id, id * id - 50 AS v FROM orders",
        x="id",
        y="v",
    )
    assert answer.text == "chart-1.svg: line chart of v by id, 100 points from -50 to 9751"
    assert count(tmp_path / "chart-1.svg", "circle") == 1
    assert len(texts(tmp_path / "chart-1.svg")) < 40


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"kind": "pie"}, "argument kind"),
        ({"y": "the note"}, "the note is not numeric: 'a|b'"),
        ({"x": "day"}, "no column day: it has month, revenue"),
        ({"query": "SELECT * FROM sales WHERE revenue > 99"}, "no rows to draw"),
        ({"query": "SELECT id AS month, id AS revenue FROM orders"}, "at most 60 points, not 100"),
        ({"query": "SELECT 1 AS month, 'nan'::DOUBLE AS revenue"}, "not numeric"),
        ({"query": "DROP VIEW sales"}, "not DROP"),
    ],
)
def test_what_cannot_be_drawn_is_one_sentence(
    arguments: dict[str, Any], says: str, workspace: Workspace, files: Path
) -> None:
    answer = chart(workspace, **arguments)
    assert not answer.ok
    assert says in answer.text
    assert not list(files.glob("workspace/*.svg"))


@given(st.floats(-1e12, 1e12), st.floats(0, 1e12))
def test_ticks_cover_the_range_and_are_few(low: float, span: float) -> None:
    high = low + span
    found = ticks(low, high)
    assert found == sorted(set(found))
    assert 2 <= len(found) <= 12
    slack = 1e-9 * max(abs(low), abs(high), 1.0)
    assert found[0] <= low + slack
    assert found[-1] >= high - slack


@given(
    st.lists(st.tuples(st.text(max_size=30), st.floats(-1e9, 1e9)), min_size=1, max_size=60),
    st.sampled_from(["bar", "line"]),
)
def test_any_series_is_drawn_as_valid_svg_inside_the_frame(
    points: list[tuple[str, float]], kind: Any
) -> None:
    data = ChartSeries(tuple(label for label, _ in points), tuple(value for _, value in points))
    root = ElementTree.fromstring(draw(kind, data, "x", "y", ""))
    for rect in root.iter("{http://www.w3.org/2000/svg}rect"):
        assert float(rect.get("y") or 0) >= 0
        assert float(rect.get("y") or 0) + float(rect.get("height") or 0) <= 400


def test_characters_that_no_xml_may_hold_are_left_out() -> None:
    svg = draw("bar", ChartSeries(("a\x00\ud800b",), (1.0,)), "x", "y", "\x08")
    assert "a??b" in "".join(ElementTree.fromstring(svg).itertext())


def test_a_folder_full_of_charts_is_an_end(
    tmp_path: Path, workspace: Workspace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("stepwell.agents.tools.chart.FILES_MOST", 1)
    own = Workspace(tmp_path, workspace.files)
    assert chart(own).ok
    assert "no more are drawn" in chart(own).text


def test_the_database_says_no_itself() -> None:
    with pytest.raises(ToolError, match="longer than"):
        asyncio.run(Database(Workspace(Path("unused"))).ask("x" * 50_001))


@pytest.mark.parametrize(
    ("query", "value"),
    [
        ("SELECT length(repeat('#', 10000000))", "10000000"),
        ("SELECT replace('0049 30 123456789', '0049', '+49')", "+49 30 123456789"),
        ("SELECT count(*) FROM range(20000000)", "20000000"),
        ("SELECT len(range(20260101, 20261231))", "1130"),
        ("SELECT format('{:>14.2f}', 1234567890.5::DOUBLE)", "1234567890.50"),
        ("SELECT lpad('7', 10, '0')", "0000000007"),
        ("SELECT regexp_replace('2025-11-30', '[0-9]{4}', '2026')", "2026-11-30"),
    ],
)
def test_ordinary_lengths_are_not_in_the_way(query: str, value: str, workspace: Workspace) -> None:
    assert f"| {value} |" in call("sql", workspace, query=query).text
