"""``stepwell bench exactness``: a cache that moved must not change a token, nor a bit of a logit.

Two arms run the same greedy turns, one model at a time. In the first every block stays on the
device. In the second every idle block is pushed down after every round, to host in the first half of
the run and to disk in the second, and comes back for the next round wherever there is room. Rounds
are lockstep: all requests of a round are queued before the first step, so both arms run the same
batches, which floating-point sums depend on.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.bench.arms import ArmsJob, Comparison, same_verdicts
from stepwell.bench.engine import restarted
from stepwell.bench.harness import NULL_MODEL, BenchRun, SeedOption, ThreadsOption, bench, require_real
from stepwell.bench.schedule import ScheduleShape
from stepwell.console.options import OptionalPositive
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.engines.models import resolve_model
from stepwell.errors import BadInput

ZOO_TURNS = 24
COLUMNS = {
    "model": "{name}",
    "turns": "{turns:,}",
    "tokens compared": "{sampled:,}",
    "logits compared": "{logits_compared:,}",
    "from host": "{from_host:,}",
    "from disk": "{from_disk:,}",
    "tokens differ": "{token_differences}",
    "logits differ": "{logit_differences}",
}


@bench("exactness", fails=True)
def main(
    run: BenchRun,
    *,
    model: str | None = None,
    turns: OptionalPositive = None,
    seed: SeedOption = 20261122,
    device_kv_tokens: Annotated[int, Parameter(validator=Number(gte=1024))] = 6144,
    threads: ThreadsOption = None,
    restart: bool = True,
    control: bool = True,
    zoo: Annotated[list[str] | None, Parameter(consume_multiple=True)] = None,
    page: Path | None = None,
) -> None:
    """Check that demotion to host and disk changes no token and no bit of a logit.

    Runs the same greedy turns with every block on the device, and with every idle block pushed to host or
    disk after every round; alone and in batches. A fifth of the turns also runs twice with a restart in
    between, against twice without one.

    Example: ``stepwell bench exactness --turns 200 --model smollm2``

    With tiny models: ``stepwell bench exactness --zoo kinds mamba llama:q4_k_m``

    Exit code 0: everything is identical; 1: something differs.

    Parameters
    ----------
    model
        smollm2, gemma3, null or the path of a GGUF file (default: smollm2 and then gemma3).
    turns
        Turns per model (default 1000; 40 with --quick).
    device_kv_tokens
        Device KV of both arms.
    restart
        Also compare what is found on disk after a restart with what is found on the device without one.
    control
        Also show what happens when blocks are put back wherever there is room, without care.
    zoo
        Tiny random models instead, one for each architecture that llama.cpp runs, or those named here, as
        ARCHITECTURE[:VARIANT...]; "kinds" names the short list. 24 turns each, one thread (10 minutes).
    page
        With --zoo: write the table of verdicts into this page, between its two zoo marks.
    """
    if page is not None and zoo is None:
        raise BadInput("--page is for --zoo: it takes the table of the zoo")
    if zoo is not None:
        _zoo(run, zoo, page, (turns or ZOO_TURNS, seed, device_kv_tokens, threads or 1))
        return
    models = [model] if model else (["smollm2"] if run.quick else ["smollm2", "gemma3"])
    count = turns or (40 if run.quick else 1000)
    for name in models:
        require_real(name)  # a missing model is said before an hour of work with the other one
    run.settings = {"models": models, "turns": count, "seed": seed, "device_kv_tokens": device_kv_tokens}
    run.settings |= {"shape": asdict(ScheduleShape()), "threads": threads}
    for name in models:
        _compare(ArmsJob(name, count, seed, device_kv_tokens, threads), run, control, restart)
    rows = [found | {"name": name} for name, found in run.results.items()]
    run.show(sheet("On the device against demoted after every round", COLUMNS, rows))


def _compare(job: ArmsJob, run: BenchRun, control: bool, restart: bool) -> None:
    """Add what both arms of one model did, and what differs."""
    comparison = job.run(run.progress, run.samples)
    if control and job.model != NULL_MODEL:
        comparison.control = _control(job.model, job.threads, run.progress)
    run.results[job.model] = asdict(comparison)
    run.verdicts += verdicts(comparison)
    run.notes += _notes(comparison)
    if restart:
        _restart(job, run)


def _restart(job: ArmsJob, run: BenchRun) -> None:
    """Add what a restart between two times of the same turns changes."""
    found = restarted.run(replace(job, turns=max(1, job.turns // restarted.SHARE)), run.progress)
    run.results[f"{job.model}, restarted"] = asdict(found.comparison)
    run.results[f"{job.model}, computed anew"] = asdict(found.cold)
    run.verdicts += restarted.verdicts(found)
    run.notes += restarted.notes(found)


def _zoo(run: BenchRun, names: Sequence[str], page: Path | None, size: tuple[int, int, int, int]) -> None:
    from stepwell.bench.zoo.child import ZooWishes
    from stepwell.bench.zoo.run import fill, write_page

    fill(run, names, ZooWishes("", *size))
    if page is not None:
        write_page(page, run.samples)


def _control(model: str, threads: int | None, progress: Ticker) -> dict[str, Any]:
    from stepwell.bench.engine.raw_llamacpp import misplaced_blocks

    progress.phase(f"{model}: control, blocks put back without care")
    return misplaced_blocks(resolve_model(model).path, threads)


def verdicts(comparison: Comparison) -> list[Verdict]:
    """Nothing may differ, and something must really have moved: an empty test proves nothing."""
    name = comparison.model
    return [
        *same_verdicts(name, comparison),
        Verdict(f"{name}: tokens that came back from host", comparison.from_host, 1, at_most=False),
        Verdict(f"{name}: tokens that came back from disk", comparison.from_disk, 1, at_most=False),
    ]


def _notes(comparison: Comparison) -> list[str]:
    notes = [f"{comparison.model}: {line}" for line in comparison.first]
    if comparison.reference_moved:
        notes.append(
            f"{comparison.model}: {comparison.reference_moved:,} tokens came back from below the device in "
            "the arm that should keep them there: give it more --device-kv-tokens"
        )
    if comparison.control:
        notes.append(f"{comparison.model}: control: {comparison.control['sentence']}")
    return notes
