"""``stepwell bench fidelity``: live runs of this server against their simulation, turn by turn.

Per workload one server after the other: first turns that only calibrate, then the workload. What the steps
of all those first parts cost becomes the simulated machine; the same clients then send the same turns to it,
under the same policy. The workload is run live twice, because two live runs differ as well.
"""

from __future__ import annotations

import json
import random
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from rich.table import Table

from stepwell.basics.quantiles import percentile
from stepwell.basics.this_machine import usable_cores
from stepwell.bench.client import TurnSample, complete, run_clients
from stepwell.bench.harness import (
    BenchRun,
    ModelOption,
    ThreadsOption,
    bench,
    require_real,
    scratch,
    words_of,
)
from stepwell.bench.plans.fidelity_fit import KeptRound, PlayedAgain, kept_rounds, played_again
from stepwell.bench.server.flood import FloodTarget, Neighbours, paid_turns, served_target
from stepwell.bench.server.neighbours import CONTRACTS, FLOOD_KEY, PAID_KEY, settings_file
from stepwell.bench.servers import our_server, running
from stepwell.bench.workload import Pressure
from stepwell.console.options import (
    Positive,
    size_bytes,
)
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Report, Verdict
from stepwell.engines.prose import prose
from stepwell.errors import StepwellError
from stepwell.recording.decided_again import decided_again
from stepwell.recording.file import read_recording
from stepwell.simulate.live_run import ClientTurn, TurnSeconds

LIMIT_MEDIAN, LIMIT_P99 = 10.0, 20.0  # percent
WORKLOADS = ("pressure", "neighbours")
FIGURES = ("TTFT", "TPOT", "completion")
APART = "calibrated apart"
COLUMNS = (
    ("against the live runs", "{what}"),
    ("figure", "{figure}"),
    ("live p50 ms", "{live50:,.1f}"),
    ("p50 ms", "{ms50:,.1f}"),
    ("error", "{off50:+.1%}"),
    ("live p99", "{live99:,.1f}"),
    ("p99", "{ms99:,.1f}"),
    ("error", "{off99:+.1%}"),
)
PRESSURE = Pressure()
QUICK_PRESSURE = Pressure(agents=4, turns=2, clients=4, document_words=60, role_words=60, output_tokens=8)
NEIGHBOURS = Neighbours(turns=4, flood_s=30.0, think_s=(0.5, 2.0))
QUICK_NEIGHBOURS = Neighbours(
    agents=2, turns=2, opening_words=40, turn_words=10, output_tokens=8, think_s=(0.05, 0.1), flood_agents=3,
    flood_outstanding=6, flood_words=30, flood_turn_words=10, flood_output_tokens=4, settle_s=0.2,
    flood_s=5.0, drain_s=30.0,
)  # fmt: skip
_WORDS, _QUICK_WORDS = (15, 80, 240, 600, 1200), (5, 20, 60)
_TOGETHER, _QUICK_TOGETHER = (2, 4, 8), (3,)
_TOKENS, _QUICK_TOKENS = 24, 8
_FLOOD_ARRIVALS_PER_S = 8.0


@dataclass(frozen=True, slots=True)
class FidelityPlan:
    """Which servers, and what each is given."""

    model: str
    device_kv_tokens: int
    host_kv: str
    threads: int
    rounds: int
    quick: bool


@dataclass(slots=True)
class LiveRound:
    """One live run of one workload, and its simulation."""

    clients: list[ClientTurn] = field(default_factory=list)
    failed: int = 0
    found: PlayedAgain | None = None
    same_decisions: bool = False
    steps: int = 0


@bench("fidelity")
def main(
    run: BenchRun,
    *,
    model: ModelOption = "smollm2",
    workloads: str = "pressure,neighbours",
    device_kv_tokens: Positive = 6_144,
    host_kv: str = "1GiB",
    threads: ThreadsOption = None,
    rounds: Positive = 2,
    keep: Path | None = None,
    kept: Annotated[Path | None, Parameter(name="--from")] = None,
) -> None:
    """Compare live runs of this server with their simulation: TTFT, TPOT and completion time.

    Before each workload some turns calibrate the machine; then twelve agents in too little KV, or a few paid
    agents under a flood. The same clients play against a simulated machine with those constants. Every
    recording is decided again, which must give the same decisions. About ten minutes on a quiet machine.

    Example: ``stepwell bench fidelity --json fidelity.json``

    Parameters
    ----------
    workloads
        pressure, neighbours, with commas.
    device_kv_tokens
        Device KV of the server.
    host_kv
        Host KV of the server.
    rounds
        Live runs of each workload; the first and the second show how far live runs differ.
    keep
        Keep the recordings and what the clients saw in this directory.
    kept
        Compare what an earlier run kept in this directory, and start no server.
    """
    size_bytes("--host-kv", host_kv)
    names = words_of("--workloads", workloads, WORKLOADS)
    if kept is None:
        require_real(model)
    plan = FidelityPlan(model, device_kv_tokens, host_kv, threads or usable_cores(), rounds, run.quick)
    with scratch("fidelity") as directory:
        place = kept or keep or directory
        if kept is None:
            place.mkdir(parents=True, exist_ok=True)
            for name in names:
                for number in range(1, rounds + 1):
                    _live(plan, f"{name}-{number}", place, run.progress)
        found = _compared(kept_rounds(place, names), run.progress)
    run.settings = asdict(plan)
    fill(run, found)
    run.show(*(_table(side) for name, runs in found.items() for side in sides_of(name, runs)))


# --- live -------------------------------------------------------------------------------------


def _live(plan: FidelityPlan, title: str, kept: Path, progress: Ticker) -> None:
    """One server: turns that calibrate, then the workload. Recording and clients are left in ``kept``."""
    name = title.split("-")[0]
    with scratch("fidelity") as place:
        more: dict[str, str | Path] = {"record": kept / f"{title}.jsonl"}
        if name == "neighbours":
            more["config"] = place / "neighbours.toml"
            (place / "neighbours.toml").write_text(settings_file(CONTRACTS), encoding="utf-8")
        arm = our_server(
            name, plan.model, device_kv_tokens=plan.device_kv_tokens, host_kv=plan.host_kv, disk_kv="0",
            disk_dir=place / "disk", threads=plan.threads, more=more,
        )  # fmt: skip
        keys = (PAID_KEY, FLOOD_KEY) if name == "neighbours" else (None, None)
        with running(arm):
            target = served_target(arm.base_url, *keys)
            progress.phase(f"{title}: calibrating")
            probes = _probe(target, plan.quick)
            progress.phase(f"{title}: live")
            live = _pressure if name == "pressure" else _neighbours
            samples = live(target, plan.quick, progress)
    answered = [sample for sample in samples if not sample.error]
    if not answered:
        error = next((sample.error for sample in samples), "nothing was sent")
        raise StepwellError(f"no turn of {name} was answered: {error}")
    seen: dict[str, Any] = {"failed": len(samples) - len(answered), "probes": list(map(asdict, probes))}
    seen["clients"] = [asdict(_seen(sample, name)) for sample in answered]
    (kept / f"{title}-clients.json").write_text(json.dumps(seen), encoding="utf-8")


def _compared(rounds: dict[str, list[KeptRound]], progress: Ticker) -> dict[str, list[LiveRound]]:
    """Decide every recording again, and simulate every run."""
    everything = [one for runs in rounds.values() for one in runs]
    found: dict[str, list[LiveRound]] = {name: [] for name in rounds}
    for name, runs in rounds.items():
        for one in runs:
            progress.phase(f"{one.recording.stem}: deciding again and simulating")
            again = decided_again(*read_recording(one.recording))
            same, steps = again.differs_at is None, again.log.plans
            simulated = played_again(one, everything)
            found[name].append(LiveRound(list(one.clients), one.failed, simulated, same, steps))
    return found


def _seen(sample: TurnSample, workload: str = "") -> ClientTurn:
    """Agents of the pressure workload share clients, which send one turn after the other."""
    chain = f"client-{sample.agent % PRESSURE.clients}" if workload == "pressure" else sample.session
    return ClientTurn(
        chain, sample.session, sample.start_s, sample.ttft_s, sample.e2e_s, sample.output_tokens
    )


def _probe(target: FloodTarget, quick: bool) -> list[ClientTurn]:
    """Turns alone, of several lengths, then several together. Returns those alone: what turns spend outside
    the loop is seen in them."""
    rng, began_s, alone = random.Random("calibrate"), time.perf_counter(), []
    tokens = _QUICK_TOKENS if quick else _TOKENS
    with target.client(target.paid_key) as http:
        complete(http, target.model, "Warm-up", 4, "warm-up")
        for number, words in enumerate((_QUICK_WORDS if quick else _WORDS) * 2):
            name = f"calibrate-{number}"
            sample = complete(http, target.model, prose(rng, words), tokens, name, began_s=began_s)
            alone.append(_seen(sample))
    for count in _QUICK_TOGETHER if quick else _TOGETHER:
        words_of = [(20 if quick else 60) + 40 * n for n in range(count)]
        _together(target, [prose(rng, words) for words in words_of], f"together-{count}", 2 * tokens)
    return alone


def _together(target: FloodTarget, prompts: Sequence[str], name: str, tokens: int) -> None:
    def one(number: int) -> None:
        with target.client(target.paid_key) as http:
            complete(http, target.model, prompts[number], tokens, f"{name}-{number}")

    with ThreadPoolExecutor(len(prompts)) as pool:
        list(pool.map(one, range(len(prompts))))


def _pressure(target: FloodTarget, quick: bool, progress: Ticker) -> list[TurnSample]:
    work = QUICK_PRESSURE if quick else PRESSURE
    return run_clients(target.base_url, target.model, work, lambda _: progress.advance())[0]


def _neighbours(target: FloodTarget, quick: bool, progress: Ticker) -> list[TurnSample]:
    work = QUICK_NEIGHBOURS if quick else NEIGHBOURS
    paid = paid_turns(target, work, "paid", _FLOOD_ARRIVALS_PER_S, progress.advance)
    return [*paid.openings, *paid.turns, *paid.flood]


# --- what came out ----------------------------------------------------------------------------


def figures_of(turns: Sequence[ClientTurn | TurnSeconds]) -> dict[str, list[float]]:
    """Seconds by figure."""
    return {
        "TTFT": [turn.ttft_s for turn in turns],
        "TPOT": [turn.tpot_s for turn in turns if turn.tpot_s is not None],
        "completion": [turn.e2e_s for turn in turns],
    }


def off(simulated: Sequence[float], live: Sequence[float], percent: int) -> float:
    """Relative error of a percentile."""
    return percentile(simulated, percent) / percentile(live, percent) - 1


@dataclass(frozen=True, slots=True)
class Side:
    """Turns of one kind of client, in all live runs of a workload together and in their simulations."""

    name: str
    runs: tuple[list[ClientTurn], ...]
    before: list[TurnSeconds]
    own: list[TurnSeconds]

    @property
    def live(self) -> list[ClientTurn]:
        return [turn for run in self.runs for turn in run]

    def rows(self) -> list[tuple[str, str, list[float], list[float]]]:
        """What is held against what, the figure, and both kinds of turns' seconds. Two single live runs say
        how near a simulation could come at most."""
        live, others = figures_of(self.live), [(APART, self.before), ("its own steps", self.own)]
        found = [(what, name, live[name], figures_of(o)[name]) for what, o in others for name in FIGURES]
        if len(self.runs) > 1:
            first, second = figures_of(self.runs[0]), figures_of(self.runs[1])
            found += [("live run 2 against 1", name, first[name], second[name]) for name in FIGURES]
        return [row for row in found if row[2] and row[3]]


def sides_of(name: str, runs: Sequence[LiveRound]) -> list[Side]:
    """All turns; of neighbours also those who pay and the flood: a median of both would lie between two
    populations, of which one waits ten times as long."""
    sides = [_side(name, runs, "")]
    if name == "neighbours":
        sides += [_side(f"{name}, {kind}", runs, kind) for kind in ("paid", "flood")]
    return sides


def _side(title: str, runs: Sequence[LiveRound], prefix: str) -> Side:
    before: list[TurnSeconds] = []
    own: list[TurnSeconds] = []
    for run in runs:
        assert run.found is not None
        for request, session in run.found.sessions.items():
            if _is_of(session, prefix):
                before += [run.found.before[request]] if request in run.found.before else []
                own += [run.found.own[request]] if request in run.found.own else []
    live = tuple([turn for turn in run.clients if _is_of(turn.session, prefix)] for run in runs)
    return Side(title, live, before, own)


def _is_of(session: str, prefix: str) -> bool:
    """Sessions that are paid for begin with ``paid``; agents and strangers of the flood have many names."""
    return not prefix or session.startswith("paid") == (prefix == "paid")


def _table(side: Side) -> Table:
    rows = []
    for what, figure, live, other in side.rows():
        row: dict[str, Any] = {"what": what, "figure": figure}
        for percent in (50, 99):
            really, seen = percentile(live, percent), percentile(other, percent)
            row |= {
                f"live{percent}": 1e3 * really,
                f"ms{percent}": 1e3 * seen,
                f"off{percent}": seen / really - 1,
            }
        rows.append(row)
    return sheet(f"{side.name}: {len(side.live)} turns in {len(side.runs)} live runs", COLUMNS, rows)


def fill(report: Report, found: dict[str, list[LiveRound]]) -> None:
    """Figures, verdicts and notes."""
    for name, runs in found.items():
        sides = sides_of(name, runs)
        for side in sides:
            report.verdicts += _verdicts(side)
        same = all(run.same_decisions for run in runs)
        steps = sum(run.steps for run in runs)
        report.verdicts.append(
            Verdict(f"{name}: steps decided otherwise when {steps:,} are decided again", float(not same), 0)
        )
        report.notes += _notes(name, runs)
        report.results[name] = {
            "errors": [_errors(side) for side in sides],
            "runs": [_json(run) for run in runs],
        }


def _verdicts(side: Side) -> list[Verdict]:
    found = []
    for what, figure, live, other in side.rows():
        if what == APART:
            for words, percent, limit in (("median", 50, LIMIT_MEDIAN), ("p99", 99, LIMIT_P99)):
                error = 100 * abs(off(other, live, percent))
                found.append(Verdict(f"{side.name}: {figure}, {words}", error, limit, "%"))
    return found


def _errors(side: Side) -> dict[str, Any]:
    rows = [
        {
            "against_live": what, "figure": figure, "p50_error": off(other, live, 50),
            "p99_error": off(other, live, 99), "live_p50_s": percentile(live, 50),
            "live_p99_s": percentile(live, 99),
        }
        for what, figure, live, other in side.rows()
    ]  # fmt: skip
    return {"turns_of": side.name, "turns": len(side.live), "rows": rows}


def _notes(name: str, runs: Sequence[LiveRound]) -> list[str]:
    notes = []
    for number, run in enumerate(runs, start=1):
        one = run.found
        assert one is not None
        notes.append(
            f"{name}, run {number}: {one.probe_steps} steps calibrate (median error {one.probe_error:.1%};"
            f" on this run's {one.run_steps} steps {one.run_error:.1%}, in the mean {one.run_bias:+.1%});"
            f" {one.front_ms:.1f} ms of a turn lie outside the loop; {run.failed} turns refused or failed"
        )
    return notes


def _json(run: LiveRound) -> dict[str, Any]:
    return {
        "turns": len(run.clients), "failed": run.failed, "same_decisions": run.same_decisions,
        "steps": run.steps, "simulated": None if run.found is None else run.found.as_json(),
    }  # fmt: skip
