"""A recording decided once more: the same events into the policy, and whether it decides the same."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from stepwell.policy.config import PolicyConfig
from stepwell.policy.decisions import DecisionLog
from stepwell.policy.scheduler import Scheduler
from stepwell.recording.file import RecordedStep


@dataclass(slots=True)
class DecidedAgain:
    """What the policy decided on the steps of a recording this time."""

    log: DecisionLog = field(default_factory=DecisionLog)
    events: dict[str, int] = field(default_factory=dict)
    """How many of each kind."""
    differs_at: int | None = None
    """The line of the first step that was decided differently; nothing after it is decided. None: equal."""


def decided_again(config: PolicyConfig, steps: Iterable[RecordedStep]) -> DecidedAgain:
    """Decide the steps of ``read_recording`` again. Raises its ``NotARecording`` where a line is damaged."""
    found, scheduler = DecidedAgain(), Scheduler(config)
    for step in steps:
        found.log.add(step.now_us, scheduler.step(step.now_us, step.events))
        for event in step.events:
            name = type(event).__name__
            found.events[name] = found.events.get(name, 0) + 1
        if found.log.digest[:16] != step.digest:
            found.differs_at = step.line
            break
    return found
