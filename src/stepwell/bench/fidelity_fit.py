"""A live run of the fidelity benchmark on the simulated machine: fitted, played, compared step by step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from typing import Any

from stepwell.errors import StepwellError
from stepwell.policy.types import RequestId
from stepwell.simulate.accelerator import Accelerator
from stepwell.simulate.live_run import (
    ClientTurn,
    LiveRun,
    TurnSeconds,
    fit_machine,
    front_us_of,
    matched,
    play_live,
    read_live,
    step_errors,
)

FEWEST_STEPS = 20


@dataclass(frozen=True, slots=True)
class PlayedAgain:
    """What the simulation made of a run, by recorded number of the turn."""

    before: dict[RequestId, TurnSeconds]
    """With the constants of the turns that came before it."""
    own: dict[RequestId, TurnSeconds]
    """With those of every second step of its own."""
    model: Accelerator
    front_ms: float
    """What a turn spends outside the loop."""
    probe_steps: int
    probe_error: float
    run_steps: int
    run_error: float
    run_bias: float
    """All steps of the run together: simulated over live, less one."""

    def as_json(self) -> dict[str, Any]:
        shown = {name: value for name, value in asdict(self).items() if name not in ("before", "own")}
        for name in ("before", "own"):
            shown[name] = [asdict(times) for times in getattr(self, name).values()]
        return shown


def played(recording: Path, probes: Sequence[ClientTurn], clients: Sequence[ClientTurn]) -> PlayedAgain:
    """Fit the part of a recording that came before the workload, and play the workload."""
    run = read_live(recording)
    border_us = _border_us(run, clients)
    first = [step for step in run.steps if step.at_us < border_us]
    rest = [step for step in run.steps if step.at_us >= border_us]
    if min(len(first), len(rest)) < FEWEST_STEPS:
        raise StepwellError(f"{len(first)} and {len(rest)} steps are too few to fit a machine to them")
    front_us = front_us_of(run, probes)
    before = fit_machine(first, run.moves, run.config)
    own = fit_machine(rest[::2], run.moves, run.config)
    errors = step_errors(rest, before)
    whole = sum(step.took_us for step in rest)
    guessed = sum((1 + error) * step.took_us for step, error in zip(rest, errors, strict=True))
    return PlayedAgain(
        _play(run, clients, before, front_us), _play(run, clients, own, front_us), before, front_us / 1e3,
        len(first), median(map(abs, step_errors(first, before))), len(rest), median(map(abs, errors)),
        guessed / whole - 1,
    )  # fmt: skip


def _play(
    run: LiveRun, clients: Sequence[ClientTurn], model: Accelerator, front_us: int
) -> dict[RequestId, TurnSeconds]:
    return play_live(run, matched(run, clients, front_us), model, front_us)


def _border_us(run: LiveRun, clients: Sequence[ClientTurn]) -> int:
    """When the first turn of the workload came."""
    sessions = {client.session for client in clients}
    return min(turn.at_us for turn in run.turns.values() if turn.recorded.caller.session in sessions)
