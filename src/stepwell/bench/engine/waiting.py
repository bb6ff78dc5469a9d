"""``stepwell bench waiting``: how long threads of llama.cpp spin before they sleep, alone and on busy cores.

A step is computed by several threads, which wait for each other hundreds of times in it. One that spins is
quick to go on; where another program has the core of the thread that is waited for, it spins that program's
turn away as well.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from statistics import mean, median
from typing import Any

from rich.table import Table

from stepwell.basics.this_machine import usable_cores
from stepwell.bench.child import Child
from stepwell.bench.engine.waiting_child import SEQUENCES
from stepwell.bench.harness import BenchRun, RealModelOption, ThreadsOption, bench, numbers_of
from stepwell.console.options import OptionalPositive, Positive
from stepwell.console.output import sheet
from stepwell.engines.llamacpp.openmp import SPINS, VARIABLE
from stepwell.engines.models import resolve_model

ITS_OWN = "the library's own"
STEPS, QUICK_STEPS = 60, 5
PROMPT_TOKENS, QUICK_PROMPT_TOKENS = 128, 8
"""Of each sequence, before its steps. Computing them takes most of the time."""
# Ends by itself, should its parent not end it.
_BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


@bench("waiting")
def main(
    run: BenchRun,
    *,
    model: RealModelOption = "smollm2",
    spins: str = "300,1000,3000,10000,30000",
    beside: OptionalPositive = None,
    rounds: Positive = 3,
    threads: ThreadsOption = None,
) -> None:
    """Measure a step of llama.cpp by how long its threads spin before they sleep.

    Alone, and beside programs that never rest; one sequence and eight; in alternating rounds.

    Example: ``stepwell bench waiting --spins 1000,10000 --beside 2``

    Parameters
    ----------
    spins
        Times round the loop, with commas.
    beside
        How many busy programs (default: as many as cores).
    rounds
        Repeat everything; medians are quoted (1 with --quick).
    """
    path, cores = resolve_model(model).path, usable_cores()
    tried = [ITS_OWN, *map(str, numbers_of("--spins", spins, "times round the loop", 0, 10**9 - 1))]
    busy, steps = beside or cores, QUICK_STEPS if run.quick else STEPS
    prompt_tokens = QUICK_PROMPT_TOKENS if run.quick else PROMPT_TOKENS
    rounds = 1 if run.quick else rounds
    run.progress.phase("decoding", rounds * 2 * len(tried))
    for round_ in range(rounds):
        for programs in (0, busy):
            with busy_programs(programs):
                for spin in tried:
                    told = _decoded(path, threads or cores, steps, prompt_tokens, spin)
                    run.samples.append({"round": round_, "beside": programs, "spins": spin, "step_ms": told})
                    run.progress.advance()
    run.settings = {"model": model, "threads": threads or cores, "steps": steps, "beside": busy}
    run.settings["default"] = SPINS
    run.results = {"rows": _rows(run.samples, tried, busy)}
    run.show(_table(run.results["rows"], busy))


@contextmanager
def busy_programs(count: int) -> Iterator[None]:
    """So many programs that never rest, for as long as it lasts."""
    programs = [subprocess.Popen([sys.executable, "-c", _BUSY]) for _ in range(count)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def _decoded(path: Path, threads: int, steps: int, prompt_tokens: int, spin: str) -> dict[str, list[float]]:
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    if spin != ITS_OWN:
        environment[VARIABLE] = spin
    words = (path, threads, steps, prompt_tokens)
    with Child("stepwell.bench.engine.waiting_child", *words, env=environment) as child:
        told: dict[str, list[float]] = json.loads(child.line())
    return told


def _rows(samples: list[dict[str, Any]], tried: list[str], busy: int) -> list[dict[str, Any]]:
    def step_ms(spin: str, programs: int, sequences: int) -> float:
        found = [one["step_ms"] for one in samples if (one["spins"], one["beside"]) == (spin, programs)]
        return float(median(mean(times[str(sequences)]) for times in found))

    return [
        {"spins": spin, "sequences": n, "alone_ms": step_ms(spin, 0, n), "beside_ms": step_ms(spin, busy, n)}
        for n in (1, SEQUENCES)
        for spin in tried
    ]


def _table(rows: list[dict[str, Any]], busy: int) -> Table:
    first = {row["sequences"]: row for row in reversed(rows) if row["spins"] == ITS_OWN}
    shown = [
        row
        | {f"{way}_x": row[f"{way}_ms"] / first[row["sequences"]][f"{way}_ms"] for way in ("alone", "beside")}
        for row in rows
    ]
    columns = (
        ("spins", "{spins}"),
        ("sequences", "{sequences}"),
        ("ms a step alone", "{alone_ms:.1f}"),
        ("", "{alone_x:.2f}x"),
        (f"beside {busy} busy programs", "{beside_ms:.1f}"),
        ("", "{beside_x:.2f}x"),
    )
    return sheet("A step of llama.cpp, by how long its threads spin", columns, shown)
