"""Fit an ``Accelerator`` to a run of another engine, and play the run again under the real policy.

Which requests decoded together is known from their times, so each one's decoding is a sum of known steps: a
row of a least-squares fit. What queues, is preempted and is computed again is left to the policy. Only
every second request is fitted; the others show how good it is.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

from stepwell.errors import BadInput
from stepwell.fleet.routers import ROUTERS
from stepwell.policy.config import PolicyConfig
from stepwell.policy.types import Wait
from stepwell.simulate.accelerator import Accelerator
from stepwell.simulate.cluster import Cluster, ReplicaSite
from stepwell.simulate.engine_run import EngineRun, MeanTimes, Measured, mean_times
from stepwell.simulate.fit import fit
from stepwell.simulate.player import Declared, Player
from stepwell.simulate.workload import AgentSpec, SessionSpec, TurnSpec, Workload

COLUMNS = ("step", "sequence", "depth", "prompt_token")
ROUNDS = 4
"""Plays at most."""
CLOSE = 0.01
_ROUNDS = 8
_NEAR = 0.02
_PS = 1e12
_SHORTEST = 8
"""Answers of fewer tokens say little about a step."""


def fit_steps(
    requests: Sequence[Measured], fitted: Sequence[Measured], *, replicas: int = 1, again: float = 1.0
) -> dict[str, float]:
    """Seconds of a step, of each sequence in it, of each token before those, of each token of a prompt. Only
    times of ``fitted`` are targets; all ``requests`` say what ran beside them, an even share on each replica.
    ``again``: how often a prompt's token was computed, preemption included."""
    rows, targets = _rows(requests, fitted, replicas, again)
    return dict(zip(COLUMNS, _fitted(rows, targets), strict=True))


def _rows(
    requests: Sequence[Measured], fitted: Sequence[Measured], replicas: int, again: float
) -> tuple[list[tuple[float, ...]], list[float]]:
    """What ran during each request's decoding, and how long that took."""
    rows: list[tuple[float, ...]] = []
    targets = []
    for one in fitted:
        if one.output_tokens > _SHORTEST and one.last_s > one.first_s:
            steps, sequences, depth, prompts = _row(one, requests)
            rows.append((steps, sequences / replicas, depth / replicas, prompts * again / replicas))
            targets.append(one.last_s - one.first_s)
    return rows, targets


def _fitted(rows: Sequence[tuple[float, ...]], targets: Sequence[float]) -> list[float]:
    """Non-negative factors of the columns, by relative errors; zeros where rows are too few."""
    found = [0.0] * len(COLUMNS)
    if len(rows) < len(COLUMNS):
        return found
    weights = [1 / target for target in targets]
    for _ in range(_ROUNDS):
        scaled = [[value * w for value in row] for row, w in zip(rows, weights, strict=True)]
        found = fit(scaled, [t * w for t, w in zip(targets, weights, strict=True)])
        guessed = [sum(a * b for a, b in zip(row, found, strict=True)) for row in rows]
        off = [abs(guess / target - 1) for guess, target in zip(guessed, targets, strict=True)]
        # One that was preempted stood still for a while: it is far off, and pulls little.
        weights = [1 / t / max(_NEAR, error) ** 0.5 for t, error in zip(targets, off, strict=True)]
    return found


def _row(one: Measured, requests: Sequence[Measured]) -> tuple[float, float, float, float]:
    """Of one request's decoding: steps, sequences in them, tokens before those, and tokens of prompts
    that were computed meanwhile."""
    start, stop = one.first_s, one.last_s
    sequences = depth = prompts = 0.0
    for other in requests:
        low, high = max(start, other.first_s), min(stop, other.last_s)
        if high > low:
            middle = ((low + high) / 2 - other.first_s) / (other.last_s - other.first_s)
            sequences += high - low
            depth += (high - low) * (other.input_tokens + middle * other.output_tokens)
        low, high = max(start, other.scheduled_s), min(stop, other.first_s)
        if high > low:
            prompts += (high - low) / (other.first_s - other.scheduled_s) * other.input_tokens
    steps = one.output_tokens - 1
    return steps, steps * sequences / (stop - start), steps * depth / (stop - start), prompts


def accelerator(fitted: dict[str, float]) -> Accelerator:
    """The cost model with those lines."""
    return Accelerator(
        step_ps=round(fitted["step"] * _PS),
        prompt_token_ps=round(fitted["prompt_token"] * _PS),
        prompt_depth_ps=0,
        sequence_ps=round(fitted["sequence"] * _PS),
        depth_ps=round(fitted["depth"] * _PS),
        token_bytes=1,
    )


def workload_of_run(run: EngineRun) -> Workload:
    """Its requests at their times. Nothing is shared: prompts are not in the run."""
    sessions, unit = [], run.block_tokens
    for number, one in enumerate(run.requests):
        whole = one.input_tokens // unit
        turn = TurnSpec(
            0, 0, 0, 0, 0, one.input_tokens, one.output_tokens, ((0, whole),) if whole else (), None,
            Wait.UNKNOWN, Wait.UNKNOWN, None,
        )  # fmt: skip
        agent = AgentSpec("", "", None, (0,))
        at_us = round(one.queued_s * 1e6)
        sessions.append(SessionSpec(f"q{number}", "run", "default", at_us, (agent,), (turn,)))
    return Workload("run", tuple(sessions), unit, unit)


@dataclass(frozen=True, slots=True)
class Played:
    """The run as the simulation has it, in the order of its requests."""

    requests: tuple[Measured, ...]
    preemptions: int
    again: float
    """Tokens of prompts computed, over those that there are."""


def play_run(run: EngineRun, model: Accelerator) -> Played:
    """The engine's queue is first come, first served with LRU, without room set aside for answers: that is
    the baseline policy with ``reserve_tokens`` of one. Data-parallel replicas have requests by turns."""
    config = PolicyConfig(
        block_tokens=run.block_tokens,
        unit_tokens=run.block_tokens,
        device_blocks=run.blocks,
        block_bytes=run.block_tokens,
        token_bytes=1,
        host_bytes=0,
        disk_bytes=0,
        context_tokens=run.context_tokens or 1 << 30,
        max_running=run.max_running,
        max_waiting=1 << 30,
        step_tokens=run.step_tokens,
        reserve_tokens=1,
        eviction="lru",
    )
    player = Player(workload_of_run(run), Declared(None))
    cluster = Cluster(player, ReplicaSite(config, model), run.replicas, ROUTERS["round-robin"])
    cluster.run()
    found: dict[float, list[Measured]] = {}
    for machine, _ in cluster.lives():
        for turn in machine.meter.turns.values():
            first, done = turn.ttft_us or 0, turn.done_us or 0
            at_s = turn.arrived_us / 1e6
            one = Measured(
                turn.prompt_tokens, turn.new_tokens, at_s, at_s, at_s + first / 1e6, at_s + done / 1e6
            )
            found.setdefault(turn.arrived_us, []).append(one)
    played = [one for at_us in sorted(found) for one in found[at_us]]
    meters = [machine.meter for machine, _ in cluster.lives()]
    computed, asked = sum(m.prefill_tokens for m in meters), sum(one.input_tokens for one in run.requests)
    return Played(tuple(played), sum(m.preemptions for m in meters), max(1.0, computed / asked))


@dataclass(frozen=True, slots=True)
class Fidelity:
    """How near the simulation comes to a run; the errors are relative, of TTFT, TPOT and E2E."""

    model: Accelerator
    measured: MeanTimes
    simulated: MeanTimes
    errors: tuple[float, float, float]
    held_out_errors: tuple[float, float, float]
    """Of requests that were not fitted."""
    preemptions: int


def fidelity(run: EngineRun, told: Callable[[str], None] = lambda text: None) -> Fidelity:
    """Fit every second request, play all, compare all and the others. What is computed again after a
    preemption is in no request's times: it is taken from the play, and the fit repeated with it."""
    fitted, again, factor = run.requests[::2], 1.0, 1.0
    really = mean_times(fitted)
    for count in range(1, ROUNDS + 1):
        told(f"round {count} of at most {ROUNDS}: playing {len(run.requests)} requests")
        lines = fit_steps(run.requests, fitted, replicas=run.replicas, again=again)
        model = scaled(accelerator(lines), factor)
        played = play_run(run, model)
        off = mean_times(played.requests[::2]).e2e_ms / really.e2e_ms
        if abs(off - 1) <= CLOSE:
            break
        if abs(played.again / again - 1) > CLOSE:
            again = played.again
        else:
            factor /= off
    measured, simulated = mean_times(run.requests), mean_times(played.requests)
    rest = mean_times(played.requests[1::2]).errors(mean_times(run.requests[1::2]))
    return Fidelity(model, measured, simulated, simulated.errors(measured), rest, played.preemptions)


def predicted(run: EngineRun, others: Sequence[EngineRun]) -> Fidelity:
    """Lines fitted to ``others`` together, carried over to a run that none of them saw: what a step reads of
    weights and KV at the run's own bandwidth, and what a sequence adds as it is. All of its requests are
    played and compared. ``BadInput``: a folder does not tell its hardware and model."""
    rows: list[tuple[float, ...]] = []
    targets: list[float] = []
    for other in others:
        some, took = _rows(other.requests, other.requests, other.replicas, 1.0)
        sizes = _sizes(other)
        rows += [tuple(a * b for a, b in zip(row, sizes, strict=True)) for row in some]
        targets += took
    factors = _fitted(rows, targets)
    lines = [a * b for a, b in zip(factors, _sizes(run), strict=True)]
    model = accelerator(dict(zip(COLUMNS, lines, strict=True)))
    played = play_run(run, model)
    measured, simulated = mean_times(run.requests), mean_times(played.requests)
    errors = simulated.errors(measured)
    return Fidelity(model, measured, simulated, errors, errors, played.preemptions)


def _sizes(run: EngineRun) -> tuple[float, float, float, float]:
    """By what each column is multiplied for the machine of a run."""
    if run.scales is None:
        raise BadInput(
            f"{run.name}: to carry lines over, config.json must tell mem_bw, and the catalogue know the model"
        )
    return run.scales.step, 1.0, run.scales.depth, run.scales.prompt_token


def scaled(model: Accelerator, factor: float) -> Accelerator:
    """The same machine, slower or faster throughout: what another part of the same kind would be."""
    names = ("step_ps", "prompt_token_ps", "prompt_depth_ps", "sequence_ps", "depth_ps")
    return replace(model, **{name: round(getattr(model, name) * factor) for name in names})
