"""kill -9 of a crew's runtime at any moment, and what a run that is resumed comes to."""

from __future__ import annotations

import json
import random
import time
from collections import Counter, deque
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from stepwell.bench.child import Child
from stepwell.bench.crews.crew_child import SIZE
from stepwell.bench.crews.crew_script import STEPS
from stepwell.bench.crews.crew_server import scripted_arm
from stepwell.bench.servers import running
from stepwell.errors import StepwellError

PATIENCE_S = 60.0
ROUNDS = SIZE.agents // STEPS
DELAY_MS = 10
SAME = ("status", "answer", "agents", "turns", "intermediate_tokens")


@dataclass(frozen=True, slots=True)
class Killed:
    """One session that was killed, resumed, and came to its end."""

    after_s: float
    """From its first answered turn to the kill."""
    survived: bool
    """It had ended before the kill came: says nothing."""
    same: bool
    """The answer, the agents and the turns are those of a run that was not killed."""
    notes_lost: int
    """Calls of the tool that were made in the whole run and in neither part of this one: at most those whose
    outcome was unknown, which are told to the model and not made again."""
    notes_twice: int
    asked_again: int
    """Turns that the server was asked for and that were not kept."""


def kill_runs(
    kills: int, seed: int, directory: Path, done: Callable[[], None] = lambda: None
) -> list[Killed]:
    """One session per kill, each at another moment, and all against one server."""
    draw = random.Random(seed)
    arm = scripted_arm(ROUNDS, DELAY_MS)
    with running(arm):
        began = time.perf_counter()
        whole, notes = _to_the_end(arm.base_url, directory, "whole")
        lasts_s = whole.pop("duration_us") / 1e6
        if whole["status"] != "completed":
            raise StepwellError(f"the run without a kill failed after {time.perf_counter() - began:.0f} s")
        found = []
        for number in range(kills):
            after_s = lasts_s * draw.random()
            found.append(_killed(arm.base_url, directory, f"kill-{number}", after_s, whole, notes))
            done()
        return found


def _to_the_end(server: str, directory: Path, name: str) -> tuple[dict[str, Any], Counter[str]]:
    with _child(server, directory, name) as child:
        last = deque(child.lines(), maxlen=1)
        if child.wait(PATIENCE_S) or not last:
            raise child.failure("did not come to its end")
    result: dict[str, Any] = json.loads(last[0])
    return result, _notes(directory, name)


def _killed(
    server: str, directory: Path, name: str, after_s: float, whole: dict[str, Any], notes: Counter[str]
) -> Killed:
    before = _asked(server)
    survived = _kill(server, directory, name, after_s)
    again, found = _to_the_end(server, directory, name)
    return Killed(
        after_s=after_s,
        survived=survived,
        same=all(again[key] == whole[key] for key in SAME),
        notes_lost=(notes - found).total(),
        notes_twice=(found - notes).total(),
        asked_again=_asked(server) - before - int(again["turns"]),
    )


def _kill(server: str, directory: Path, name: str, after_s: float) -> bool:
    """Start, wait for the first turn, kill without warning. True: it had ended by itself."""
    with _child(server, directory, name) as child:
        child.expect("ready")
        time.sleep(after_s)
        return child.ended


def _child(server: str, directory: Path, name: str) -> Child:
    given = {"server": server, "session": f"{directory / name}.db", "notes": f"{directory / name}.notes"}
    return Child("stepwell.bench.crews.crew_child", json.dumps(given))


def _notes(directory: Path, name: str) -> Counter[str]:
    file = directory / f"{name}.notes"
    return Counter(file.read_text("utf-8").split()) if file.exists() else Counter()


def _asked(server: str) -> int:
    return int(httpx2.get(f"{server}/asked", trust_env=False).json())
