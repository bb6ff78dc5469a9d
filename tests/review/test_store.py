"""SQL over the facts: the same values, vintages and conflicts as on the page."""

from __future__ import annotations

import json
from decimal import Decimal
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.review.facts import Cell, CellPlace, Facts, Unit
from stepwell.review.store import ask
from tests.review.sample import FRIDAY, facts, raw

FOUND, _ = facts()
WEEKS = [(FRIDAY, FOUND)]


def test_every_cell_is_a_row_with_its_place() -> None:
    rows = ask(WEEKS, "SELECT id, value, missing, known_since FROM cells").rows
    assert {row[0]: (row[1], row[2], row[3]) for row in rows} == {
        cell.id: (None if cell.value is None else str(cell.value), cell.missing, cell.known_since)
        for cell in FOUND.cells.values()
    }


def test_what_was_known_by_a_day_is_a_condition() -> None:
    sql = """SELECT value FROM cells WHERE id LIKE 'fred.PAYEMS.2025-08-01@%' AND known_since <= '{}'
             ORDER BY known_since DESC LIMIT 1"""
    by = {day: ask(WEEKS, sql.format(day)).rows for day in ("2025-09-04", "2025-10-01", "2025-12-12")}
    assert by == {"2025-09-04": [], "2025-10-01": [("159540000",)], "2025-12-12": [("159507000",)]}


def test_raw_replies_lie_beside_their_cells() -> None:
    sql = """SELECT r.name, r.data FROM cells c JOIN replies r USING (sha256)
             WHERE c.id = 'idx.SPX.close.2025-12-12'"""
    assert ask(WEEKS, sql).rows == [("prices-SPX.csv", raw()["prices-SPX.csv"])]
    kinds = ask(WEEKS, "SELECT kind FROM conflicts").rows
    assert [kind for (kind,) in kinds] == [one.kind for one in FOUND.conflicts]


def test_several_weeks_are_asked_at_once(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, level in (("one", "100"), ("two", "110")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "prices-SPX.csv").write_text(f"Date,Close\n2025-12-05,100\n2025-12-12,{level}\n")
    from_ = [flag for name in ("one", "two") for flag in ("--from", f"2025-12-12={tmp_path / name}")]
    sql = "SELECT number FROM cells WHERE id = 'w.SPX.change' ORDER BY 1"
    assert cli.run(["review", "query", *from_, sql, "--json", "-"]) == 0
    assert [float(row["number"]) for row in json.loads(capsys.readouterr().out)["rows"]] == [0, 10]


def test_what_could_not_be_used_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "prices-SPX.csv").write_text("<html>be right back</html>")
    assert cli.run(["review", "query", "--from", f"2025-12-12={tmp_path}", "SELECT count(*) FROM cells"]) == 0
    said = capsys.readouterr()
    assert "not used: " in said.err and "a web page instead of data" in said.err
    assert "rows" in said.out


@pytest.mark.parametrize(
    ("text", "number"),
    [("1e17", Decimal(10**17)), ("1e25", Decimal(10**25)), ("1e26", None), ("1e400", None), ("NaN", None)],
)
def test_a_number_that_no_column_holds_is_text_alone(text: str, number: Decimal | None) -> None:
    facts = Facts()
    place = CellPlace(facts.keep("x.csv", b"x"), "csv", "0/x")
    facts.add(Cell("x", Unit.USD, Decimal(text), observed=FRIDAY, place=place))
    (row,) = ask([(FRIDAY, facts)], "SELECT value, number FROM cells WHERE id = 'x'").rows
    assert row == (str(Decimal(text)), number)


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        (["SELECT nothing FROM cells"], "DuckDB: Binder Error"),
        (["SELEC"], "DuckDB: Parser Error"),
        (["SELECT * FROM read_csv('/etc/hostname')"], "DuckDB: Permission Error"),
        (["--from", "january", "SELECT 1"], "write WEEK=DIR"),
        (["--from", "2025-12-12=nowhere", "SELECT 1"], "there is no such folder"),
    ],
)
def test_bad_input_is_one_sentence(flags: list[str], said: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["review", "query", *flags]) == 2
    error = capsys.readouterr().err
    assert said in error
    assert error.rstrip().count("\n") == 0


def test_without_sql_the_tables_are_listed(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["review", "query"]) == 0
    assert capsys.readouterr().out.startswith("cells (week DATE, id TEXT,")
