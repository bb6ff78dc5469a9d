"""The pages of docs/benchmarks are those that the kept results make, and hold all of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepwell.bench.page import chart_of, front, load, main, number, page_of, pages, run_text, table_text
from stepwell.console.report import command_line
from stepwell.errors import BadInput

ROOT = Path(__file__).resolve().parents[2]
RESULTS, DOCS = ROOT / "bench" / "results", ROOT / "docs"
RUN: dict[str, Any] = {
    "bench": "trial",
    "date": "2026-11-29T10:00:00+00:00",
    "machine": {"cpu": "a quick one", "cores": 2, "memory_bytes": 2**30},
    "versions": {"stepwell": "0.1.0", "xllamacpp": None},
    "command": "stepwell bench trial",
    "settings": {},
    "tables": [
        {"title": "sizes", "columns": ["what", "MiB", "s"], "rows": [["a", "1,024", "-"], ["b", "2", "3.5"]]}
    ],
    "verdicts": [{"line": "time (at most 1 s): NOT reached, 3.5 s", "reached": False}],
    "notes": ["busy"],
}


INDEX = """
[[pages]]
name = "trial"
title = "Trial"
command = "c"
question = "Why ([how](simulate.md))?"
targets = "1 s"
[[figures]]
title = "Sizes"
text = "Of things."
result = "trial.json"
table = 0
columns = ["what", "s"]
chart = "sizes"
bars = ["s"]
unit = "s"
"""


def folder(at: Path) -> Path:
    (at / "index.toml").write_text(INDEX)
    (at / "trial.md").write_text("See [the plan](../../docs/plan.md).\n\n<!-- result: trial.json -->\n")
    (at / "trial.json").write_text(json.dumps(RUN))
    return at


def test_the_pages_are_up_to_date() -> None:
    made = pages(load(RESULTS))
    old = [name for name, text in made.items() if (DOCS / name).read_text(encoding="utf-8") != text]
    assert old == [], "run 'stepwell bench page' and commit what it writes"


def test_every_kept_result_is_on_a_page_with_its_date_and_command() -> None:
    read = load(RESULTS)
    shown = [file for page in read.pages for file in read.shown(page["name"])]
    assert sorted(shown) == sorted(read.runs)
    for run in read.runs.values():
        assert run["date"][:2] == "20"
        assert run["command"].startswith("stepwell ")
        assert run["tables"]
        assert all(len(row) == len(one["columns"]) for one in run["tables"] for row in one["rows"])


def test_a_kept_command_names_no_folder_of_a_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    for path in RESULTS.glob("*.json"):
        words = json.loads(path.read_text("utf-8"))["command"].split()
        assert not [word for word in words if word.startswith("/")], path.name
    monkeypatch.setattr(
        "sys.argv", ["stepwell", "bench", "x", "--keep", "/mnt/weeks.jsonl", "--json", "x.json"]
    )
    assert command_line() == "stepwell bench x --keep weeks.jsonl"


def test_the_front_page_is_read_in_five_minutes() -> None:
    """At 230 words a minute; a cell of a table is a word or two."""
    assert len(front(load(RESULTS)).split()) < 2_500


def test_a_page_links_from_where_it_lies(tmp_path: Path) -> None:
    read = load(folder(tmp_path))
    text = page_of(read.pages[0], read)
    assert "[the plan](../plan.md)" in text
    assert "[how](../simulate.md)" in text
    assert "| a | 1,024 | - |" in text
    assert "- **missed** time (at most 1 s): NOT reached, 3.5 s" in text
    assert "Measured 2026-11-29 on 2 cores of a quick one, 1.0 GiB memory; stepwell 0.1.0." in run_text(RUN)


def test_of_a_run_that_missed_many_targets_the_front_page_says_how_many(tmp_path: Path) -> None:
    at = folder(tmp_path)
    reached = {"line": "fine", "reached": True}
    missed = [{"line": f"target {number}: NOT reached", "reached": False} for number in range(5)]
    (at / "trial.json").write_text(json.dumps(RUN | {"verdicts": [*missed, reached]}))
    assert "- [Trial](benchmarks/trial.md): 5 of 6 targets, named there\n" in front(load(at))
    (at / "trial.json").write_text(json.dumps(RUN | {"verdicts": [*missed[2:], reached]}))
    assert front(load(at)).count(": NOT reached") == 3


def test_the_front_page_shows_parts_and_what_was_missed(tmp_path: Path) -> None:
    text = front(load(folder(tmp_path)))
    assert "| b | 3.5 |" in text
    assert "| [Trial](benchmarks/trial.md) | Why ([how](simulate.md))? | 0 of 1 | 2026-11-29 |" in text
    assert text.rstrip().endswith("- [Trial](benchmarks/trial.md): time (at most 1 s): 3.5 s")


def test_pages_are_written_and_checked(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (results := tmp_path / "results").mkdir()
    docs = tmp_path / "docs"
    assert main(results=folder(results), docs=docs, check=True) == 1
    assert "2 not up to date; run 'stepwell bench page'" in capsys.readouterr().out
    assert main(results=results, docs=docs) == 0
    assert main(results=results, docs=docs, check=True) == 0
    assert (docs / "charts" / "sizes.svg").read_text().startswith("<svg")
    assert capsys.readouterr().out.splitlines()[-1] == "2 pages, 0 not up to date"


def test_a_result_that_is_not_there_is_said(tmp_path: Path) -> None:
    (folder(tmp_path) / "trial.json").unlink()
    with pytest.raises(BadInput, match=r"trial\.json is missing"):
        load(tmp_path)


@pytest.mark.parametrize(
    ("cell", "value"), [("1,024", 1024.0), ("14.6 (1.00x)", 14.6), ("-", None), ("", None), ("-3 %", -3.0)]
)
def test_a_cell_has_a_number_or_none(cell: str, value: float | None) -> None:
    assert number(cell) == value


def test_a_chart_leaves_out_rows_without_a_figure() -> None:
    svg = chart_of({"title": "t", "unit": "s", "bars": ["s"]}, RUN["tables"][0])
    assert ">b<" in svg
    assert ">a<" not in svg
    assert table_text(RUN["tables"][0], ["what"]).endswith("| a |\n| b |")
