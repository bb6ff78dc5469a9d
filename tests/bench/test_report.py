"""Verdicts say what was measured against what, failing ones too; the JSON has one shape."""

from __future__ import annotations

import io
import json
from pathlib import Path
from statistics import median

import pytest
from rich.console import Console

from stepwell.basics.quantiles import percentile
from stepwell.console.output import report_console, table, write_json
from stepwell.console.report import Report, Verdict

SHAPE = {
    *("bench", "date", "machine", "versions", "command", "settings"),
    *("tables", "results", "verdicts", "notes", "samples"),
}


def a_report() -> Report:
    report = Report("trial", {"rounds": 3})
    report.samples.append({"ttft_s": 0.5})
    report.verdicts = [
        Verdict("total", 1.04, 1.05, "x"),
        Verdict("speed", 0.94, 0.95, "x", at_most=False),
        Verdict("peer", None, 0.2, "x"),
    ]
    return report


def printed(report: Report, json_file: Path | None = None) -> str:
    console = Console(record=True, width=200, file=io.StringIO())
    report.finish(console, json_file)
    return console.export_text()


@pytest.mark.parametrize(
    ("verdict", "reached"),
    [
        (Verdict("a", 5.0, 5.0), True),
        (Verdict("a", 5.1, 5.0), False),
        (Verdict("a", 5.0, 5.0, at_most=False), True),
        (Verdict("a", 4.9, 5.0, at_most=False), False),
        (Verdict("a", float("inf"), 5.0), False),
        (Verdict("a", None, 5.0), None),
    ],
)
def test_a_target_is_reached_missed_or_not_measured(verdict: Verdict, reached: bool | None) -> None:
    assert verdict.reached is reached


def test_every_line_names_target_bound_and_figure() -> None:
    assert Verdict("total", 1.04, 1.05, "x").line() == "total (at most 1.05x): reached, 1.04x"
    assert Verdict("total", 1.2, 1.05, "x").line() == "total (at most 1.05x): NOT reached, 1.2x"
    assert Verdict("turns", 1000, 0).line() == "turns (at most 0): NOT reached, 1,000"
    assert Verdict("total", None, 1.05, "x").line() == "total (at most 1.05x): not measured in this run"
    assert Verdict("total", float("inf"), 1.05, "x").line() == "total (at most 1.05x): NOT reached, no result"


def test_a_figure_just_past_its_limit_never_reads_like_the_limit() -> None:
    line = Verdict("total", 1.0504, 1.05, "x").line()
    assert "NOT reached" in line
    assert not line.endswith(" 1.05x")


def test_the_last_line_counts_what_was_measured() -> None:
    assert printed(a_report()).rstrip().endswith("trial: 1 of 2 measured targets reached.")
    assert [verdict.target for verdict in a_report().missed] == ["speed"]


def test_json_has_machine_versions_settings_and_samples(tmp_path: Path) -> None:
    file = tmp_path / "trial.json"
    printed(a_report(), file)
    content = json.loads(file.read_text())
    assert set(content) == SHAPE
    assert {"cpu", "cores", "memory_bytes"} <= set(content["machine"])
    assert {"stepwell", "llama-cpp-python", "xllamacpp", "python"} == set(content["versions"])
    assert content["settings"] == {"rounds": 3}
    assert content["samples"] == [{"ttft_s": 0.5}]
    assert [verdict["reached"] for verdict in content["verdicts"]] == [True, False, None]


def test_the_file_has_the_tables_that_were_printed(tmp_path: Path) -> None:
    file = tmp_path / "trial.json"
    console = report_console(Path("-"))
    console.file = io.StringIO()
    console.print(table("sizes", ("what", "MiB"), [["[a] b", "1,024"]]))
    a_report().finish(console, file)
    content = json.loads(file.read_text())
    assert content["tables"] == [{"title": "sizes", "columns": ["what", "MiB"], "rows": [["[a] b", "1,024"]]}]
    assert content["verdicts"][0]["line"] == "total (at most 1.05x): reached, 1.04x"


def test_json_without_a_number_stays_valid_json(tmp_path: Path) -> None:
    """JSON knows no infinity, and a failed arm has no ratio."""
    file = tmp_path / "trial.json"
    write_json(file, {"measured": float("inf"), "of": [float("nan"), 1.5]})

    def refuse(constant: str) -> float:
        raise AssertionError(constant)

    assert json.loads(file.read_text(), parse_constant=refuse) == {"measured": None, "of": [None, 1.5]}


def test_json_to_standard_output(capsys: pytest.CaptureFixture[str]) -> None:
    write_json(Path("-"), {"a": 1})
    assert json.loads(capsys.readouterr().out) == {"a": 1}


def test_percentiles_and_medians() -> None:
    assert percentile([3.0, 1.0, 2.0], 50) == median([3.0, 1.0, 2.0]) == 2.0
    assert percentile([1.0, 2.0], 95) == pytest.approx(1.95)
    assert percentile([7.0], 95) == 7.0
    with pytest.raises(ValueError, match="no samples"):
        percentile([], 50)


def test_a_name_in_brackets_is_text_and_not_markup() -> None:
    console = Console(record=True, width=120, file=io.StringIO())
    console.print(table("t", ("a", "b"), [["[bold]model", "1"]]))
    assert "[bold]model" in console.export_text()
