"""Runs of another engine: lines are found again, what is damaged is named, and the play is the run."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepwell.cli import run as cli_run
from stepwell.errors import BadInput
from stepwell.simulate.accelerator import Accelerator
from stepwell.simulate.engine_fit import fidelity, play_run, predicted
from stepwell.simulate.engine_run import EngineRun, Measured, Scales, read_run

TRUE = Accelerator(9_000_000_000, 60_000_000, 0, 80_000_000, 90_000, 1)


def a_run(blocks: int, count: int = 60, seed: int = 1, machine: Accelerator = TRUE) -> EngineRun:
    """What the simulation itself makes of made-up requests on a known machine."""
    draw, at_s, asked = random.Random(seed), 0.0, []
    for _ in range(count):
        at_s += draw.expovariate(4.0)
        lengths = draw.randint(50, 600), draw.randint(20, 120)
        asked.append(Measured(*lengths, at_s, at_s, at_s, at_s))
    empty = EngineRun("made up", tuple(asked), (), 16, blocks, "stated", 64, 512, None, 1)
    played = play_run(empty, machine).requests
    return EngineRun("made up", played, (), 16, blocks, "stated", 64, 512, None, 1)


@pytest.mark.parametrize("blocks", [100_000, 400])
def test_a_known_machine_is_found_again(blocks: int) -> None:
    """Also where memory binds and requests are preempted."""
    found = fidelity(a_run(blocks))
    assert max(map(abs, found.errors[1:])) < 0.05
    assert abs(found.errors[0]) < 0.1
    assert found.model.step_ps == pytest.approx(TRUE.step_ps, rel=0.25)


def test_lines_are_carried_over_to_a_run_that_was_not_fitted() -> None:
    """A machine of half the bandwidth: all but what a sequence adds takes twice as long."""
    slow = Accelerator(18_000_000_000, 120_000_000, 0, 80_000_000, 180_000, 1)
    scales = Scales(step=0.008, depth=8e-8, prompt_token=5e-5)
    half = Scales(step=0.016, depth=16e-8, prompt_token=1e-4)
    known = replace(a_run(100_000), scales=scales)
    unseen = replace(a_run(100_000, seed=2, machine=slow), scales=half)
    found = predicted(unseen, [known])
    assert max(map(abs, found.errors[1:])) < 0.1
    assert abs(predicted(replace(unseen, scales=scales), [known]).errors[1]) > 0.2, "bandwidth counts"
    with pytest.raises(BadInput, match=r"config.json must tell mem_bw"):
        predicted(replace(unseen, scales=None), [known])


def row(number: int, **more: Any) -> str:
    at = 100.0 + number
    plain = {
        "input_toks": 90,
        "output_toks": 40,
        "queued_ts": at,
        "scheduled_ts": at,
        "first_token_ts": at + 0.1,
    }
    return json.dumps({**plain, "last_token_ts": at + 1.0, **more})


def folder(path: Path, lines: list[str], meta: object) -> Path:
    (path / "vllm").mkdir(parents=True)
    (path / "vllm" / "requests.jsonl").write_text("\n".join(lines), encoding="utf-8")
    (path / "vllm" / "meta.json").write_text(json.dumps(meta), encoding="utf-8")
    return path


META = {"model": "meta-llama/Llama-3.1-8B", "engine_kwargs": {"max_num_seqs": 8, "data_parallel_size": 2}}


def test_a_folder_is_read_with_the_engine_s_own_limits(tmp_path: Path) -> None:
    meta = META | {"kv_cache": {"num_gpu_blocks": 77, "block_size": 32}}
    found = read_run(folder(tmp_path, [row(n) for n in range(30)], meta))
    assert (found.blocks, found.block_tokens, found.max_running, found.replicas) == (77, 32, 8, 2)
    assert found.requests[0].queued_s == 0.0 and found.requests[3].tpot_s == pytest.approx(0.9 / 39)


def test_without_a_block_count_memory_says_how_many(tmp_path: Path) -> None:
    place = folder(tmp_path, [row(n) for n in range(30)], META)
    assert read_run(place).blocks_from.startswith("unknown")
    memory = {"nodes": [{"instances": [{"npu_mem": {"mem_size": 96, "mem_bw": 1000, "mem_util": 0.9}}]}]}
    (place / "config.json").write_text(json.dumps(memory), encoding="utf-8")
    assert 25_000 < read_run(place).blocks < 40_000
    scales = read_run(place).scales
    assert scales is not None and scales.step == pytest.approx(0.016, rel=0.05)  # 16 GB at 1 TB/s
    assert scales.depth == pytest.approx(131_072e-12)
    memory["nodes"][0]["instances"][0]["npu_mem"]["mem_size"] = 12
    (place / "config.json").write_text(json.dumps(memory), encoding="utf-8")
    with pytest.raises(BadInput, match="no memory is left"):
        read_run(place)


@pytest.mark.parametrize(
    "bad",
    [
        "{",
        row(1, last_token_ts=1.0),
        row(1, output_toks=0),
        row(1, queued_ts="soon"),
        '{"input_toks": 1}',
        "7",
    ],
)
def test_a_malformed_request_is_named(tmp_path: Path, bad: str) -> None:
    found = read_run(folder(tmp_path, [*[row(n) for n in range(40)], bad], META))
    assert len(found.requests) == 40 and found.bad[0].startswith("line 41")


def test_what_is_no_run_is_one_sentence(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli_run(["calibrate", str(tmp_path)]) == 2
    assert "there is no requests.jsonl" in capsys.readouterr().err
    few = folder(tmp_path / "few", [row(1)], META)
    with pytest.raises(BadInput, match="too few"):
        read_run(few)
    half = folder(tmp_path / "half", [row(n) for n in range(30)] + ["{"] * 9, META)
    with pytest.raises(BadInput, match="refused, 9 of 39"):
        read_run(half)
    odd = folder(
        tmp_path / "odd", [row(n) for n in range(30)], META | {"engine_kwargs": {"max_num_seqs": "many"}}
    )
    with pytest.raises(BadInput, match="damaged"):
        read_run(odd)


def test_the_command_ends_with_one_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = a_run(100_000, count=30)
    rows = [
        row(0, input_toks=r.input_tokens, output_toks=r.output_tokens, queued_ts=r.queued_s,
            scheduled_ts=r.scheduled_s, first_token_ts=r.first_s, last_token_ts=r.last_s)
        for r in made.requests
    ]  # fmt: skip
    meta = {"model": "m", "engine_kwargs": {"max_num_seqs": 64, "max_num_batched_tokens": 512}}
    place, out = folder(tmp_path / "run", rows, meta), tmp_path / "run.json"
    assert cli_run(["calibrate", str(place), "--json", str(out)]) == 0
    assert "calibrate: m: error of the means: TTFT" in capsys.readouterr().out.splitlines()[-1]
    assert abs(json.loads(out.read_text())["errors"]["E2E"]) < 0.05
