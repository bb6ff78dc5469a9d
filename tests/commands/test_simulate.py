"""``stepwell simulate`` as a newcomer types it: the answer, JSON, a page, and one sentence for bad input."""

from __future__ import annotations

import gzip
import json
from pathlib import Path

import pytest
from tests.simulate.test_recorded import record

from stepwell.cli import run
from stepwell.simulate.workloads import Wanted, workload_of

QUICK = ("simulate", "generated", "--count", "6", "--replicas", "2")


def test_a_small_fleet_from_end_to_end(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page, figures, out = tmp_path / "f.html", tmp_path / "f.json", tmp_path / "w.jsonl"
    flags = ["--html", str(page), "--json", str(figures), "--export", str(out), "--fault", "lost:1@30+60"]
    assert run([*QUICK, *flags]) == 0
    assert "simulate: " in capsys.readouterr().out.splitlines()[-1]
    found = json.loads(figures.read_text())
    assert found["report"]["turns"] == len(out.read_text().splitlines())
    assert set(found["margin_by_tier"]) <= {"priority", "default", "flex"}
    assert found["books"]["cost_usd"] > 0
    assert "<svg" in page.read_text() and "seed 1" in page.read_text()


def test_a_seed_gives_the_same_figures(tmp_path: Path) -> None:
    found = []
    for name in ("a", "b"):
        file = tmp_path / name
        assert (
            run([*QUICK, "--json", str(file), "--arrivals", "gamma:1:3", "--what-if", "ssd.usd_gb=0.7"]) == 0
        )
        report = json.loads(file.read_text())["report"]
        found.append({k: v for k, v in report.items() if "cpu_s" not in k})
    assert found[0] == found[1]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        (("nowhere.jsonl",), "no such file or workload"),
        (("generated", "--part", "h2000"), "did you mean"),
        (("generated", "--model", "lama"), "the catalogue has no model"),
        (("generated", "--replicas", "0"), "--replicas"),
        (("generated", "--drives", "-1"), "--drives"),
        (("generated", "--policy", "best"), "--policy best: there is"),
        (("generated", "--fault", "lost"), "--fault lost"),
        (("generated", "--fault", "lost:9@1+1"), "replicas are numbered 0 to"),
        (("generated", "--what-if", "hbm_gb=-3"), "at or above zero"),
        (("generated", "--what-if", "nothing=3"), "no such input"),
        (("generated", "--arrivals", "gamma"), "--arrivals"),
        (("generated", "--count", "0"), "--count"),
        (("generated", "--block-tokens", "1"), "--block-tokens"),
        (("generated", "--bad-share", "2"), "--bad-share"),
        (("generated", "--chips", "1", "--model", "llama-3.1-405b"), "HBM binds"),
        (("generated", "--what-if", "hbm_tb_s=0"), "above zero"),
        (("generated", "--prices", "dear"), "dear"),
    ],
)
def test_bad_input_is_one_sentence(
    flags: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["simulate", *flags]) == 2
    error = capsys.readouterr().err
    assert says in error and len(error.strip().splitlines()) == 1


@pytest.mark.parametrize(
    "figure", ["hbm_tb_s", "tflops_fp8", "host_link_gb_s", "ssd.dwpd", "ssd.life_years", "ssd.read_gb_s"]
)
@pytest.mark.parametrize("command", [("simulate", "generated"), ("plan", "capacity", "h200")])
def test_a_figure_that_is_divided_by_is_not_zero(
    command: tuple[str, ...], figure: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run([*command, "--what-if", f"{figure}=0"]) == 2
    assert "must be above zero" in capsys.readouterr().err


@pytest.mark.parametrize("declared", ["silent", "exact"])
def test_a_recording_of_our_own_is_a_workload(
    declared: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, figures = tmp_path / "run.jsonl.gz", tmp_path / "f.json"
    record(file)
    assert (
        run(["simulate", str(file), "--replicas", "2", "--declared", declared, "--json", str(figures)]) == 0
    )
    assert "simulate: 27 turns on 2 replicas" in " ".join(capsys.readouterr().out.split())
    found = json.loads(figures.read_text())
    assert set(found["margin_by_tier"]) == {"priority", "default", "flex"}
    assert any("27 recorded turns" in note for note in found["notes"])
    # Each agent's later prompts begin with its first: names of the recording are still equal where they were.
    assert found["endless_memory"]["hit"] > found["endless_memory"]["unique"] > 0


def test_a_recorded_turn_keeps_its_caller_its_length_and_its_time(tmp_path: Path) -> None:
    file = tmp_path / "run.jsonl.gz"
    record(file)
    work, _ = workload_of(Wanted(str(file)))
    assert len({s.agents[0].name for s in work.sessions}) == 9
    assert all(s.agents[0].role == "coder" for s in work.sessions)
    starts = [s.start_us for s in work.sessions]
    assert starts == sorted(starts) and starts[0] == 0 and starts[-1] > 4_000_000
    pauses = [s.turns[0].rest_us for s in work.sessions]
    assert all(p is not None and p >= 1_900_000 for p in pauses[:18]) and pauses[18:] == [None] * 9
    first, _ = workload_of(Wanted(str(file), count=5))
    assert first.sessions == work.sessions[:5]


def test_a_recording_without_a_turn_and_one_that_is_damaged_are_one_sentence(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    whole = tmp_path / "run.jsonl.gz"
    record(whole)
    lines = gzip.decompress(whole.read_bytes()).splitlines(keepends=True)
    for name, text, says in (
        ("empty.jsonl", lines[:1], "holds no turns"),
        ("damaged.jsonl", [lines[0], b"{}\n"], "line 2 is damaged"),
    ):
        file = tmp_path / name
        file.write_bytes(b"".join(text))
        assert run(["simulate", str(file)]) == 2
        assert says in capsys.readouterr().err


def test_a_context_limit_holds_for_every_kind_of_trace(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "two.jsonl"
    line = {"timestamp": 0, "input_length": 600, "output_length": 5, "hash_ids": [1, 2]}
    file.write_text("".join(json.dumps(line | {"input_length": n}) + "\n" for n in (600, 900)))
    kept, _ = workload_of(Wanted(str(file), context_tokens=700))
    assert [t.prompt_tokens for t in kept.turns()] == [600]
    assert run(["simulate", str(file), "--context-tokens", "100"]) == 2
    assert "no session has a context of at most 100 tokens" in capsys.readouterr().err
