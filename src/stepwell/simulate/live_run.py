"""A live server's run beside its simulation: what its steps cost, and its clients as a closed loop.

The recording says what every step did and when the next one began; the clients say when they sent and what
they felt. Each client's next turn comes as long after its last answer as it did, so a simulated machine
that is slower or faster moves everything after it, as a real one would.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from statistics import median

from stepwell.policy.config import PolicyConfig
from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Computed, KvTier, Moved, Progressed, RequestArrived, RequestId
from stepwell.recording.file import RecordedStep, read_recording
from stepwell.simulate.hardware import StepCosts, depth_apart
from stepwell.simulate.llamacpp_costs import TILE_TOKENS, LlamaCppCosts, Row, fit_costs, row_of
from stepwell.simulate.machine import ComingTurn, Due, Machine
from stepwell.simulate.meter import SimulatedMeter
from stepwell.simulate.recorded import RecordedTurn, recorded_workload


@dataclass(frozen=True, slots=True)
class LiveStep:
    """One batch of the recording, and how long it was until the next step."""

    at_us: int
    prefill: int
    decode: int
    prompt_depth: int
    depth: int
    """Tokens before those that are decoded; in a batch of tiles ``depth_apart``."""
    took_us: int
    """Without copies between device and host, with what the loop itself takes."""

    @property
    def row(self) -> Row:
        return row_of(self.prefill, self.decode, self.prompt_depth, self.depth)


@dataclass(slots=True)
class _Known:
    """How far a turn of the recording has come."""

    total: int
    units: list[bytes]
    computed: int = 0


def live_steps(steps: Iterable[RecordedStep], unit_tokens: int) -> list[LiveStep]:
    """Every batch of a recording. Which of a batch's tokens were decoded follows from what each turn knew."""
    found: list[LiveStep] = []
    known: dict[RequestId, _Known] = {}
    began_us: int | None = None
    for step in steps:
        ran = [event for event in step.events if isinstance(event, Computed)]
        apart, decoded = _note(step, known, unit_tokens)
        if ran and began_us is not None:
            copies_us = sum(e.duration_us for e in step.events if isinstance(e, Moved) and _copies(e))
            took_us = max(1, step.now_us - began_us - copies_us)
            one = ran[0]
            depth = min(decoded, one.depth_tokens)
            tiled = one.prefill_tokens + one.decode_tokens >= TILE_TOKENS
            found.append(
                LiveStep(
                    began_us,
                    one.prefill_tokens,
                    one.decode_tokens,
                    one.depth_tokens - depth,
                    apart if tiled else depth,
                    took_us,
                )
            )
        began_us = step.now_us
    return found


def _note(step: RecordedStep, known: dict[RequestId, _Known], unit_tokens: int) -> tuple[int, int]:
    """Of the tokens before those that were decoded: ``depth_apart``, and all."""
    prompts: list[list[bytes]] = []
    decoding: list[tuple[list[bytes], int]] = []
    for event in step.events:
        if isinstance(event, RequestArrived):
            known[event.request] = _Known(event.prompt_tokens, list(event.units))
        elif isinstance(event, Progressed) and (turn := known.get(event.request)) is not None:
            if turn.computed == turn.total - 1:
                decoding.append((turn.units[: turn.computed // unit_tokens], turn.computed))
            else:
                prompts.append(turn.units[: event.computed // unit_tokens])
            turn.units += event.units
            turn.computed, turn.total = event.computed, event.total
            if event.finished is not None:
                del known[event.request]
    return depth_apart(prompts, decoding, unit_tokens), sum(computed for _, computed in decoding)


def _copies(event: Moved) -> bool:
    return KvTier.DEVICE in (event.source, event.target)


def fit_machine(steps: Sequence[LiveStep], moves: Sequence[Moved], config: PolicyConfig) -> LlamaCppCosts:
    """The machine's lines by least squares of relative errors; copies as they were seen. ``StepwellError``:
    too few steps."""
    costs = fit_costs([step.row for step in steps], [step.took_us for step in steps], config.token_bytes)
    copies = [move.duration_us for move in moves if _copies(move)]
    return replace(
        costs,
        copy_us_per_block=round(median(copies)) if copies else 0,
        read_bytes_per_s=_bytes_per_s(moves, KvTier.HOST) or 500_000_000,
        write_bytes_per_s=_bytes_per_s(moves, KvTier.DISK) or 500_000_000,
    )


def _bytes_per_s(moves: Sequence[Moved], target: KvTier) -> int:
    """Of transfers between host and disk; 0 when there were none."""
    seen = [move for move in moves if move.target is target and not _copies(move)]
    duration_us = sum(move.duration_us for move in seen)
    return sum(move.size_bytes for move in seen) * 1_000_000 // duration_us if duration_us else 0


def step_errors(steps: Sequence[LiveStep], model: StepCosts) -> list[float]:
    """Relative errors of the time of each step."""
    return [model.step_us(s.prefill, s.decode, s.prompt_depth, s.depth) / s.took_us - 1 for s in steps]


# --- the clients ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ClientTurn:
    """A turn as its client saw it; seconds of one clock."""

    chain: str
    """The client: its next turn comes after this one's answer."""
    session: str
    start_s: float
    ttft_s: float
    e2e_s: float
    output_tokens: int

    @property
    def tpot_s(self) -> float | None:
        return (self.e2e_s - self.ttft_s) / (self.output_tokens - 1) if self.output_tokens > 1 else None


@dataclass(frozen=True, slots=True)
class TurnSeconds:
    """A turn's times, in seconds."""

    ttft_s: float
    tpot_s: float | None
    e2e_s: float


@dataclass(eq=False)
class ClosedLoop:
    """The recorded turns of one run, sent by their clients. It is a ``Source``."""

    first: list[tuple[int, RecordedTurn]] = field(default_factory=list)
    """Turns that come by themselves, and when."""
    after: dict[RequestId, tuple[int, RecordedTurn]] = field(default_factory=dict)
    """By recorded number: the turn that follows its end, and how long after it."""
    turns: dict[RequestId, ClientTurn] = field(default_factory=dict)
    """By recorded number: what the client saw."""

    def start(self) -> Iterator[Due]:
        yield from self.first

    def ended(self, call: ComingTurn, request: RequestId, now_us: int, reason: str) -> Iterator[Due]:
        assert isinstance(call, RecordedTurn)
        following = self.after.get(call.recorded.request)
        if following is not None:
            yield now_us + following[0], following[1]


@dataclass(frozen=True, slots=True)
class LiveRun:
    """A recording, and what of it belongs to one measured phase."""

    config: PolicyConfig
    steps: tuple[LiveStep, ...]
    moves: tuple[Moved, ...]
    turns: dict[RequestId, RecordedTurn]
    """TurnSeconds count from the recording's first step."""


def read_live(path: Path) -> LiveRun:
    """``RecordingError``: it is none."""
    config, steps = read_recording(path)
    kept = list(steps)
    found = recorded_workload(config, kept)
    first_us = kept[0].now_us if kept else 0
    batches = tuple(replace(one, at_us=one.at_us - first_us) for one in live_steps(kept, config.unit_tokens))
    return LiveRun(config, batches, tuple(found.moves), found.turns)


def matched(run: LiveRun, clients: Sequence[ClientTurn], front_us: int) -> ClosedLoop:
    """Each client's turns found in the recording, by session and order. ``front_us``: what a turn spends
    outside the loop. TurnSeconds of the clients' clock are moved so that no turn comes before it was sent."""
    named: dict[str, list[RecordedTurn]] = {}
    for turn in run.turns.values():
        named.setdefault(turn.recorded.caller.session, []).append(turn)
    pairs: list[tuple[ClientTurn, RecordedTurn]] = []
    for client in sorted(clients, key=lambda one: one.start_s):
        waiting = named.get(client.session)
        if waiting:
            pairs.append((client, waiting.pop(0)))
    loop = ClosedLoop()
    if not pairs:
        return loop
    shift_us = min(turn.at_us - client.start_s * 1e6 for client, turn in pairs)
    last: dict[str, tuple[ClientTurn, RecordedTurn]] = {}
    for client, turn in pairs:
        loop.turns[turn.recorded.request] = client
        before = last.get(client.chain)
        if before is None:
            loop.first.append((max(0, round(client.start_s * 1e6 + shift_us)), turn))
        else:
            gap_us = (client.start_s - before[0].start_s - before[0].e2e_s) * 1e6
            loop.after[before[1].recorded.request] = (max(0, round(gap_us)) + front_us, turn)
        last[client.chain] = (client, turn)
    return loop


def play_live(
    run: LiveRun, loop: ClosedLoop, model: StepCosts, front_us: int
) -> dict[RequestId, TurnSeconds]:
    """TurnSeconds of every turn on the modelled machine, by recorded number."""
    numbers: dict[RequestId, RequestId] = {}
    meter = SimulatedMeter(model, run.config.unit_tokens)
    machine = Machine(Scheduler(run.config), model, _Numbered(loop, numbers), meter, bounded=False)
    machine.run()
    found = {}
    for number, turn in meter.turns.items():
        if turn.reason == "stop" and turn.ttft_us is not None and turn.done_us is not None:
            tpot_us = turn.tpot_us
            found[numbers[number]] = TurnSeconds(
                (turn.ttft_us + front_us) / 1e6,
                None if tpot_us is None else tpot_us / 1e6,
                (turn.done_us + front_us) / 1e6,
            )
    return found


@dataclass(slots=True)
class _Numbered:
    """Keeps which number each recorded turn has on the machine."""

    loop: ClosedLoop
    numbers: dict[RequestId, RequestId]

    def start(self) -> Iterator[Due]:
        return self.loop.start()

    def ended(self, call: ComingTurn, request: RequestId, now_us: int, reason: str) -> Iterator[Due]:
        assert isinstance(call, RecordedTurn)
        self.numbers[request] = call.recorded.request
        return self.loop.ended(call, request, now_us, reason)


def front_us_of(run: LiveRun, clients: Sequence[ClientTurn]) -> int:
    """What a turn spends outside the loop: of turns that were alone, the client's time less the server's."""
    loop = matched(run, clients, 0)
    spent = [
        client.e2e_s * 1e6 - (run.turns[request].ended_us - run.turns[request].at_us)
        for request, client in loop.turns.items()
    ]
    return max(0, round(median(spent))) if spent else 0
