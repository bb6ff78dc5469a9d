"""``bench policies``: every policy against the oracle, the same figures whoever runs them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from stepwell.bench import policies
from stepwell.cli import run
from stepwell.errors import BadInput
from stepwell.simulate.machine import SimulationError
from stepwell.simulate.report import RunReport


def bench(tmp_path: Path, *arguments: str) -> dict[str, Any]:
    out = tmp_path / "out.json"
    tokens = ["bench", "policies", "--trace", "generated", "--sessions", "12", "--json", str(out), *arguments]
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
    lru, *_, oracle = result["results"]["generated, device 1/4"]
    assert lru["against_oracle"] > 1 and lru["closed"] == 0.0 and oracle["against_oracle"] == 1.0
    assert any("service tiers by seed" in note for note in result["notes"])
    assert "cost of misses = again + copies + waits" in capsys.readouterr().out


def test_processes_change_nothing(tmp_path: Path) -> None:
    options = ["--room", "1/3", "--policy", "lru,ttl"]
    alone, together = (bench(tmp_path, *options, "--jobs", jobs) for jobs in ("1", "2"))
    assert without_time(alone) == without_time(together)


def test_our_own_policy_is_held_to_its_targets(tmp_path: Path) -> None:
    result = bench(tmp_path, "--room", "1/3", "--policy", "lru,stepwell,oracle", "--declared", "silent,0.3,1")
    limits = [(v["target"].split(", ")[-1], v["limit"]) for v in result["verdicts"]]
    assert limits == [
        ("declared silent: share of the distance LRU to oracle", 0.5),
        ("declared silent: against the best baseline", 1.0),
        ("declared 0.3: cost of misses against the oracle", 1.03),
        ("declared 0.3: against the best baseline", 1.0),
        ("declared 1: cost of misses against the oracle", 1.1),
        ("declared 1: against the best baseline", 1.0),
    ]


def test_no_traces_is_one_sentence(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv(policies.TRACES_VARIABLE, raising=False)
    with pytest.raises(BadInput, match=r"where are the traces\? Give --traces DIR or set STEPWELL_TRACES"):
        policies.main()
    with pytest.raises(BadInput, match="does not exist"):
        policies.main(traces=tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("flag", "value"),
    [("trace", "mooncake"), ("policy", "mru"), ("room", "2"), ("room", "none"), ("declared", "often")],
)
def test_a_wrong_flag_is_one_sentence(flag: str, value: str) -> None:
    given = {"trace": "generated", flag: value}
    with pytest.raises(BadInput, match=f"--{flag} {value}: "):
        policies.main(traces=Path(), **given)  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [SimulationError("the policy moves a block"), AssertionError()])
def test_one_failed_run_does_not_cost_the_others(
    error: Exception, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    run_one = policies.run_one

    def broken(setting: policies.Setting) -> RunReport:
        if setting.policy == "ttl":
            raise error
        return run_one(setting)

    monkeypatch.setattr(policies, "run_one", broken)
    out = tmp_path / "out.json"
    tokens = ["bench", "policies", "--trace", "generated", "--sessions", "8", "--room", "1/3"]
    assert run([*tokens, "--policy", "lru,ttl", "--json", str(out)]) == 1
    result = json.loads(out.read_text())
    assert [row["policy"] for row in result["results"]["generated, device 1/3"]] == ["lru"]
    why = str(error) or "AssertionError"
    assert result["notes"][-1] == f"generated, device 1/3, ttl FAILED: {why}"
