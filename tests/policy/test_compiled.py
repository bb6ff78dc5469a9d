"""The policy compiled by mypyc decides what its sources decide: one hash for every eviction policy.

Compiling takes minutes, so this looks at what ``make policy-compiled`` has left, if that is of these sources.
"""

from __future__ import annotations

import os
import runpy
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
COMPILED = ROOT / "build" / "policy-compiled"
IS_CURRENT = runpy.run_path(str(ROOT / "scripts" / "compile_policy.py"))["is_current"]
LIVES = """
from stepwell.policy import scheduler
assert scheduler.__file__.endswith(".so"), scheduler.__file__
from tests.driver.test_same_again import LIVE, digest_of_a_busy_life as digest
print([digest(eviction) for eviction in LIVE])
"""
SIMULATED = """
from dataclasses import replace
from stepwell.policy.decisions import DecisionLog
from stepwell.policy.scheduler import Scheduler
from stepwell.simulate.generated import generated
from stepwell.simulate.hardware import MachineModel
from stepwell.simulate.machine import Machine
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.run import Room, config_for

for policy in ("stepwell", "oracle"):
    workload, model = generated(sessions=6, seed=3), MachineModel()
    blocks = -(-workload.context_tokens // workload.block_tokens) + 1
    scheduler = Scheduler(config_for(workload, model, Room(blocks, 2 * blocks, 10 * blocks), policy))
    player = Player(workload, Declared.parse("exact"))
    scheduler.context.future = player.future()
    machine = Machine(scheduler, model, player, SimulatedMeter(model, workload.unit_tokens), strict=True)
    log = DecisionLog()

    class Logged:
        def decided(self, now_us, events, plan):
            log.add(now_us, plan)

    machine.loop.observers.append(Logged())
    machine.run()
    print(policy, log.plans, log.digest)
"""


def said(code: str, source: Path) -> str:
    paths = os.pathsep.join([str(source), str(ROOT)])
    run = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "PYTHONPATH": paths},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout


needs_it = pytest.mark.skipif(
    not IS_CURRENT(ROOT / "src" / "stepwell" / "policy", COMPILED / "stepwell" / "policy"),
    reason="the policy is not compiled here, or from other sources: make policy-compiled (a C compiler)",
)


@needs_it
def test_compiled_and_pure_policies_decide_the_same_lives() -> None:
    pure = LIVES.replace('assert scheduler.__file__.endswith(".so"), scheduler.__file__', "")
    assert said(LIVES, COMPILED) == said(pure, ROOT / "src")


@needs_it
def test_compiled_and_pure_policies_simulate_the_same() -> None:
    """The oracle too: under mypyc a tuple is not itself after it has been in a list, so nothing may ask."""
    assert said(SIMULATED, COMPILED) == said(SIMULATED, ROOT / "src")


def test_without_a_compiler_it_says_so_in_a_sentence(tmp_path: Path) -> None:
    run = subprocess.run(
        [sys.executable, "scripts/compile_policy.py", "--target", str(tmp_path)],
        cwd=ROOT,
        env={"PATH": str(tmp_path), "CC": "no-such-compiler"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1
    assert run.stderr.strip().endswith("the policy runs without one as well")
    assert shutil.which("no-such-compiler") is None
