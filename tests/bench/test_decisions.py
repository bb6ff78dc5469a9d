"""The decision benchmark: that the load is what it says, never how fast it is decided."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest

from stepwell import cli
from stepwell.bench.policy.decisions import POLICIES, Cost, DecisionCase, measure, parse_sizes, verdicts
from stepwell.bench.policy.steady_load import PolicyLoad, PolicySize
from stepwell.errors import BadInput
from stepwell.policy.eviction import EVICTION_POLICIES
from stepwell.policy.types import KvTier

SMALL = PolicySize(16, 640)


@pytest.mark.parametrize("policy", sorted(EVICTION_POLICIES.keys() - {"oracle"}))
def test_the_load_is_a_life_that_the_policy_could_have_had(policy: str) -> None:
    """The book stays true, every turn ends, and blocks go down and come up."""
    load = PolicyLoad(SMALL, policy)
    blocks = load.fill()
    load.scheduler.check()
    assert 0.7 * SMALL.blocks < blocks < 1.3 * SMALL.blocks
    for _ in range(500):
        load.carry_out(load.scheduler.step(load.now_us, load.next_events()))
        load.scheduler.check()
    assert load.turns_ended > 3
    assert load.blocks_moved > 50
    assert load.scheduler.block_manager.device_used > load.scheduler.config.device_blocks // 2


def test_agents_hold_their_contexts_from_the_start_and_share_their_beginnings() -> None:
    load = PolicyLoad(PolicySize(30, 3_000), "lru")
    load.fill()
    records = list(load.scheduler.agents.records.values())
    assert len(records) == 30
    assert all(record.path and record.idle_since_us is not None for record in records)
    assert records[0].path[0] is records[1].path[0], "a family shares its first blocks"
    assert records[0].path[-1] is not records[1].path[-1]
    assert {block.fastest() for record in records for block in record.path} == {KvTier.DISK}


def test_the_same_load_is_decided_the_same() -> None:
    def life() -> list[object]:
        load = PolicyLoad(SMALL, "lru")
        load.fill()
        plans: list[object] = []
        for _ in range(60):
            plan = load.scheduler.step(load.now_us, load.next_events())
            load.carry_out(plan)
            plans.append(plan)
        return plans

    assert life() == life()


def test_every_step_is_measured_and_the_collector_apart() -> None:
    cost = measure(DecisionCase("lru", SMALL, 30))
    figures = cost.as_json()
    assert len(cost.step_us) == len(cost.moved_blocks) == len(cost.collector_us) == figures["steps"] == 30
    assert figures["quiet_steps"] == sum(cost.quiet) < 30, "turns arrive and blocks move in some steps"
    assert figures["step_us_p50"] <= figures["step_us_p99"] <= figures["step_us_max"]
    assert all(spent <= step for spent, step in zip(cost.collector_us, cost.step_us, strict=True))


def test_the_profile_names_functions_of_the_policy() -> None:
    profile = measure(DecisionCase("lru", SMALL, 10, profile=True)).profile
    assert re.search(r"(memory|admission|batch|machine|board|index)\.py:\d+\(\w+\)", profile)


def test_only_the_sizes_of_the_targets_are_judged() -> None:
    def cost(policy: str, size: PolicySize, step_us: float) -> Cost:
        return Cost(DecisionCase(policy, size, 1), [step_us], [0], [0.0], [True])

    found = [
        cost("stepwell", PolicySize(200, 50_000), 150.0),
        cost("stepwell", PolicySize(5_000, 1_000_000), 1_500.0),
        cost("stepwell", PolicySize(50, 12_500), 9e9),
        cost("lru", PolicySize(200, 50_000), 9e9),
    ]
    assert [verdict.reached for verdict in verdicts(found)] == [False, True, False, True]


@pytest.mark.parametrize(
    ("sizes", "sentence"),
    [
        ("200", "'200': give AGENTSxBLOCKS"),
        ("2x1000", "at least 8 agents"),
        ("100x1000", "with 20 blocks each"),
        ("5000x1000000000", "do not fit into this machine's free memory"),
        (" , ", "at least one size"),
    ],
)
def test_a_bad_size_gets_one_sentence(sizes: str, sentence: str) -> None:
    with pytest.raises(BadInput, match=sentence):
        parse_sizes(sizes)


@pytest.mark.parametrize("wrong", ["oracle", "best", ""])
def test_the_oracle_is_not_among_the_policies(wrong: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.run(["bench", "decisions", f"--policies={wrong}"]) == 2
    assert f"--policies {wrong!r}: there is {', '.join(POLICIES)}" in capsys.readouterr().err


def test_the_command_writes_one_case_per_policy_and_size(tmp_path: Path) -> None:
    out = tmp_path / "out.json"
    command = ["bench", "decisions", "--sizes", "16x640", "--policies", "lru,arc", "--steps", "20"]
    assert cli.run([*command, "--json", str(out)]) == 0
    written = json.loads(out.read_text())
    assert [case["policy"] for case in written["results"]["cases"]] == ["lru", "arc"]
    assert all(len(sample["step_us"]) == 20 for sample in written["samples"])
