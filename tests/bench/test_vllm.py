"""``stepwell bench vllm`` without vLLM: what it would start, and how it judges."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from stepwell.bench.client import TurnSample
from stepwell.bench.harness import words_of
from stepwell.bench.vllm import ahead
from stepwell.bench.vllm.arms import ARMS, FS, LRU, OURS, OURS_ROOMY, ROOMY, STOCK, VllmPlan
from stepwell.bench.vllm.flood import FloodRow
from stepwell.bench.vllm.vllm import VllmArm, _tables, _verdicts
from stepwell.errors import BadInput

PLAN = VllmPlan(Path("models/tiny"), 960, 128, 32, 1 << 30, 1 << 30, 2, "float32")


def flag(command: tuple[str, ...], name: str) -> str | None:
    return command[command.index(name) + 1] if name in command else None


@pytest.mark.parametrize("name", ARMS)
def test_servers_differ_in_what_is_compared_and_in_nothing_else(name: str, tmp_path: Path) -> None:
    command = PLAN.arm(name, tmp_path).command
    roomy, ours = name in (ROOMY, OURS_ROOMY), name in (OURS, OURS_ROOMY)
    assert flag(command, "--num-gpu-blocks-override") == ("128" if roomy else "32")
    assert flag(command, "--max-num-seqs") == "2"
    assert ("stepwell.vllm.scheduler.StepwellScheduler" in command) is ours
    transfer = json.loads(flag(command, "--kv-transfer-config") or "{}").get("kv_connector_extra_config", {})
    assert (transfer.get("eviction_policy") == "lru") is (name in (LRU, FS))
    tiers = [tier["type"] for tier in transfer.get("secondary_tiers", ())]
    own = ["StepwellDisk", "StepwellAhead"]
    assert tiers == {FS: ["fs"], OURS: own, OURS_ROOMY: own}.get(name, [])


def arm(name: str, total_s: float, ttft_s: float, error: str | None = None) -> VllmArm:
    sample = TurnSample(0, 1, 0.0, ttft_s, ttft_s, 100, 40, 8, "a", error)
    return VllmArm(name, 1_024, [sample, sample], total_s)


def test_targets_are_judged_by_the_arms_that_ended() -> None:
    arms = [arm(ROOMY, 10.0, 0.1), arm(STOCK, 30.0, 3.0), arm(OURS, 10.5, 0.2), arm(OURS_ROOMY, 10.0, 0.1)]
    assert [verdict.reached for verdict in _verdicts(arms)] == [True, True, True]
    slow = [*arms[:2], arm(OURS, 12.0, 1.5), arm(OURS_ROOMY, 0.0, 0.0, "HTTP 500")]
    assert [verdict.reached for verdict in _verdicts(slow)] == [False, False, None]
    assert _verdicts([]) == []


def test_a_turn_that_failed_says_why_there_are_no_figures() -> None:
    refused = arm(STOCK, 1.0, 0.1, "HTTP 400: longer than 960 tokens")
    assert refused.as_json()["error"] == "a turn failed: HTTP 400: longer than 960 tokens"
    good, late = (
        TurnSample(0, 1, 0.0, 0.2, 0.3, 100, 40, 8, "a"),
        TurnSample(0, 1, 0.0, 0.6, 0.7, 100, 40, 8, "a"),
    )
    row = FloodRow("stepwell", [good], [late])
    assert row.as_json()["times"] == pytest.approx(3.0)
    row.error = "a paid turn failed: HTTP 400"
    assert not row.usable and row.as_json()["times"] is None


def test_tables_have_a_row_for_each_server_and_dashes_for_those_that_failed() -> None:
    good = TurnSample(0, 1, 0.0, 0.2, 0.3, 100, 40, 8, "a")
    exact = {"turns": 2, "different": 0, "computed_stock": 9, "computed_ours": 8, "prompt_tokens": 10}
    floods = [FloodRow("stepwell", [good], [good]), FloodRow("stock", error="it ended")]
    arms = [arm(ROOMY, 10.0, 0.1), arm(OURS, 1.0, 0.1, "HTTP 500")]
    pressed, answers, flooded = (list(made.columns) for made in _tables(arms, exact, floods))
    assert list(pressed[2].cells) == ["10.0 s", "-"] and list(pressed[5].cells) == ["120", "-"]
    assert [next(iter(column.cells)) for column in answers] == ["2", "0", "10", "9", "8"]
    assert list(flooded[3].cells) == ["1.00x", "-"]


def test_servers_are_named_with_commas() -> None:
    assert words_of("--arms", f"{STOCK},{OURS}", ARMS) == (STOCK, OURS)
    assert words_of("--arms", ", ".join(ARMS), ARMS) == ARMS
    with pytest.raises(BadInput, match="--arms 'sglang': there is stock with room"):
        words_of("--arms", "sglang", ARMS)


def test_servers_with_and_without_fetching_ahead_differ_in_one_tier(tmp_path: Path) -> None:
    def tiers(name: str) -> list[str]:
        command = ahead._arm(PLAN, name, tmp_path).command
        transfer = json.loads(flag(command, "--kv-transfer-config") or "")
        return [tier["type"] for tier in transfer["kv_connector_extra_config"]["secondary_tiers"]]

    assert tiers(ahead.ON_DEMAND) == ["StepwellDisk"]
    assert tiers(ahead.AHEAD) == ["StepwellDisk", "StepwellAhead"]


def test_agents_of_the_returning_kind_have_prompts_that_only_grow() -> None:
    first, later = (ahead.prompt_of(ahead.QUICK, 3, turn) for turn in (0, 2))
    assert later.startswith(first)
    assert ahead.prompt_of(ahead.QUICK, 4, 0)[:40] != first[:40]


def test_fetching_ahead_is_judged_by_time_and_by_what_went_unused() -> None:
    def row(name: str, ttft_s: float, **counters: float) -> ahead.AheadRow:
        samples = [TurnSample(0, turn, 0.0, ttft_s, ttft_s, 100, 90, 4, "a") for turn in (0, 1)]
        return ahead.AheadRow(name, samples, counters)

    rows = [
        row(ahead.ON_DEMAND, 0.4, from_disk=90.0),
        row(ahead.AHEAD, 0.3, from_host=90.0, promoted=10.0, used=9.0, wasted=1.0),
    ]
    measured = [verdict.measured for verdict in ahead.ahead_verdict(rows)]
    assert measured == [pytest.approx(0.75), pytest.approx(0.1)]
    assert rows[1].as_json()["from_disk"] == 0
    (shown,) = ahead.ahead_table(rows)
    assert shown.row_count == 2
    rows[0].error = "a turn failed: HTTP 500"
    assert ahead.ahead_verdict(rows)[0].measured is None
    assert ahead.ahead_verdict([]) == []
