"""Live runs of the fidelity benchmark on the simulated machine: fitted, played, compared step by step."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from statistics import median
from typing import Any

from stepwell.errors import BadInput, StepwellError
from stepwell.policy.types import RequestId
from stepwell.simulate.live_run import (
    ClientTurn,
    LiveRun,
    LiveStep,
    TurnSeconds,
    fit_machine,
    front_us_of,
    matched,
    play_live,
    read_live,
    step_errors,
)
from stepwell.simulate.llamacpp_costs import FEWEST_STEPS, LlamaCppCosts


@dataclass(frozen=True)
class KeptRound:
    """One live run as it was kept: the recording, and what the clients saw."""

    recording: Path
    probes: tuple[ClientTurn, ...]
    """Turns that were alone, before the workload."""
    clients: tuple[ClientTurn, ...]
    failed: int

    @cached_property
    def run(self) -> LiveRun:
        return read_live(self.recording)

    @cached_property
    def parts(self) -> tuple[list[LiveStep], list[LiveStep]]:
        """Steps before the first turn of the workload, which calibrate; and those of the workload."""
        sessions = {client.session for client in self.clients}
        turns = [t for t in self.run.turns.values() if t.recorded.caller.session in sessions]
        if not turns:
            raise StepwellError(f"{self.recording} holds no turn of its clients")
        border_us = min(turn.at_us for turn in turns)
        first = [step for step in self.run.steps if step.at_us < border_us]
        rest = [step for step in self.run.steps if step.at_us >= border_us]
        if min(len(first), len(rest)) < 2 * FEWEST_STEPS:
            raise StepwellError(f"{len(first)} and {len(rest)} steps are too few to fit a machine to them")
        return first, rest


def kept_rounds(place: Path, names: Sequence[str]) -> dict[str, list[KeptRound]]:
    """What lies in a directory, by workload: ``NAME-1.jsonl`` and ``NAME-1-clients.json``, and so on."""
    return {name: _rounds(place, name) for name in names}


def _rounds(place: Path, name: str) -> list[KeptRound]:
    found: list[KeptRound] = []
    while (recording := place / f"{name}-{len(found) + 1}.jsonl").is_file():
        file = place / f"{name}-{len(found) + 1}-clients.json"
        try:
            seen = json.loads(file.read_text("utf-8"))
            probes, clients = (tuple(ClientTurn(**one) for one in seen[k]) for k in ("probes", "clients"))
            found.append(KeptRound(recording, probes, clients, int(seen.get("failed", 0))))
        except OSError as error:
            raise BadInput(f"{file}: {error.strerror or error}") from error
        except (ValueError, KeyError, TypeError) as error:
            raise BadInput(f"{file} is damaged: {error!r}") from error
    if not found:
        raise BadInput(f"{place} holds no {name}-1.jsonl: 'stepwell bench fidelity --keep' writes it")
    return found


@dataclass(frozen=True, slots=True)
class PlayedAgain:
    """What the simulation made of a run, by recorded number of the turn."""

    before: dict[RequestId, TurnSeconds]
    """With the constants of turns that were no part of a workload."""
    own: dict[RequestId, TurnSeconds]
    """With those of every second step of its own."""
    sessions: dict[RequestId, str]
    """Of which client each turn is."""
    model: LlamaCppCosts
    front_ms: float
    """What a turn spends outside the loop."""
    probe_steps: int
    probe_error: float
    run_steps: int
    run_error: float
    run_bias: float
    """All steps of the run together: simulated over live, less one."""

    def as_json(self) -> dict[str, Any]:
        shown = {
            name: value for name, value in asdict(self).items() if name not in ("before", "own", "sessions")
        }
        for name in ("before", "own"):
            shown[name] = [asdict(times) for times in getattr(self, name).values()]
        return shown


def played_again(one: KeptRound, everything: Sequence[KeptRound]) -> PlayedAgain:
    """Play the workload of a run. The machine is fitted to what came before the workload in ``everything``:
    a step takes a quarter more or less by chance, so all that calibrates is taken together."""
    run, rest = one.run, one.parts[1]
    first = [step for other in everything for step in other.parts[0]]
    front_us = front_us_of(run, one.probes)
    before = fit_machine(first, run.moves, run.config)
    own = fit_machine(rest[::2], run.moves, run.config)
    errors = step_errors(rest, before)
    whole = sum(step.took_us for step in rest)
    guessed = sum((1 + error) * step.took_us for step, error in zip(rest, errors, strict=True))
    clients = matched(run, one.clients, front_us).turns
    return PlayedAgain(
        _play(one, before, front_us), _play(one, own, front_us),
        {request: client.session for request, client in clients.items()}, before, front_us / 1e3,
        len(first), median(map(abs, step_errors(first, before))), len(rest), median(map(abs, errors)),
        guessed / whole - 1,
    )  # fmt: skip


def _play(one: KeptRound, model: LlamaCppCosts, front_us: int) -> dict[RequestId, TurnSeconds]:
    return play_live(one.run, matched(one.run, one.clients, front_us), model, front_us)
