"""Throughput, overhead, returns and doctor: what they compute from what they measured, never how fast."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import pytest

from stepwell.basics.clock import ManualClock
from stepwell.bench.engine import overhead, speculate, throughput
from stepwell.bench.harness import NULL_MODEL
from stepwell.bench.turns import TurnsWork
from stepwell.commands.doctor import doctor
from stepwell.console.progress import ticker
from stepwell.engines.null import NullConfig, NullEngine, NullText
from stepwell.engines.probe import LENGTHS, PieceTime, Probe, ReturnSpeeds, crossovers
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import KvSettings, Settings


def probe(**config: int) -> Probe:
    engine = NullEngine(NullConfig(device_blocks=64, **config), ManualClock())
    return Probe(engine, NullText(engine.info))


def speeds(*, load_us: float = 200.0, prefill_us: float = 4_000.0) -> ReturnSpeeds:
    """Loading costs ``load_us`` a block, computing ``prefill_us`` a token at any depth."""
    return ReturnSpeeds(
        block_tokens=64,
        prefill=[PieceTime(start, 256, 256 * prefill_us) for start in range(0, 1024, 256)],
        decode_us={1: 10_000.0},
        store_us=[300.0],
        load_us=[load_us],
        return_us=[16 * load_us],
        return_tokens=1024,
        disk_one_us=1_000.0,
        disk_many_us=16_000.0,
    )


# --- returns ----------------------------------------------------------------------------------


def test_a_probe_measures_everything_and_leaves_the_engine_empty() -> None:
    one = probe()
    found = one.measure(tokens=512, batch=4)
    assert found.return_tokens == 512
    assert sum(piece.count for piece in found.prefill) == 512
    assert set(found.decode_us) == {1, 4}
    assert len(found.load_us) == len(found.store_us) == 8 * len(found.return_us)
    one.engine.check()
    kept, _ = one.keep(64)  # every frame is free again
    assert len(kept) == 64


def test_a_probe_makes_do_with_a_small_device() -> None:
    engine = NullEngine(NullConfig(device_blocks=4), ManualClock())
    found = Probe(engine, NullText(engine.info)).measure(tokens=1024, batch=12)
    assert found.return_tokens == 3 * 64


def test_recompute_grows_with_tokens_and_depth_when_depth_costs() -> None:
    deep = speeds()
    deep.prefill = [PieceTime(start, 256, 256 * (1_000 + start)) for start in range(0, 1024, 256)]
    assert deep.recompute_us(512, 0) > deep.recompute_us(256, 0)
    assert deep.recompute_us(256, 4096) > deep.recompute_us(256, 0)


def test_parts_of_blocks_count_as_whole_ones() -> None:
    assert speeds().host_us(1) == speeds().host_us(64) == 200.0
    assert speeds().host_us(65) == 400.0


def test_disk_is_a_first_block_and_a_price_for_each_further_one() -> None:
    assert speeds().disk_us(64) == 1_000.0 + 200.0
    assert speeds().disk_us(1024) == pytest.approx(16_000.0 + 16 * 200.0)
    assert replace(speeds(), disk_one_us=None).disk_us(64) is None


def test_crossover_is_the_shortest_run_worth_loading() -> None:
    """A block of 64 costs 200 us; at 5 us a token, 40 tokens cost as much: 48 is the first in 16s."""
    found = {(one.kv_tier, one.depth): one.tokens for one in crossovers(speeds(prefill_us=5.0))}
    assert found["host", 0] == 48
    assert found["disk", 0] is None
    always = {one.tokens for one in crossovers(speeds())}
    assert always == {16}


# --- doctor -----------------------------------------------------------------------------------


def test_targets_of_doctor_can_be_missed() -> None:
    assert [verdict.reached for verdict in doctor.verdicts(speeds())] == [True, True]
    assert [verdict.reached for verdict in doctor.verdicts(speeds(load_us=700.0))] == [False, True]
    slow = replace(speeds(), disk_many_us=80_000.0)
    assert [verdict.reached for verdict in doctor.verdicts(slow)] == [True, False]
    none = replace(speeds(), disk_one_us=None)
    assert [verdict.reached for verdict in doctor.verdicts(none)] == [True, None]


def settings(**kv: int) -> Settings:
    return Settings(engine=EngineSettings(kind="null"), kv=KvSettings(**kv))


def found(one: ReturnSpeeds, **changes: object) -> doctor.Findings:
    engine = NullEngine(NullConfig(device_blocks=64))
    disk = {"direct_io": True}
    return replace(doctor.Findings(engine.info, one, disk, None), **changes)


def test_capacity_counts_whole_blocks_in_every_kv_tier() -> None:
    info = NullEngine(NullConfig(device_blocks=64)).info
    fits = doctor.capacity(settings(host_kv=10 * 16 * info.block_bytes, disk_kv=0), info)
    assert fits["device"] == {"1024": 4, "4096": 1, "8192": 0}
    assert fits["host"] == {"1024": 10, "4096": 2, "8192": 1}
    assert fits["disk"] == {"1024": 0, "4096": 0, "8192": 0}


def test_too_much_host_memory_is_warned_about() -> None:
    many = list(doctor.warnings(settings(host_kv=100 << 30), found(speeds()), 8 << 30))
    assert any("choose a smaller --host-kv" in line for line in many)
    few = list(doctor.warnings(settings(host_kv=1 << 30), found(speeds()), 8 << 30))
    assert not any("--host-kv" in line for line in few)


def test_a_disk_that_does_not_pay_is_warned_about(tmp_path: Path) -> None:
    here = Settings(engine=EngineSettings(kind="null"), kv=KvSettings(disk_dir=tmp_path, disk_kv=1 << 20))
    slow = replace(speeds(), disk_many_us=5e6)
    assert any("does not pay" in line for line in doctor.warnings(here, found(slow), 8 << 30))
    assert not any("does not pay" in line for line in doctor.warnings(here, found(speeds()), 8 << 30))
    cached = found(speeds(), disk={"direct_io": False})
    assert any("page cache" in line for line in doctor.warnings(here, cached, 8 << 30))


def test_a_disk_that_is_too_small_or_absent_is_warned_about(tmp_path: Path) -> None:
    large = Settings(engine=EngineSettings(kind="null"), kv=KvSettings(disk_dir=tmp_path, disk_kv=1 << 60))
    assert any("--disk-kv" in line for line in doctor.warnings(large, found(speeds()), 8 << 30))
    absent = found(speeds(), disk=None, disk_problem="/x cannot be used for KV: read-only")
    assert "/x cannot be used for KV: read-only" in list(doctor.warnings(large, absent, 8 << 30))


def test_doctor_says_it_all(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("STEPWELL_ENGINE_KIND", "null")
    file = tmp_path / "doctor.json"
    flags = doctor.DoctorFlags(disk_dir=tmp_path / "kv", host_kv="1MiB", disk_kv="8MiB")
    doctor.doctor(flags=flags, json_file=file)
    out = capsys.readouterr().out
    for words in ("KV per token", "agents of 1,024", "from disk", "beats recomputing", "back from host"):
        assert words in " ".join(out.split())
    content = json.loads(file.read_text())
    assert content["results"]["kv_bytes_per_token"] == 64
    assert len(content["results"]["crossover_tokens"]) == 6
    assert content["settings"]["host_kv_bytes"] == 1 << 20
    assert [verdict["measured"] is None for verdict in content["verdicts"]] == [False, False]
    assert list(tmp_path.iterdir()) == [file], "the measurement leaves nothing behind"


def test_doctor_without_a_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STEPWELL_ENGINE_KIND", "null")
    file = tmp_path / "doctor.json"
    doctor.doctor(flags=doctor.DoctorFlags(disk_kv="0"), json_file=file)
    content = json.loads(file.read_text())
    assert content["results"]["disk"] is None
    assert content["verdicts"][1]["measured"] is None


# --- overhead ---------------------------------------------------------------------------------

TINY = TurnsWork(agents=6, turns=2, prompt_tokens=90, added_tokens=5, output_tokens=4, device_kv_tokens=512)
COSTS = {
    "prefill_us_per_token": 100,
    "decode_us_per_step": 50,
    "decode_us_per_sequence": 25,
    "copy_us_per_block": 7,
}


def test_overhead_splits_every_step(capsys: pytest.CaptureFixture[str]) -> None:
    with ticker() as progress:
        spent = overhead._on_the_null_engine(TINY, COSTS, progress)
    assert spent.steps == len(spent.shares) == len(spent.outside_us) > 0
    assert 0 < spent.run_s < spent.step_s
    figures = spent.as_json()
    parts = ("policy_share", "engine_moves_share", "driver_and_sinks_share")
    assert sum(figures[part] for part in parts) == pytest.approx(figures["outside_share"])
    assert spent.moves_s > 0, "six agents do not fit into this device"


def test_skipped_time_counts_as_if_it_had_passed() -> None:
    clock = overhead.SkippingClock()
    before_us = clock.now_us()
    clock.sleep_us(3_600_000_000)
    assert clock.now_us() - before_us >= 3_600_000_000


def test_overhead_verdicts_can_be_missed() -> None:
    def spent(outside: float) -> overhead.OverheadSpent:
        return overhead.OverheadSpent("tiny", 6, steps=1, step_s=1.0, run_s=1 - outside)

    assert [v.reached for v in overhead.verdicts([spent(0.02), spent(0.09)])] == [True, True]
    assert [v.reached for v in overhead.verdicts([spent(0.04), spent(0.04)])] == [False, True]
    assert [v.reached for v in overhead.verdicts([spent(0.02), spent(0.11)])] == [True, False]


def test_costs_for_the_null_engine_come_from_the_engine() -> None:
    config = NullConfig(
        device_blocks=64, prefill_us_per_token=300, decode_us_per_step=2_000, decode_us_per_sequence=1_000
    )
    engine = NullEngine(config)
    with ticker() as progress:
        costs = overhead.measure_costs(engine, NullText(engine.info), progress)
    # Real sleeps last longer than asked, never less: bounds on one side only.
    assert costs["prefill_us_per_token"] >= 300
    assert set(costs) == set(COSTS)


# --- throughput -------------------------------------------------------------------------------

CASE = throughput.ThroughputCase("batch", 3, True, depth_tokens=40, rounds=2, steps_per_round=3)


def test_prompts_differ_from_their_first_tokens_on_and_have_one_length() -> None:
    text = NullText(NullEngine().info)
    made = throughput.prompts_for(CASE, lambda w: text.tokenize(w, add_bos=True, parse_special=False))
    assert [len(prompt) for prompt in made] == [40, 40, 40]
    assert len({tuple(prompt[:10]) for prompt in made}) == 3


def test_the_device_holds_all_sequences_to_their_end() -> None:
    blocks = -(-(CASE.depth_tokens + CASE.output_tokens) // 64)
    assert CASE.device_kv_tokens >= 64 * blocks * CASE.sequences
    assert CASE.output_tokens > (CASE.rounds + 1) * CASE.steps_per_round


def test_the_ratio_is_the_median_of_neighbouring_rounds() -> None:
    found = throughput.Speeds(CASE, ours=[90.0, 50.0, 99.0], raw=[100.0, 50.0, 100.0])
    assert found.ratio == pytest.approx(0.99)
    assert throughput.verdicts([found])[0].reached is True
    slow = throughput.Speeds(CASE, ours=[90.0], raw=[100.0])
    assert throughput.verdicts([slow])[0].reached is False


@pytest.mark.model
def test_both_loops_decode_the_same_tokens(smollm2_path: Path) -> None:
    with ticker() as progress:
        found = throughput._measure(CASE, str(smollm2_path), 1, progress)
    assert len(found.ours) == len(found.raw) == CASE.rounds
    assert min(found.ours + found.raw) > 0


def test_lengths_of_the_crossover_table_are_whole_units() -> None:
    assert all(tokens % 16 == 0 for tokens in LENGTHS)


# --- speculate --------------------------------------------------------------------------------


def test_a_code_edit_names_a_function_of_its_program_and_differs_by_seed() -> None:
    code, name = speculate.program(random.Random(1))
    assert code.count(f"def {name}(") == 1 and code.count("def ") == 3
    text = NullText(NullEngine().info)
    assert len({tuple(speculate.prompt_for(text, seed)) for seed in range(5)}) == 5


def test_both_arms_of_a_code_edit_give_the_same_tokens() -> None:
    arms = speculate.Arms(2)
    with ticker() as progress:
        speculate._measure(arms, NULL_MODEL, (8, 40, 2), None, progress)
    assert (arms.answers, arms.same, arms.generated) == (4, 4, 160)
    assert len(arms.off) == len(arms.on) == 2
    assert speculate.verdicts([arms])[0].measured == arms.speedup
