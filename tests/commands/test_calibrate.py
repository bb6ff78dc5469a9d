"""``stepwell calibrate`` with a recording of our own and an archive of runs, and what reads its machine."""

from __future__ import annotations

import gzip
import json
import tarfile
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
from tests.simulate.test_engine_run import META, folder, row
from tests.simulate.test_live_run import FRONT_US, live
from tests.simulate.test_recorded import record

from stepwell.cli import run
from stepwell.recording.file import read_recording
from stepwell.simulate.own_run import closed_loop, own_fit
from stepwell.simulate.recorded import RecordedTurn, recorded_workload


@pytest.fixture(scope="module")
def recording(tmp_path_factory: pytest.TempPathFactory) -> Path:
    file = tmp_path_factory.mktemp("own") / "run.jsonl.gz"
    record(file)
    return file


@pytest.fixture(scope="module")
def machine(recording: Path) -> Path:
    out = recording.parent / "machine.json"
    assert run(["calibrate", str(recording), "--out", str(out)]) == 0
    return out


def test_a_recording_gives_a_machine_that_does_what_was_recorded(tmp_path: Path) -> None:
    clients = live(tmp_path / "run.jsonl")
    found = own_fit(tmp_path / "run.jsonl")
    assert found.turns == len(clients) and not found.left_out
    assert abs(found.steps_error) < 0.02 and found.step_error < 0.02
    assert all(abs(error) < 0.1 for error in found.errors)
    mean_s = fmean(client.e2e_s for client in clients) - FRONT_US / 1e6
    assert found.measured.e2e_ms == pytest.approx(1e3 * mean_s, rel=0.1)


def test_its_figures_are_written(recording: Path, machine: Path, tmp_path: Path) -> None:
    figures = tmp_path / "f.json"
    assert run(["calibrate", str(recording), "--json", str(figures)]) == 0
    found = json.loads(figures.read_text())
    assert found["held_out_steps"] > 20 and set(found["errors"]) == {"TTFT", "TPOT", "E2E"}
    assert found["machine"] == json.loads(machine.read_text())
    config, _ = read_recording(recording)
    assert found["machine"]["device_tokens"] == config.device_blocks * config.block_tokens


def test_every_turn_is_sent_once_and_follows_what_let_it_come(recording: Path) -> None:
    config, steps = read_recording(recording)
    kept = list(steps)
    found = recorded_workload(config, kept)
    loop = closed_loop(found, kept)
    dues = [*loop.first, *(due for many in loop.after.values() for due in many)]
    sent = [what.recorded.request for _, what in dues if isinstance(what, RecordedTurn)]
    assert sorted(sent) == sorted(found.turns)
    assert all(gap_us >= 0 for many in loop.after.values() for gap_us, _ in many)
    # Three rounds with a pause between: the second and third rounds follow turns of the one before.
    assert len([1 for _, what in loop.first if isinstance(what, RecordedTurn)]) <= 9


@pytest.mark.parametrize("replicas", ["1", "2"])
def test_the_machine_is_simulated(recording: Path, machine: Path, replicas: str, tmp_path: Path) -> None:
    figures = tmp_path / "f.json"
    words = [
        "simulate",
        str(recording),
        "--machine",
        str(machine),
        "--replicas",
        replicas,
        "--prices",
        "none",
    ]
    assert run([*words, "--block-tokens", "16", "--json", str(figures)]) == 0
    found, known = json.loads(figures.read_text()), json.loads(machine.read_text())
    assert found["report"]["turns"] == 27
    assert found["blocks_per_replica"]["device"] == known["device_tokens"] // 16


def changed(good: Path, file: Path, more: dict[str, Any]) -> Path:
    file.write_text(json.dumps({**json.loads(good.read_text()), **more}))
    return file


def test_a_damaged_machine_is_one_sentence(
    machine: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    lines = json.loads(machine.read_text())["lines"]
    for name, more, says in (
        ("a", {"device_tokens": 3}, "give smaller --block-tokens"),
        ("b", {"machine": "abacus"}, "is no machine as"),
        ("c", {"lines": {**lines, "step_ps": -4}}, "step_ps is -4"),
        ("d", {"lines": {**lines, "token_bytes": 0}}, "token_bytes must be above zero"),
        ("e", {"max_running": "many"}, "is no machine as"),
        ("f", {"host_bytes": float("inf")}, "is no machine as"),
    ):
        file = changed(machine, tmp_path / name, more)
        assert run(["simulate", "generated", "--count", "2", "--machine", str(file)]) == 2
        error = capsys.readouterr().err
        assert says in error and len(error.strip().splitlines()) == 1
    assert run(["simulate", "generated", "--machine", str(tmp_path / "none")]) == 2
    assert "No such file" in capsys.readouterr().err


def test_a_recording_with_little_in_it_is_one_sentence(
    recording: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    short = tmp_path / "short.jsonl"
    short.write_bytes(b"".join(gzip.decompress(recording.read_bytes()).splitlines(keepends=True)[:6]))
    assert run(["calibrate", str(short)]) == 2
    assert "steps: 20 are needed" in capsys.readouterr().err


def test_an_archive_of_runs_is_calibrated_run_by_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, figures = tmp_path / "runs.tar.gz", tmp_path / "f.json"
    with tarfile.open(file, "w:gz") as archive:
        for name in ("a", "b"):
            archive.add(folder(tmp_path / name, [row(n) for n in range(30)], META), f"hw/{name}")
    assert run(["calibrate", str(file), "--json", str(figures)]) == 0
    assert "calibrate: 2 runs: the means are off by" in " ".join(capsys.readouterr().out.split())
    found = json.loads(figures.read_text())["runs"]
    assert [one["run"] for one in found] == ["hw/a", "hw/b"]
    assert found[0]["errors"] == found[1]["errors"]
    assert run(["calibrate", str(file), "--out", str(tmp_path / "m.json")]) == 2
    capsys.readouterr()
    assert run(["calibrate", str(file), "--hold-out"]) == 2
    assert "config.json must tell mem_bw" in capsys.readouterr().err
    assert run(["calibrate", str(tmp_path / "a"), "--hold-out"]) == 2
    assert "give a .tar.gz of folders" in capsys.readouterr().err
    memory = {"nodes": [{"instances": [{"npu_mem": {"mem_size": 96, "mem_bw": 1000}}]}]}
    for name in ("a", "b"):
        (tmp_path / name / "config.json").write_text(json.dumps(memory), encoding="utf-8")
    with tarfile.open(file, "w:gz") as archive:
        for name in ("a", "b"):
            archive.add(tmp_path / name, f"hw/{name}")
    assert run(["calibrate", str(file), "--hold-out", "--json", str(figures)]) == 0
    assert "each predicted from the others" in " ".join(capsys.readouterr().out.split())
    assert json.loads(figures.read_text())["hold_out"]
    empty = tmp_path / "empty.tar"
    tarfile.open(empty, "w").close()
    assert run(["calibrate", str(empty)]) == 2
    assert "there is no run in it" in capsys.readouterr().err
