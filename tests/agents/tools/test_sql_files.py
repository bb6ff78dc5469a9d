"""What a person's file says is what a question is answered with, or the file is refused."""

from __future__ import annotations

import asyncio
import csv
import io
from pathlib import Path

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stepwell.agents.tools import Workspace, build_tools, run_tool
from stepwell.agents.tools.sql import Database

pytest.importorskip("duckdb")


def database(tmp_path: Path, **files: str | bytes) -> Database:
    for file, content in files.items():
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / file).write_bytes(data)
    return Database(Workspace(tmp_path / "work", tuple(tmp_path / file for file in files)))


def rows(asked: Database, query: str) -> list[tuple[object, ...]]:
    return list(asyncio.run(asked.ask(query)).rows)


def described(asked: Database) -> list[str]:
    return asyncio.run(asked.describe()).splitlines()


def test_signs_of_patterns_are_letters_of_a_name(tmp_path: Path) -> None:
    asked = database(
        tmp_path,
        **{
            "sales[1].csv": "m,v\njan,1\nfeb,2\n",
            "sales1.csv": "m,v\nother,999\n",
            "star*.csv": "m,v\ns,1\n",
            "star_other.csv": "m,v\nLEAK,42\n",
            "who?.csv": "m,v\nq,7\n",
            "whom.csv": "m,v\nLEAK,42\n",
            "a{b,c}'.csv": "m,v\nz,8\n",
        },
    )
    assert rows(asked, "SELECT sum(v) FROM sales_1") == [(3,)]
    assert rows(asked, "SELECT * FROM star") == [("s", 1)]
    assert rows(asked, "SELECT * FROM who") == [("q", 7)]
    assert rows(asked, "SELECT * FROM a_b_c") == [("z", 8)]
    assert "sales_1 (m VARCHAR, v BIGINT): 2 rows, from sales[1].csv" in described(asked)


def test_patterns_in_the_names_of_parquet_files(tmp_path: Path) -> None:
    import duckdb

    for file, value in (("p[1]", 1), ("p1", 2)):
        duckdb.sql(f"SELECT {value} AS v").write_parquet(str(tmp_path / "plain.parquet"))
        (tmp_path / "plain.parquet").rename(tmp_path / f"{file}.parquet")
    files = (tmp_path / "p[1].parquet", tmp_path / "p1.parquet")
    assert rows(Database(Workspace(tmp_path / "work", files)), "FROM p_1") == [(1,)]


def test_what_stands_after_the_first_rows_decides_too(tmp_path: Path) -> None:
    """DuckDB looks at 20,480 rows and casts the rest."""
    plain = 25_000
    late = {"code": "007", "day": "2026-01-02 10:30:00", "part": "1.25", "flag": "maybe", "id": "12e3"}
    usual = {"code": "5", "day": "2026-01-01", "part": "1", "flag": "true", "id": "12"}
    lines = [usual] * plain + [late]
    made = io.StringIO()
    writer = csv.DictWriter(made, list(usual))
    writer.writeheader()
    writer.writerows(lines)
    asked = database(tmp_path, **{"late.csv": made.getvalue()})
    assert rows(asked, f"SELECT * FROM late OFFSET {plain}") == [
        ("007", "2026-01-02 10:30:00", 1.25, "maybe", "12e3")
    ]
    assert rows(asked, "SELECT sum(part) FROM late") == [(plain + 1.25,)]


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", "0"], "BIGINT"),
        (["1", ""], "BIGINT"),
        (["007", "1"], "VARCHAR"),
        (["+4912345", "1"], "VARCHAR"),
        (["-0"], "DOUBLE"),
        (["12345678901234567890"], "HUGEINT"),
        (["1" * 39], "VARCHAR"),
        (["1.5", "2"], "DOUBLE"),
        (["10.50", "2"], "DECIMAL(18,2)"),
        (["12345678901234567.25"], "DECIMAL(38,2)"),
        (["1.5e-7"], "DOUBLE"),
        (["1.5e400", "2.5"], "VARCHAR"),
        (["9.9e308"], "VARCHAR"),
        (["5.0e-400"], "VARCHAR"),
        (["1.5e-310"], "VARCHAR"),
        (["0.0e5", "1.5"], "DOUBLE"),
        (["0000-01-01"], "VARCHAR"),
        (["2026-01-01 24:00:00"], "VARCHAR"),
        (["24:00:00"], "VARCHAR"),
        (["2026-01-02 23:59:59.5"], "TIMESTAMP"),
        (["1e5"], "VARCHAR"),
        (["nan", "1.5"], "VARCHAR"),
        (["1,5"], "VARCHAR"),
        (["2026-01-02"], "DATE"),
        (["2026-02-30"], "VARCHAR"),
        (["01/02/2026"], "VARCHAR"),
        (["2026-01-02 10:30"], "TIMESTAMP"),
        (["2026-01-02T10:30:00Z"], "VARCHAR"),
        (["10:30:00"], "TIME"),
        (["25:00:00"], "VARCHAR"),
        (["TRUE", "false"], "BOOLEAN"),
        (["", ""], "VARCHAR"),
    ],
)
def test_a_column_is_what_every_value_of_it_is(values: list[str], kind: str, tmp_path: Path) -> None:
    content = "a,b\n" + "".join(f'"{value}",x\n' for value in values)
    assert described(database(tmp_path, **{"t.csv": content}))[0].startswith(f"t (a {kind}, b VARCHAR): ")


WORD = st.text(st.sampled_from("07.9-+e:T ax,\"'\\井\n"), min_size=1, max_size=8).filter(
    lambda w: w == w.strip()
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
@given(st.lists(WORD, min_size=1, max_size=6))
@example(["'0"])
@example(["\\0"])
@example(["0\n'", "''\n0"])
def test_text_comes_back_as_it_was(tmp_path: Path, words: list[str]) -> None:
    made = io.StringIO()
    csv.writer(made, quoting=csv.QUOTE_ALL, lineterminator="\n").writerows(
        [["k", "v"], *(["x", w] for w in words)]
    )
    asked = database(tmp_path, **{"t.csv": made.getvalue()})
    found = [value for _, value in rows(asked, "FROM t")]
    assert all(
        str(value) == word or float(str(value)) == float(word)
        for value, word in zip(found, words, strict=True)
    )


def test_quotes_that_backslashes_escape_are_read_where_they_cannot_be_read_otherwise(tmp_path: Path) -> None:
    asked = database(tmp_path, **{"t.csv": '"k","v"\n"x","a \\"b\\" c, d"\n"y","e"\n'})
    assert rows(asked, "FROM t") == [("x", 'a "b" c, d'), ("y", "e")]


@pytest.mark.parametrize("encoding", ["cp1251", "koi8-r", "utf-16", "utf-8-sig"])
def test_other_encodings_are_read_and_said(encoding: str, tmp_path: Path) -> None:
    content = "город,число\n" + "Нижний Новгород,5\nСанкт-Петербург,6\nЕкатеринбург,7\n" * 3
    asked = database(tmp_path, **{"t.csv": content.encode(encoding)})
    assert rows(asked, 'SELECT DISTINCT "город" FROM t WHERE "число" = 5') == [("Нижний Новгород",)]
    assert any("is a guess" in line for line in described(asked)) == (not encoding.startswith("utf"))


def test_an_encoding_that_is_not_clear_is_refused(tmp_path: Path) -> None:
    asked = database(tmp_path, **{"t.csv": bytes(range(128, 256)) * 3})
    assert described(asked) == [
        "t.csv cannot be read: the encoding of t.csv is not clear: save it as UTF-8 and try again"
    ]


def test_a_line_that_names_the_separator(tmp_path: Path) -> None:
    asked = database(tmp_path, **{"t.csv": "sep=;\r\na;b\r\n1,5;x\r\n", "u.csv": "\ufeffsep=|\na|b\n1|2\n"})
    assert rows(asked, "FROM t") == [("1,5", "x")]
    assert rows(asked, "FROM u") == [(1, 2)]


def test_lines_above_the_header_are_told(tmp_path: Path) -> None:
    asked = database(tmp_path, **{"t.csv": "Report of March\n\na,b\n1,2\n3,4\n"})
    assert described(asked) == [
        "t (a BIGINT, b BIGINT): 2 rows",
        "t.csv: its first 2 lines were left out",
    ]


def test_a_file_that_is_called_as_a_table_is_that_table(tmp_path: Path) -> None:
    """Whatever the files before it would be called."""
    asked = database(
        tmp_path,
        **{
            "sales[1].csv": "v\n1\n",
            "sales-1.csv": "v\n2\n",
            "sales_1.csv": "v\n3\n",
            "🙂.csv": "v\n4\n",
            "data.csv": "v\n5\n",
        },
    )
    assert rows(asked, "FROM sales_1") == [(3,)]
    assert rows(asked, "FROM data") == [(5,)]
    assert [line.partition(" ")[0] for line in described(asked)] == [
        "sales_1_2", "sales_1_3", "sales_1", "data_2", "data",
    ]  # fmt: skip
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "data.csv").write_text("v\n6\n")
    both = (tmp_path / "data.csv", tmp_path / "a" / "data.csv")
    twice = Database(Workspace(tmp_path / "work", both))
    assert [line.partition(" ")[0] for line in described(twice)] == ["data", "data_2"]


def test_names_in_other_scripts_are_names(tmp_path: Path) -> None:
    asked = database(
        tmp_path, **{"销售.csv": "月,额\n一,1\n", "成本.csv": "月,额\n一,2\n", "продажи.csv": "a\n3\n"}
    )
    assert [line.partition(" ")[0] for line in described(asked)] == ["销售", "成本", "продажи"]
    assert rows(asked, 'SELECT a."额", b."额" FROM 销售 a JOIN 成本 b USING ("月")') == [(1, 2)]


def test_a_row_that_does_not_fit_refuses_the_file(tmp_path: Path) -> None:
    asked = database(tmp_path, **{"t.csv": "a,b\n1,2\n" * 30_000 + "1,2,3\n"})
    (line,) = described(asked)
    assert line.startswith("t.csv cannot be read: ")


UNEVEN = {
    "a short row": "x,y,z\n1,2,3\n1,2\n",
    "a long row": "x,y\n1,2\n1,2,3\n",
    "a long row after some": "x,y\n1,2\n3,4\n5,6\n1,2,3\n",
    "a header that is short": "x;y\n1;2;3\n4;5;6\n",
    "a line below": "x,y\n1,2\n3,4\n5,6\nTotal\n",
    "tabs": "x\ty\n1\t2\n1\n",
}


@pytest.mark.parametrize("content", UNEVEN.values(), ids=UNEVEN)
def test_a_table_is_never_less_than_the_file(content: str, tmp_path: Path) -> None:
    """DuckDB leaves out the lines above a row that is longer, or takes every line for one value."""
    (line,) = described(database(tmp_path, **{"t.csv": content}))
    assert line.startswith("t.csv cannot be read: line "), line
    assert " cells and the first has " in line


WHOLE: dict[str, tuple[str, list[tuple[object, ...]]]] = {
    "lines of comments": ("# c\nx,y\n1,2\n# d,e\n3,4\n", [(1, 2), (3, 4)]),
    "a title": ("Report of March\nx,y\n1,2\n3,4\n", [(1, 2), (3, 4)]),
    "lines about a table": ("Station,Bern\nUnit,mm\n\nx,y,z\n1,2,3\n4,5,6\n", [(1, 2, 3), (4, 5, 6)]),
    "text with commas": ("text\nhello, world\nbye\n", [("hello, world",), ("bye",)]),
    "both ends of lines": ("x,y\r\n1,2\n3,4\r\n", [(1, 2), (3, 4)]),
    "both ends, one in quotes": ('x,y\n1,2\r\n"a\r\nb",4\n', [("1", 2), ("a\r\nb", 4)]),
    "both ends, late": ("x,y\r\n" + "1,2\r\n" * 25_000 + "3,4\n", [(1, 2)] * 1_000),
    "backslashes": ('x,y\n"a\\"b",2\n"c",3\n', [('a"b', 2), ("c", 3)]),
    "a column without a name": ("x,\n1,2\n", [(1, 2)]),
    "quoted ends": ('x,y\n"a\nb",2\n', [("a\nb", 2)]),
}


@pytest.mark.parametrize("kind", WHOLE)
def test_a_table_is_all_of_the_file(kind: str, tmp_path: Path) -> None:
    content, wanted = WHOLE[kind]
    asked = database(tmp_path, **{"t.csv": content})
    found = asyncio.run(asked.ask("FROM t", 1_000))
    assert (list(found.rows), found.count) == (wanted, 25_001 if "late" in kind else len(wanted))


@pytest.mark.parametrize("content", ["\n\n", " \t\r\n", "\ufeff\n"])
def test_nothing_but_white_space_is_empty(content: str, tmp_path: Path) -> None:
    assert described(database(tmp_path, **{"t.csv": content})) == ["t.csv cannot be read: it is empty"]


def test_quotes_after_the_first_rows(tmp_path: Path) -> None:
    asked = database(tmp_path, **{"t.csv": "a,b\n" + "x,1\n" * 25_000 + '"y, z",2\n'})
    assert rows(asked, "SELECT a FROM t WHERE b = 2") == [("y, z",)]


def test_the_private_copy_goes_with_the_database(tmp_path: Path) -> None:
    asked = database(tmp_path, **{"t.csv": "a\n1\n"})
    described(asked)
    assert asked._folder is not None
    folder = asked._folder.path
    assert folder.is_dir()
    del asked
    assert not folder.exists()


def test_a_model_cannot_write_the_persons_file_nor_forge_a_table(tmp_path: Path) -> None:
    (tmp_path / "sales.csv").write_text("m,v\nx,1\n")
    (sql,) = build_tools(["sql"], Workspace(tmp_path / "work", (tmp_path / "sales.csv",)))
    for query in (
        f"EXPLAIN ANALYZE COPY (SELECT 'gone' AS m) TO '{tmp_path}/sales.csv' (USE_TMP_FILE false)",
        f"EXPLAIN ANALYZE COPY (SELECT 'x' AS a) TO '{tmp_path}/new.csv'",
        "EXPLAIN ANALYZE CREATE OR REPLACE VIEW sales AS SELECT 'forged' AS m",
        f"WITH x AS (SELECT 1) COPY x TO '{tmp_path}/sales.csv'",
        f"EXPORT DATABASE '{tmp_path}/new.csv'",
    ):
        assert not asyncio.run(run_tool(sql, {"query": query})).ok
        assert (tmp_path / "sales.csv").read_text() == "m,v\nx,1\n"
        assert not (tmp_path / "new.csv").exists()
    assert "| x | 1 |" in asyncio.run(run_tool(sql, {"query": "FROM sales"})).text
