"""Every placement decides the same twice, and under any hash seed: the decision log has one hash."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.policy.decisions import DecisionLog
from stepwell.policy.placements import PLACEMENTS
from stepwell.policy.types import Hint, Wait
from tests.driver.harness import make_rig

LIVE = sorted(PLACEMENTS.keys() - {"oracle"})
WAITS = (Wait.TOOL, Wait.PERSON, Wait.AGENT, Wait.UNKNOWN, Wait.DONE)


def digest_of_a_busy_life(placement: str) -> str:
    """Agents of two customers and three service tiers, with hints, failures and too little room."""
    rig = make_rig(device=12, host=10, disk=30, placement=placement, max_running=4)
    log = DecisionLog()
    step = rig.driver.policy.step

    def logged(now_us, events):  # type: ignore[no-untyped-def]
        plan = step(now_us, events)
        log.add(now_us, plan)
        return plan

    rig.driver.policy.step = logged  # type: ignore[method-assign]
    for turn in range(6):
        for agent in range(8):
            rig.ask(
                [100 + agent % 3, *range(60, 75 + 5 * turn), 100 + agent],
                5,
                agent=f"a{agent}",
                tenant=f"tenant-{agent % 2}",
                service_tier=("priority", "default", "flex")[agent % 3],
                hint=Hint(WAITS[(agent + turn) % 5], 400_000 * agent, f"a{(agent + 2) % 8}"),
            )
        rig.tiers.fail_reads = 1
        rig.settle()
        rig.clock.sleep_us(700_000)
    rig.driver.stop()
    assert log.plans > 50
    return log.digest


@pytest.mark.parametrize("placement", LIVE)
def test_the_same_life_is_decided_the_same(placement: str) -> None:
    assert digest_of_a_busy_life(placement) == digest_of_a_busy_life(placement)


def test_the_hash_seed_changes_no_decision_of_any_placement() -> None:
    code = (
        "from tests.driver.test_same_again import LIVE, digest_of_a_busy_life as digest; "
        "print([digest(placement) for placement in LIVE])"
    )
    seen = {
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("0", "3")
    }
    assert len(seen) == 1


def test_placements_really_decide_differently() -> None:
    """Else the tests above would compare one rule with itself."""
    assert len({digest_of_a_busy_life(placement) for placement in LIVE}) >= len(LIVE) - 1
