"""``stepwell study``: every cell is a run, targets decide, and bad input is one sentence."""

from __future__ import annotations

import json
from fractions import Fraction
from pathlib import Path

import pytest

from stepwell.cli import run
from stepwell.commands.plan.choice import Choice
from stepwell.commands.study.amplification_played import PlayedLoad, PlayedMargin, play_amplified
from stepwell.commands.study.ssd import MEMORIES
from stepwell.simulate.growth import WindowRecorder

SMALL = ("study", "ssd", "h200", "--workload", "generated", "--per-hour", "60", "--hours", "0.05")


def test_disks_that_nothing_is_written_to_cost_their_room(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, page = tmp_path / "s.json", tmp_path / "s.html"
    assert run([*SMALL, "--json", str(figures), "--html", str(page)]) == 0
    last = capsys.readouterr().out.splitlines()[-1]
    assert "study: on h200 at the same target" in last and "nothing was written" in last
    rows = json.loads(figures.read_text())["rows"]
    assert [row["memory"] for row in rows] == list(MEMORIES)
    costs = [Fraction(row["USD/1,000 turns"]) for row in rows]
    assert costs[0] < costs[1] == costs[2]
    assert len({row["turns"] for row in rows}) == 1
    assert "<svg" in page.read_text()


def test_the_closed_form_stands_beside_it_and_hangs_on_the_price_of_disks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words, figures = ["study", "ssd", "h200,tpu-v6e", "--no-simulated"], tmp_path / "s.json"
    found = []
    for more in ((), ("--what-if", "ssd.usd_gb=x3")):
        assert run([*words, "--json", str(figures), *more]) == 0
        told = json.loads(figures.read_text())
        rows = {row["memory, at its cheapest size"]: row for row in told["closed_form"][:4]}
        found.append(Fraction(rows["HBM + DRAM + SSD, selective"]["USD/1,000 turns"]))
        assert not told["rows"] and len(told["answers"]) == 2
        assert Fraction(rows["HBM + DRAM"]["USD/1,000 turns"]) < Fraction(rows["HBM only"]["USD/1,000 turns"])
        assert "wear costs more above $0.53 a GB" in told["answers"][0], "at any price of disks"
    assert found[0] < found[1]
    assert "cheaper" in capsys.readouterr().out


def test_a_target_that_nothing_meets_says_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert run([*SMALL, "--ttft-s", "0.0001"]) == 0
    assert "no load that was tried meets the target" in capsys.readouterr().out


def test_amplification_falls_on_margins_and_tiers_bear_more_of_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, page = tmp_path / "s.json", tmp_path / "s.html"
    words = ["study", "amplification", "h200", "--list-prices", "gpt-5,0/0/0", "--times", "1,2"]
    assert run([*words, "--json", str(figures), "--html", str(page)]) == 0
    assert "study: gpt-5: margin with HBM only" in capsys.readouterr().out
    rows = [row for row in json.loads(figures.read_text())["rows"] if row["list_price"] == "gpt-5"]
    free = [row for row in json.loads(figures.read_text())["rows"] if row["list_price"] == "0/0/0"]
    assert all(row["margins"] == {"x1": None, "x2": None} and row["turns_borne"] == 0 for row in free)
    assert all(row["margins"]["x2"] < row["margins"]["x1"] for row in rows)
    borne = [row["turns_borne"] for row in rows if row["more"] == "turns"]
    assert borne == sorted(borne) and borne[0] < borne[-1], "each KV tier bears more"
    for one, other in zip(rows[:3], rows[3:], strict=True):
        # More turns cost more than longer answers in as many turns, and take all that is borne to nothing.
        assert one["margins"]["x2"] < other["margins"]["x2"]
        assert one["margins"]["x2"] == pytest.approx(1 - 2 / one["turns_borne"])
    assert "<svg" in page.read_text() and "0/0/0" in page.read_text()


def test_amplification_is_simulated_beside_the_closed_form(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, page = tmp_path / "s.json", tmp_path / "s.html"
    words = ["study", "amplification", "h200", "--list-prices", "gpt-5,0/0/0", "--times", "1,2"]
    small = ["--simulated", "--sessions", "generated", "--per-hour", "40", "--hours", "0.05"]
    assert run([*words, *small, "--json", str(figures), "--html", str(page)]) == 0
    assert "gpt-5, simulated: one replica, 40 paid sessions an hour" in capsys.readouterr().out
    rows = json.loads(figures.read_text())["simulated"]
    assert [(row["times"], row["memory"]) for row in rows[:6]] == [
        (times, memory) for times in ("x1", "x2") for memory in ("HBM", "+ DRAM", "+ SSD")
    ]
    turns = [int(row["turns"]) for row in rows[:6]]
    assert 0 < turns[0] < turns[3] and all(row["margin"] == "none" for row in rows[6:])
    assert "simulated: one replica" in page.read_text()


def test_what_one_multiple_does_does_not_hang_on_which_others_are_asked_for() -> None:
    def played(times: list[int], seed: int = 1) -> PlayedMargin:
        load = PlayedLoad(sessions="generated", per_hour=40, hours=0.05, seed=seed)
        return play_amplified("h200", Choice(), load, ["hbm"], times)[0]

    alone, beside, other = played([1]), played([1, 3]), played([1], seed=2)
    assert alone.input_tokens == beside.input_tokens and alone.run.usd == beside.run.usd
    assert alone.input_tokens != other.input_tokens


def test_speed_is_told_with_its_growth(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures = tmp_path / "s.json"
    assert run(["study", "speed", "--count", "3", "--doublings", "1", "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found["rows"][1]["requests"] > found["rows"][0]["requests"]
    assert [table["title"] for table in found["tables"]] == [
        "Speed", "Windows of the longest run, for each request",
    ]  # fmt: skip
    said = capsys.readouterr()
    assert "requests per CPU second" in said.out and "how time grows from there on is not known" in said.out
    assert "CPU s left" in said.err


def test_growth_is_told_over_the_windows_after_host_memory_was_full(tmp_path: Path) -> None:
    figures = tmp_path / "s.json"
    small = ["--what-if", "hbm_gb=x0.17", "--dram-gb", "2", "--replicas", "1"]
    words = ["study", "speed", "--count", "24", "--doublings", "0", "--window", "5", *small]
    assert run([*words, "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    windows, powers = found["rows"][0]["windows"], found["powers"]
    assert [one["requests"] for one in windows[:3]] == [5, 10, 15]
    assert windows[0]["host_share"] < 0.95 <= max(one["host_share"] for one in windows)
    # Steps are the same on every machine: half as many again as requests come would be found here.
    assert powers["steps"]["low"] < 1.0 < powers["steps"]["high"] and powers["steps"]["windows"] >= 8
    assert f"over {powers['CPU time']['windows']} windows, CPU time grows" in found["answer"]


def test_what_was_found_until_ctrl_c_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(recorder: WindowRecorder, count: int, now_us: int) -> None:
        found(recorder, count, now_us)
        if count == 15:
            raise KeyboardInterrupt

    found, figures = WindowRecorder.ended, tmp_path / "s.json"
    monkeypatch.setattr(WindowRecorder, "ended", interrupted)
    words = ["study", "speed", "--count", "6", "--doublings", "1", "--window", "5"]
    assert run([*words, "--json", str(figures)]) == 130
    (row,) = json.loads(figures.read_text())["rows"]
    assert not row["complete"] and row["requests"] == 15 and len(row["windows"]) == 3
    assert "interrupted after 15 requests" in json.loads(figures.read_text())["answer"]


@pytest.mark.parametrize(
    "flags",
    [
        ("ssd", "h2000", "--workload", "generated"),
        ("ssd", "h200", "--workload", "generated", "--per-hour", "0"),
        ("ssd", "h200", "--workload", "generated", "--per-hour", "many"),
        ("ssd", "h200", "--workload", "generated", "--drives", "0"),
        ("ssd", "h200", "--workload", "nowhere.jsonl"),
        ("ssd", "h200", "--no-simulated", "--what-if", "ssd.usd=1"),
        ("amplification", "h200", "--simulated", "--per-hour", "0"),
        ("amplification", "h200", "--simulated", "--sessions", "nowhere.jsonl"),
        ("amplification", "h2000"),
        ("amplification", "h200", "--list-prices", "gpt5"),
        ("amplification", "h200", "--list-prices", "1/2"),
        ("amplification", "h200", "--times", "0"),
        ("amplification", "h200", "--times", "twice"),
        ("amplification", "h200", "--utilisation", "0"),
        ("speed", "nowhere.jsonl"),
        ("speed", "--count", "0"),
        ("speed", "--doublings", "-1"),
        ("speed", "--window", "0"),
    ],
)
def test_bad_input_is_one_sentence(flags: tuple[str, ...], capsys: pytest.CaptureFixture[str]) -> None:
    assert run(["study", *flags]) == 2
    assert len(capsys.readouterr().err.strip().splitlines()) == 1


@pytest.mark.parametrize("command", ["plan price h200", "plan storage 1000", "simulate generated"])
def test_a_page_with_charts_needs_what_draws_them_before_anything_is_done(
    command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("stepwell.report.charts.find_spec", lambda name: None)
    assert run([*command.split(), "--html", str(tmp_path / "x.html")]) == 1
    said = capsys.readouterr()
    assert said.out == "" and said.err.count("\n") == 1
    assert "a report with charts needs the extra 'plots'" in said.err
