"""The same events are decided the same by every Python there is: the policy needs nothing but its library."""

from __future__ import annotations

import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from stepwell.policy.decisions import DecisionLog
from stepwell.policy.types import Hint, Wait
from tests.driver.harness import make_rig

SOURCE = Path(__file__).parents[2] / "src"
DECIDE_AGAIN = """
import pickle, sys
from stepwell.policy.decisions import DecisionLog
from stepwell.policy.scheduler import Scheduler
config, steps = pickle.load(open(sys.argv[1], "rb"))
scheduler, log = Scheduler(config), DecisionLog()
for now_us, events in steps:
    log.add(now_us, scheduler.step(now_us, events))
print(log.digest)
"""


def other_pythons() -> list[str]:
    """Interpreters on the path that start (version managers put stubs there as well)."""
    found = []
    for minor in (11, 12, 13, 14):
        python = shutil.which(f"python3.{minor}")
        if python and minor != sys.version_info.minor:
            started = subprocess.run([python, "-c", ""], capture_output=True, check=False)
            found += [python] if started.returncode == 0 else []
    return found


def test_other_interpreters_and_hash_seeds_decide_the_same(tmp_path: Path) -> None:
    pythons = [sys.executable, *other_pythons()]
    rig = make_rig(device=12, host=10, disk=30, eviction="stepwell", max_running=4)
    log, steps = DecisionLog(), []
    step = rig.driver.scheduler.step

    def noted(now_us, events):  # type: ignore[no-untyped-def]
        plan = step(now_us, events)
        steps.append((now_us, list(events)))
        log.add(now_us, plan)
        return plan

    rig.driver.scheduler.step = noted  # type: ignore[method-assign]
    for turn in range(5):
        for agent in range(8):
            hint = Hint(list(Wait)[(agent + turn) % 6], 300_000 * agent, f"a{(agent + 2) % 8}")
            tokens = [100 + agent % 3, *range(60, 75 + 5 * turn), 100 + agent]
            service_tier = ("priority", "default", "flex")[agent % 3]
            rig.ask(tokens, 5, agent=f"a{agent}", service_tier=service_tier, hint=hint)
        rig.settle()
        rig.clock.sleep_us(900_000)
    events = tmp_path / "events.pickle"
    events.write_bytes(pickle.dumps((rig.driver.scheduler.config, steps)))
    digests = {
        (python, seed): subprocess.run(
            [python, "-c", DECIDE_AGAIN, str(events)],
            env={"PYTHONPATH": str(SOURCE), "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout.strip()
        for python in pythons
        for seed in ("0", "7")
    }
    assert set(digests.values()) == {log.digest}, digests
    if len(pythons) == 1:
        pytest.skip("there is no other Python here; hash seeds were compared")
