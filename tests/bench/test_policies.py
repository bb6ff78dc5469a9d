"""``bench policies``: every policy against a lower bound, the same figures with any number of processes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from stepwell.bench.policy import kept_runs, over_seeds, policies
from stepwell.cli import run
from stepwell.errors import BadInput
from stepwell.policy.types import KvTier
from stepwell.simulate.bound import Bound
from stepwell.simulate.machine import SimulationError
from stepwell.simulate.report import Latency, RunReport

SAMPLE = RunReport(
    *("lru", "silent", *[0.0] * 8, *[0] * 3, 0.0, 0, dict.fromkeys(KvTier, 0), {}, 0, None, 0, 0, 0, ()),
    Latency(0, 0.0, 0.0, 0.0),
    0,
    None,
    0.0,
)


def bench(
    tmp_path: Path, *arguments: str, sessions: int = 9, seeds: int = 1, trace: str = "generated"
) -> dict[str, Any]:
    out = tmp_path / "out.json"
    given = ["--trace", trace, "--sessions", str(sessions), "--seeds", str(seeds)]
    tokens = ["bench", "policies", *given, "--json", str(out), *arguments]
    assert run(tokens) == 0
    result: dict[str, Any] = json.loads(out.read_text())
    return result


def without_time(result: dict[str, Any]) -> list[dict[str, Any]]:
    rows = [row for rows in result["results"].values() for row in rows]
    return [{key: value for key, value in row.items() if key != "cpu_s"} for row in rows]


def test_rows_rooms_and_charts(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    charts = tmp_path / "charts"
    options = ["--room", "1/4,1/2", "--policy", "lru,steps,oracle", "--declared", "silent,0.3"]
    result = bench(tmp_path, *options, "--out", str(charts))
    assert list(result["results"]) == ["generated, device 1/4", "generated, device 1/2"]
    rows = [(row["policy"], row["declared"]) for row in result["results"]["generated, device 1/4"]]
    assert rows == [("lru", "silent"), ("steps", "silent"), ("steps", "0.3"), ("oracle", "exact")]
    assert sorted(path.name for path in charts.iterdir()) == ["generated-1-2.svg", "generated-1-4.svg"]
    beside = result["tables"][-1]
    assert beside["columns"] == ["policy", "device 1/4", "device 1/2"]
    assert [row[0] for row in beside["rows"]][2:] == ["steps, declared 0.3", "oracle, declared exact"]
    assert all(cell.endswith("x)") for row in beside["rows"] for cell in row[1:2])
    lru, *_, oracle = result["results"]["generated, device 1/4"]
    assert lru["times_bound"] > oracle["times_bound"] >= 1.0
    assert lru["bound"]["miss_s"] == lru["bound"]["again_s"] + lru["bound"]["copy_s"]
    assert any("service tiers by seed" in note for note in result["notes"])
    assert "cost of misses = again + copies + waits" in capsys.readouterr().out


def test_a_comparison_that_was_stopped_is_resumed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has ended is not run again, what is missing or damaged is, and the figures are the same."""
    kept = ["--room", "1/3", "--resume", str(tmp_path / "kept")]
    first = bench(tmp_path, *kept, "--policy", "lru")
    ran: list[str] = []
    attempt = policies._attempt
    monkeypatch.setattr(
        policies, "_attempt", lambda setting: (ran.append(setting.policy), attempt(setting))[1]
    )
    both = bench(tmp_path, *kept, "--policy", "lru,ttl")
    assert ran == ["ttl"]
    assert without_time(both)[:1] == without_time(first)
    for file in (tmp_path / "kept").iterdir():
        file.write_bytes(file.read_bytes()[:-9])
    again = bench(tmp_path, *kept, "--policy", "lru,ttl")
    assert ran == ["ttl", "lru", "ttl"]
    assert without_time(again) == without_time(both)
    monkeypatch.setattr(kept_runs, "code_digest", lambda: "another version")
    bench(tmp_path, *kept, "--policy", "lru")
    assert ran[3:] == ["lru"], "what other code has left does not count"


def test_shorter_pauses_and_a_busier_machine_make_turns_queue(tmp_path: Path) -> None:
    options = ["--room", "1/2", "--policy", "lru"]
    (plain,) = bench(tmp_path, *options)["results"]["generated, device 1/2"]
    pressed = bench(tmp_path, *options, "--pauses", "1/50", "--busy", "4")
    (row,) = pressed["results"]["generated, device 1/2"]
    assert row["turns"] == plain["turns"]
    assert row["elapsed_s"] < plain["elapsed_s"] / 4
    assert row["tiers"][1]["ttft"]["p50_s"] > 2 * plain["tiers"][1]["ttft"]["p50_s"]
    assert any("all pauses are 1/50 as long" in note for note in pressed["notes"])


def test_processes_change_nothing(tmp_path: Path) -> None:
    options = ["--room", "1/3", "--policy", "lru,ttl"]
    alone, together = (bench(tmp_path, *options, "--jobs", jobs) for jobs in ("1", "2"))
    assert without_time(alone) == without_time(together)


def test_our_own_policy_is_held_to_the_best_baseline(tmp_path: Path) -> None:
    result = bench(tmp_path, "--room", "1/3", "--policy", "lru,stepwell,oracle", "--declared", "silent,0.3")
    assert [(v["target"], v["limit"]) for v in result["verdicts"]] == [
        ("generated, device 1/3, stepwell, declared silent: against the best baseline", 1.0),
        ("generated, device 1/3, stepwell, declared 0.3: against the best baseline", 1.0),
    ]


def test_several_seeds_give_a_mean_and_an_interval(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["--room", "1/3", "--policy", "lru,ttl", "--seed", "7"]
    result = bench(tmp_path, *options, sessions=5, seeds=2)
    rows = [(row["seed"], row["policy"]) for row in result["results"]["generated, device 1/3"]]
    assert rows == [(7, "lru"), (7, "ttl"), (8, "lru"), (8, "ttl")]
    assert "mean of 2 seeds (95 % interval)" in capsys.readouterr().out


def test_targets_stand_for_the_agents_trace_and_for_open_loops() -> None:
    def a_run(policy: str, declared: str, miss_s: float, bound_s: float) -> RunReport:
        return replace(
            SAMPLE, policy=policy, declared=declared, miss_s=miss_s, bound=Bound(bound_s, 0, bound_s)
        )

    runs = [a_run("stepwell", "0.3", 4.0, 2.0), a_run("lru", "silent", 8.0, 2.0)]
    rows = over_seeds.rows_of([*runs, *(replace(run, miss_s=run.miss_s + 2) for run in runs)])
    bounded, best = over_seeds.verdicts("agentic", "1/8", rows)
    assert (bounded.measured, bounded.limit) == (2.5, 2.0)  # (4/2 + 6/2) / 2
    assert best.measured == pytest.approx((4 / 8 + 6 / 10) / 2) and best.limit == 1.0
    (open_loop,) = over_seeds.verdicts("conversation", "1/8", rows)
    assert open_loop.limit == 0.6


def test_the_interval_is_students() -> None:
    """For 4, 5, 6, 7, 8 by hand: 6 and 2.776 * 1.5811 / sqrt(5)."""
    mean = over_seeds.mean_of([4, 5, 6, 7, 8])
    assert mean is not None
    assert (mean.mean, mean.low, mean.high) == pytest.approx((6.0, 4.037, 7.963), abs=1e-3)
    assert over_seeds.mean_of([]) is None and str(over_seeds.mean_of([3.0])) == "3.00"


def test_no_traces_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(policies.TRACES_VARIABLE, raising=False)
    with pytest.raises(BadInput, match=r"where are the traces\? Give --traces DIR or set STEPWELL_TRACES"):
        policies.main()
    with pytest.raises(BadInput, match="does not exist"):
        policies.main(grid=policies.ComparedGrid(traces=tmp_path / "nowhere"))


@pytest.mark.parametrize(
    ("flag", "value"),
    [
        ("trace", "mooncake"),
        ("policy", "mru"),
        ("room", "2"),
        ("room", "none"),
        ("pauses", "0"),
        ("declared", "often"),
    ],
)
def test_a_wrong_flag_is_one_sentence(flag: str, value: str) -> None:
    given = {"trace": "generated", flag: value}
    with pytest.raises(BadInput, match=f"--{flag} '?{value}'?: "):
        policies.main(grid=policies.ComparedGrid(traces=Path(), **given))  # type: ignore[arg-type]


def test_our_own_crews_need_no_file_and_say_what_was_recorded(tmp_path: Path) -> None:
    given = ["--declared", "silent,recorded", "--policy", "lru,stepwell", "--room", "1/8"]
    result = bench(tmp_path, *given, trace="crews")
    rows = [(row["policy"], row["declared"]) for row in result["results"]["crews, device 1/8"]]
    assert rows == [("lru", "silent"), ("stepwell", "silent"), ("stepwell", "recorded")]
    assert all(row["refused"] == 0 for row in result["results"]["crews, device 1/8"])
    with pytest.raises(BadInput, match="generated has no recorded hints; --trace crews has them"):
        policies.main(grid=policies.ComparedGrid(trace="generated", declared="recorded"))


@pytest.mark.parametrize("error", [SimulationError("the policy moves a block"), AssertionError()])
def test_one_failed_run_does_not_cost_the_others(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_one = policies.run_one

    def broken(setting: policies.ComparedSetting) -> RunReport:
        if setting.policy == "ttl":
            raise error
        return run_one(setting)

    monkeypatch.setattr(policies, "run_one", broken)
    out = tmp_path / "out.json"
    tokens = ["bench", "policies", "--trace", "generated", "--sessions", "8", "--room", "1/3", "--seeds", "1"]
    assert run([*tokens, "--policy", "lru,ttl", "--json", str(out)]) == 1
    result = json.loads(out.read_text())
    assert [row["policy"] for row in result["results"]["generated, device 1/3"]] == ["lru"]
    why = str(error) or "AssertionError"
    assert result["notes"][-1] == f"generated, device 1/3, ttl, seed 1 FAILED: {why}"
