"""A recording of our own server on a machine fitted to it: how good the fit is, and what its turns take.

Every second step of the recording is fitted; the others say how good that is. Then all turns are played under
the recorded policy, and their times are held against the recorded ones. A busy server's clients are a closed
loop: a machine that is a little slower would otherwise fall behind for ever. So a turn that came right after
another had ended comes right after it, one of an agent that had a turn before as long after that, and the
others when they came.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Container, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from stepwell.errors import BadInput
from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Computed, Event, Hinted, Plan, Recovered, RequestArrived, RequestId
from stepwell.recording.file import RecordedStep, read_recording
from stepwell.simulate.engine_run import MeanTimes, Measured, mean_times
from stepwell.simulate.live_run import fit_machine, live_steps, step_errors
from stepwell.simulate.llamacpp_costs import FEWEST_STEPS, LlamaCppCosts
from stepwell.simulate.machine import ComingTurn, Due, Machine
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.recorded import Recorded, RecordedTurn, recorded_workload

_AT_ONCE_US = 250_000
"""Within so long after an end a turn is taken to follow it."""


@dataclass(frozen=True, slots=True)
class OwnFit:
    """What a recording says of its machine. Errors are relative."""

    config: PolicyConfig
    model: LlamaCppCosts
    turns: int
    left_out: int
    """Turns that were cancelled, refused or not ended, here or there."""
    fitted_steps: int
    held_out_steps: int
    step_error: float
    """Median of single steps that were not fitted."""
    steps_error: float
    """All of them together."""
    measured: MeanTimes
    simulated: MeanTimes
    errors: tuple[float, float, float]
    """Of the means of TTFT, TPOT and E2E, as the server sees them."""


def own_fit(file: Path) -> OwnFit:
    """Errors: ``RecordingError`` for what is none, ``BadInput`` for one with too little in it."""
    config, read = read_recording(file)
    kept = list(read)
    found = recorded_workload(config, kept)
    steps = live_steps(kept, config.unit_tokens)
    if len(steps) < 2 * FEWEST_STEPS:
        raise BadInput(
            f"{file} holds {len(steps)} steps: {2 * FEWEST_STEPS} are needed to fit a machine and to check it"
        )
    fitted, rest = steps[::2], steps[1::2]
    model = fit_machine(fitted, found.moves, config)
    errors = step_errors(rest, model)
    took_us = sum(step.took_us for step in rest)
    guessed = sum((1 + error) * step.took_us for step, error in zip(rest, errors, strict=True))
    really, played = _times(found, kept, model)
    if not really:
        raise BadInput(f"{file} holds no turn that ended: there is nothing to compare")
    measured, simulated = mean_times(really), mean_times(played)
    return OwnFit(
        config, model, len(really), len(found.turns) - len(really), len(fitted), len(rest),
        median(map(abs, errors)), guessed / took_us - 1, measured, simulated, simulated.errors(measured),
    )  # fmt: skip


def _times(
    found: Recorded, kept: Sequence[RecordedStep], model: LlamaCppCosts
) -> tuple[list[Measured], list[Measured]]:
    """Every turn that ended, as recorded and as played. Both count from the step that took it in."""
    clients = closed_loop(found, kept)
    meter, seen = SimulatedMeter(model, found.config.unit_tokens), _Arrivals()
    machine = Machine(Scheduler(found.config), model, clients, meter, bounded=False)
    machine.loop.observers.append(seen)
    machine.run()
    really, played = [], []
    for number, recorded in clients.numbers.items():
        turn, other = found.turns[recorded], meter.turns[number]
        if not turn.ended or turn.cancelled or not turn.first_us:
            continue
        if other.reason == "stop" and other.ttft_us is not None and other.done_us is not None:
            tokens = turn.recorded.prompt_tokens, turn.new_tokens
            really.append(_measured(tokens, turn.at_us, turn.first_us, turn.ended_us))
            at_us = other.arrived_us
            played.append(_measured(tokens, seen.at_us[number], at_us + other.ttft_us, at_us + other.done_us))
    return really, played


def _measured(tokens: tuple[int, int], at_us: int, first_us: int, done_us: int) -> Measured:
    at_s = at_us / 1e6
    return Measured(tokens[0], tokens[1], at_s, at_s, first_us / 1e6, done_us / 1e6)


@dataclass(slots=True)
class _Arrivals:
    """An observer: when the policy heard of each turn."""

    at_us: dict[RequestId, int] = field(default_factory=dict)

    def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        for event in events:
            if isinstance(event, RequestArrived):
                self.at_us[event.request] = now_us

    def close(self, now_us: int) -> None:
        pass


# --- which agent waited for which ----------------------------------------------------------------------


@dataclass(eq=False)
class FollowedTurns:
    """The recorded turns as a closed loop. It is a ``TurnSource``."""

    first: list[Due] = field(default_factory=list)
    after: dict[RequestId, list[Due]] = field(default_factory=dict)
    """By recorded number: what follows its end, and how long after it."""
    numbers: dict[RequestId, RequestId] = field(default_factory=dict)
    """The recorded number of each that has ended."""

    def start(self) -> Iterator[Due]:
        yield from self.first

    def ended(self, call: ComingTurn, request: RequestId, now_us: int, reason: str) -> Iterator[Due]:
        assert isinstance(call, RecordedTurn)
        self.numbers[request] = call.recorded.request
        for gap_us, what in self.after.get(call.recorded.request, ()):
            follows = replace(what, request=request) if isinstance(what, Hinted) else what
            yield now_us + gap_us, follows


def closed_loop(found: Recorded, kept: Sequence[RecordedStep]) -> FollowedTurns:
    """Which turn followed which, by the times of the recording."""
    loop, sent_us = FollowedTurns(), _sent_us(kept)
    ended = sorted((t.ended_us, request) for request, t in found.turns.items() if t.ended)
    free = dict.fromkeys(request for _, request in ended)
    latest: dict[tuple[str, str, str], RequestId] = {}
    for request, turn in found.turns.items():
        caller = turn.recorded.caller
        key = caller.tenant, caller.session, caller.agent
        # What was cancelled generates what it had: the client's patience is not in the recording.
        played = replace(turn, cancelled=False)
        before = _followed(found, ended, free, sent_us[request], turn.at_us, latest.get(key))
        latest[key] = request
        if before is None:
            loop.first.append((sent_us[request], played))
        else:
            free.pop(before, None)
            gap_us = max(0, sent_us[request] - found.turns[before].ended_us)
            loop.after.setdefault(before, []).append((gap_us, played))
    for at_us, event in found.others:
        if isinstance(event, Recovered):
            loop.first.append((at_us, event))
        elif isinstance(event, Hinted) and event.request in found.turns:
            gap_us = max(0, at_us - found.turns[event.request].ended_us)
            loop.after.setdefault(event.request, []).append((gap_us, event))
    return loop


def _followed(
    found: Recorded, ended: Sequence[tuple[int, RequestId]], free: Container[RequestId], sent_us: int,
    at_us: int, own: RequestId | None,
) -> RequestId | None:  # fmt: skip
    """The turn whose end let this one come; None: it came by itself."""
    for done_us, request in reversed(ended[: bisect_right(ended, (at_us, 1 << 62))]):
        if sent_us - done_us > _AT_ONCE_US:
            break
        if request in free:
            return request
    if own is not None and found.turns[own].ended and found.turns[own].ended_us <= at_us:
        return own
    return None


def _sent_us(kept: Sequence[RecordedStep]) -> dict[RequestId, int]:
    """The earliest moment at which each turn can have come: a turn that comes while a batch runs is seen when
    that ends, and so it is on the simulated machine."""
    first_us = kept[0].now_us if kept else 0
    found: dict[RequestId, int] = {}
    began_us = first_us
    for step in kept:
        ran = any(isinstance(event, Computed) for event in step.events)
        at_us = began_us + 1 if ran else step.now_us
        for event in step.events:
            if isinstance(event, RequestArrived):
                found[event.request] = at_us - first_us
        began_us = step.now_us
    return found
