"""``stepwell bench router``: every rule at every size, and a target that holds for one of them."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.bench.fleet.router import RouterTime, verdicts


def test_a_quick_run_measures_every_rule(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "out.json"
    words = ["bench", "router", "--quick", "--nodes", "2,3", "--agents", "50", "--decisions", "40"]
    assert cli.run([*words, "--json", str(out)]) == 0
    cases = json.loads(out.read_text("utf-8"))["results"]["cases"]
    assert {(case["router"], case["nodes"]) for case in cases} == {
        (router, nodes) for router in ("kv-affine", "least-loaded", "round-robin") for nodes in (2, 3)
    }
    assert all(0 < case["choose_us_p50"] <= case["choose_us_p99"] for case in cases)
    assert "not measured" in capsys.readouterr().out


def test_the_target_is_that_of_the_first_rule_at_full_size() -> None:
    small, slow = RouterTime("kv-affine", 8, 99, [1.0]), RouterTime("kv-affine", 8, 100_000, [400.0])
    other = RouterTime("round-robin", 8, 100_000, [1.0])
    assert [verdict.reached for verdict in verdicts([small, other])] == [None]
    assert [verdict.reached for verdict in verdicts([small, other, slow])] == [False]


@pytest.mark.parametrize("text", ["", "0", "8,x", "5000"])
def test_sizes_that_are_none_are_refused(text: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "router", f"--nodes={text}"]) == 2
    assert "nodes of a fleet are whole numbers from 1 to 4,096" in capsys.readouterr().err
