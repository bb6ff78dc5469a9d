"""``stepwell replay``: decide a recorded run again and compare, decision by decision."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from rich.console import Console
from rich.progress import track

from stepwell.policy.decisions import DecisionLog
from stepwell.policy.machine import Policy
from stepwell.recording import read_recording


def replay(file: Path, *, json_file: Path | None = None) -> int:
    """Run a recording through the policy again and check that it decides the same.

    A recording is made with ``stepwell serve --record run.jsonl`` (``.gz`` compresses it). Every step's
    events are given to the policy again and the running hash of its decisions is compared with the
    recorded one. Example: ``stepwell replay run.jsonl``

    Exit code 0: the same decisions; 1: they differ (the first differing step is named); 2: not a recording.

    Parameters
    ----------
    file
        The recording.
    json_file
        Write the result here as JSON (``-``: standard output).
    """
    config, steps = read_recording(file)
    policy, log = Policy(config), DecisionLog()
    counts: dict[str, int] = {}
    differs_at: int | None = None
    console = Console(stderr=True)
    for step in track(steps, description="replaying", console=console, transient=True):
        log.add(step.now_us, policy.step(step.now_us, step.events))
        for event in step.events:
            counts[type(event).__name__] = counts.get(type(event).__name__, 0) + 1
        if log.digest[:16] != step.digest:
            differs_at = step.line
            break
    _report(console, log, counts, differs_at, json_file)
    return 0 if differs_at is None else 1


def _report(
    console: Console, log: DecisionLog, counts: dict[str, int], differs_at: int | None, json_file: Path | None
) -> None:
    same = differs_at is None
    result = {"steps": log.plans, "events": counts, "digest": log.digest, "same": same, "line": differs_at}
    if json_file is not None:
        text = json.dumps(result, indent=2) + "\n"
        if str(json_file) == "-":
            sys.stdout.write(text)
        else:
            json_file.write_text(text)
    events = ", ".join(f"{count} {name}" for name, count in sorted(counts.items()))
    console.print(f"{log.plans} steps, {events or 'no events'}")
    if same:
        console.print(f"same decisions, digest {log.digest}")
    else:
        console.print(f"the decisions differ from line {differs_at} on")
