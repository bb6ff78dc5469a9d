"""Live runs against their simulation, at small size: what is measured, what is said of it, and bad input."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell.bench.plans.fidelity import LiveRound, _table, figures_of, fill, off, sides_of
from stepwell.bench.plans.fidelity_fit import PlayedAgain
from stepwell.cli import run
from stepwell.console.report import Report
from stepwell.simulate.live_run import ClientTurn, TurnSeconds
from stepwell.simulate.llamacpp_costs import LlamaCppCosts


def test_a_live_run_is_simulated_and_decided_again(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file, kept = tmp_path / "found.json", tmp_path / "kept"
    words = ["bench", "fidelity", "--quick", "--model", "null", "--workloads", "pressure", "--rounds", "1"]
    assert run([*words, "--json", str(file), "--keep", str(kept)]) in (0, 1)
    assert "calibrated apart" in capsys.readouterr().out
    found = json.loads(file.read_text("utf-8"))["results"]["pressure"]["runs"][0]
    assert found["turns"] == 8 and found["failed"] == 0
    assert found["same_decisions"] is True and found["steps"] > 20
    assert len(found["simulated"]["before"]) == len(found["simulated"]["own"]) == 8
    assert {file.name for file in kept.iterdir()} == {"pressure-1.jsonl", "pressure-1-clients.json"}
    again = tmp_path / "again.json"
    words = ["bench", "fidelity", "--workloads", "pressure", "--from", str(kept), "--json", str(again)]
    assert run(words) in (0, 1)  # no server, and the same figures
    assert json.loads(again.read_text("utf-8"))["results"]["pressure"]["runs"][0] == found


def rounds(factor: float, *, same: bool = True) -> list[LiveRound]:
    """Two live runs alike, and a simulation that is off by a factor."""
    clients = [ClientTurn("c", f"paid-{n}" if n < 20 else "s", n, 1 + n, 2 + n, 11) for n in range(40)]
    times = {n: TurnSeconds(factor * t.ttft_s, 0.1 * factor, factor * t.e2e_s) for n, t in enumerate(clients)}
    sessions = {n: client.session for n, client in enumerate(clients)}
    model = LlamaCppCosts(1, 1, 1, 1, 1, 1, 1, 1, 1)
    played = PlayedAgain(times, times, sessions, model, 1.0, 30, 0.01, 30, 0.01, 0.0)
    return [LiveRound(clients, 0, played, same, 100) for _ in range(2)]


def reported(rounds: list[LiveRound]) -> Report:
    report = Report("fidelity", {})
    fill(report, {"pressure": rounds})
    return report


@pytest.mark.parametrize(("factor", "reached"), [(1.0, 7), (1.09, 7), (0.85, 4), (1.3, 1)])
def test_a_target_is_reached_when_the_error_is_small_enough(factor: float, reached: int) -> None:
    report = reported(rounds(factor))
    assert len(report.verdicts) == 7
    assert sum(bool(verdict.reached) for verdict in report.verdicts) == reached


def test_other_decisions_are_a_target_not_reached() -> None:
    missed = reported(rounds(1.0, same=False)).missed
    assert [verdict.target for verdict in missed] == [
        "pressure: steps decided otherwise when 200 are decided again"
    ]


def test_a_second_live_run_stands_beside_the_simulation() -> None:
    (side,) = sides_of("pressure", rounds(1.1))
    names = list(_table(side).columns[0].cells)
    assert names == ["calibrated apart"] * 3 + ["its own steps"] * 3 + ["live run 2 against 1"] * 3
    live = figures_of(rounds(1.0)[0].clients)
    assert off([1.1 * value for value in live["TTFT"]], live["TTFT"], 50) == pytest.approx(0.1)


def test_neighbours_are_told_together_and_by_side() -> None:
    both, paid, flood = sides_of("neighbours", rounds(1.0))
    assert (len(both.live), len(paid.live), len(flood.live)) == (80, 40, 40)
    assert {turn.session for turn in flood.live} == {"s"} and len(flood.before) == 40
    assert max(t.e2e_s for t in paid.before) < min(t.e2e_s for t in flood.before)


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--workloads", "presure"), "--workloads 'presure': there is pressure, neighbours"),
        (("--host-kv", "much"), "--host-kv"),
        (("--json", "/nowhere/at/all.json"), "does not exist"),
        (("--model", "no-such.gguf"), "no-such.gguf"),
        (("--from", "/nowhere"), "/nowhere holds no pressure-1.jsonl"),
    ],
)
def test_bad_input_is_one_sentence(
    words: tuple[str, ...], says: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(["bench", "fidelity", *words]) in (1, 2)
    error = capsys.readouterr().err
    assert says in error and "Traceback" not in error
