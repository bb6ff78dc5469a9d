"""Whatever a statement takes, it takes from a process that is ended for it, and its answer is exact."""

from __future__ import annotations

import asyncio
import json
import math
import os
import resource
import signal
from concurrent.futures import ThreadPoolExecutor
from datetime import date, datetime, time, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents.tools import Limits, ToolError, Workspace
from stepwell.agents.tools import sql as sql_tools
from stepwell.agents.tools.rows import Rows
from stepwell.agents.tools.sql import AT_ONCE, Database
from stepwell.agents.tools.sql_tables import PROGRESS
from stepwell.agents.tools.sql_wire import MOST_CHARS, read_row, written_row
from stepwell.basics.line_child import LineChild

duckdb = pytest.importorskip("duckdb")
LARGE = 3_000_000_000


def made(folder: Path, query_s: float) -> Database:
    (folder / "t.csv").write_text(f"n,m,word\n{LARGE},400000000,x\n")
    limits = Limits(query_s=query_s, memory_bytes=256 << 20)
    return Database(Workspace(folder / "w", (folder / "t.csv",), limits=limits))


@pytest.fixture
def database(tmp_path: Path) -> Database:
    """With the patience of a test."""
    return made(tmp_path, 120.0)


def ask(database: Database, statement: str, most_rows: int | None = None) -> Rows:
    return asyncio.run(database.ask(statement, most_rows))


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT length(repeat(word, n)) FROM t",
        "SELECT repeat(word, n) FROM t",
        "SELECT length(lpad(word, m::INT, 'yz')) FROM t",
        "SELECT length(rpad(word, m::INT, 'yz')) FROM t",
        "SELECT len(range(n)) FROM t",
        "SELECT len(generate_series(0, n)) FROM t",
        "SELECT len(list_resize([1], m)) FROM t",
        "SELECT len(list_resize([repeat(word, 1000)], m, 'a')) FROM t",
        "SELECT length(format('{:{}}', 1, m::INT)) FROM t",
        "SELECT length(printf('%*d', m::INT, 1)) FROM t",
        "SELECT length(replace(repeat(word, m), 'x', repeat('y', 100))) FROM t",
        "SELECT length(array_to_string(range(m), ',')) FROM t",
        "SELECT length(string_agg(repeat(word, 1000000 + range), '')) FROM t, range(4000)",
        "SELECT length(bitstring('1', m::INT)::VARCHAR) FROM t",
        "SELECT list(a.range) FROM t, range(100000) a, range(100000) b",
        "SELECT max(a.range + b.range) FROM range(10000000) a, range(10000000) b, t WHERE a.range <> n",
        "SELECT a.range FROM range(100000) a, range(100000) b, t GROUP BY a.range * b.range, a.range",
        "WITH RECURSIVE r AS (SELECT word w FROM t UNION ALL SELECT w || w FROM r) SELECT length(w) FROM r",
    ],
)
def test_a_length_that_comes_from_a_column_takes_neither_time_nor_memory(
    statement: str, tmp_path: Path
) -> None:
    database, hasty = made(tmp_path, 120.0), made(tmp_path, 0.5)
    ask(database, "SELECT 1")
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with pytest.raises(ToolError) as said:
        ask(hasty, statement)
    text = str(said.value)
    reasons = ("Out of Memory", "was ended after 0.5 s", "more memory than", "takes too much memory")
    assert any(reason in text for reason in reasons), text
    assert "\n" not in text
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
    assert ask(database, "SELECT n FROM t").rows == ((LARGE,),)


def test_an_answer_is_no_longer_than_what_may_be_shown_of_it(database: Database) -> None:
    long = ask(
        database, "SELECT repeat('ab', 500000), encode(repeat('x', 50000)), range(20000), 7 FROM t"
    ).rows
    assert long[0][0] == "ab" * (MOST_CHARS // 2) + "..."
    assert long[0][1] == b"x" * MOST_CHARS + b"..."
    assert long[0][2].startswith("[0, 1, 2, ")
    assert long[0][3] == 7
    wide = ", ".join(f"repeat('x', 9999) AS c{n}" for n in range(200))
    with pytest.raises(ToolError, match="larger than 32 MiB"):
        ask(database, f"SELECT {wide} FROM range(50)", 50)


VALUES = """
SELECT NULL, true, 9223372036854775807, -170141183460469231731687303715884105727::HUGEINT,
    340282366920938463463374607431768211455::UHUGEINT, 12345678901234567890.123456789::DECIMAL(38, 9),
    0.10::DECIMAL(4, 2), 0.1, 1e-320, 'inf'::DOUBLE, 0.1::FLOAT, 'a|"\\\u00e9\U0001f600', '\\xAA\\x00'::BLOB,
    DATE '2026-11-30', TIME '23:59:59.999999', TIMESTAMP '2026-11-30 01:02:03.000004',
    INTERVAL 3 DAY + INTERVAL 5 SECOND, '00000000-0000-4000-8000-00000000000a'::UUID,
    [1, NULL, 3], [0.5::DECIMAL(3, 1)], {'a': 1, 'b': [DATE '2026-01-01']}, MAP {1: 'x', 2: NULL},
    [1, 2]::INT[2], 'b'::ENUM('a', 'b'), '0101'::BIT, TIMESTAMP_NS '2026-11-30 01:02:03'
"""


def test_values_are_those_that_duckdb_gives(database: Database) -> None:
    with duckdb.connect() as connection:
        expected = connection.execute(VALUES).fetchall()
    found = ask(database, VALUES).rows
    assert list(found) == expected
    assert [type(value) for value in found[0]] == [type(value) for value in expected[0]]
    assert math.isnan(ask(database, "SELECT 'nan'::DOUBLE").rows[0][0])


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False), st.text(), st.binary(),
    st.decimals(allow_nan=False), st.dates(), st.times(), st.datetimes(), st.timedeltas(), st.uuids(),
)  # fmt: skip


NESTED = st.recursive(PLAIN, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=8)


@given(st.lists(NESTED, max_size=5))
def test_any_row_is_the_same_after_the_way(row: list[Any]) -> None:
    assert read_row(json.loads(written_row(row))) == tuple(row)


def test_the_kinds_of_values_are_kept() -> None:
    row = [True, 1, 1.0, 2**200, "1", b"1", Decimal("1.50"), date.min, time.max, UUID(int=3)]
    row += [datetime.fromisoformat("0001-02-03T04:05:06.000007"), timedelta(-1, 2, 3), [(1, 2)], {"a": None}]
    came = read_row(json.loads(written_row(row)))
    assert list(map(repr, came)) == list(map(repr, row))
    nested: list[Any] = []
    for _ in range(5_000):
        nested = [nested]
    assert read_row(json.loads(written_row([nested[:1]]))) == ("(nested too deep)",)


def test_a_child_that_is_killed_from_outside_costs_one_sentence(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    ask(database, "SELECT 1")
    usual = LineChild.ask
    with monkeypatch.context() as patched:

        def killed(child: LineChild, *args: Any) -> bytes:
            os.kill(child.pid, signal.SIGKILL)
            return usual(child, *args)

        patched.setattr(LineChild, "ask", killed)
        with pytest.raises(ToolError, match="another program ended it"):
            ask(database, "SELECT 1")
    assert ask(database, "SELECT 1").rows == ((1,),)


def test_a_child_that_stands_still_is_ended(database: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    ask(database, "SELECT 1")
    usual, stopped = LineChild.ask, []
    with monkeypatch.context() as patched:

        def standing(child: LineChild, *args: Any) -> bytes:
            os.kill(child.pid, signal.SIGSTOP)
            stopped.append(child)
            return usual(child, *args)

        patched.setattr(LineChild, "ask", standing)
        patched.setattr(sql_tools, "KILL_S", -119.9)
        with pytest.raises(ToolError, match="was ended after 120 s"):
            ask(database, "SELECT 1")
    assert not stopped[0].lives()


def test_children_are_bounded_over_all_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "t.csv").write_text("n\n1\n2\n")
    alive: list[LineChild] = []
    most: list[int] = []
    usual = LineChild.ask

    def counted(child: LineChild, *args: Any) -> bytes:
        alive.append(child)
        most.append(len(alive))
        try:
            return usual(child, *args)
        finally:
            alive.remove(child)

    monkeypatch.setattr(LineChild, "ask", counted)
    # So that nothing hangs on how fast this machine is.
    monkeypatch.setattr(sql_tools, "START_S", 300.0)
    databases = [Database(Workspace(tmp_path / f"w{n}", (tmp_path / "t.csv",))) for n in range(6)]
    with ThreadPoolExecutor(24) as pool:
        asked = [pool.submit(ask, databases[n % 6], f"SELECT sum(n) + {n} FROM t") for n in range(48)]
        assert [one.result().rows for one in asked] == [((3 + n,),) for n in range(48)]
    assert max(most) <= AT_ONCE


def test_a_file_at_which_the_reader_ends_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = tuple(tmp_path / f"{name}.csv" for name in ("first", "evil", "last"))
    for file in files:
        file.write_text("n\n1\n")
    database = Database(Workspace(tmp_path / "w", files))
    usual = sql_tools._exchanged

    def ending(child: LineChild, order: bytes, limit_s: float) -> dict[str, Any]:
        said = json.loads(order)
        if said["do"] == "read" and not said["without"]:
            (Path(said["folder"]) / PROGRESS).write_text("2")
            os.kill(child.pid, signal.SIGKILL)
        return usual(child, order, limit_s)

    monkeypatch.setattr(sql_tools, "_exchanged", ending)
    lines = asyncio.run(database.describe()).splitlines()
    assert lines[:2] == ["first (n BIGINT): 1 row", "last (n BIGINT): 1 row"]
    assert lines[2].startswith("evil.csv cannot be read: reading it ended the process")
    assert ask(database, "SELECT n FROM last").rows == ((1,),)


def test_the_child_has_no_secrets_of_the_program() -> None:
    assert set(sql_tools._children._env) <= {*sql_tools._PASSED_ON, "MALLOC_ARENA_MAX"}
