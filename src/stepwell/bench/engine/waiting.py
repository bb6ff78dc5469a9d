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

from stepwell.bench.engine.waiting_child import SEQUENCES
from stepwell.console.options import JsonOption, OptionalPositive, Positive, QuickOption
from stepwell.console.output import report_console, table
from stepwell.console.progress import ticker
from stepwell.console.report import Report
from stepwell.engines.llamacpp.openmp import SPINS, VARIABLE
from stepwell.errors import BadInput, StepwellError
from stepwell.models import resolve_model
from stepwell.this_machine import usable_cores

ITS_OWN = "the library's own"
STEPS, QUICK_STEPS = 60, 5
PROMPT_TOKENS, QUICK_PROMPT_TOKENS = 128, 8
"""Of each sequence, before its steps. Computing them takes most of the time."""
# Ends by itself, should its parent not end it.
_BUSY = "import os\nparent = os.getppid()\nwhile os.getppid() == parent: sum(range(100_000))"


def main(
    *,
    quick: QuickOption = False,
    json_file: JsonOption = None,
    model: str = "smollm2",
    spins: str = "300,1000,3000,10000,30000",
    beside: OptionalPositive = None,
    rounds: Positive = 3,
    threads: OptionalPositive = None,
) -> int:
    """Measure a step of llama.cpp by how long its threads spin before they sleep.

    Alone, and beside programs that never rest; one sequence and eight; in alternating rounds.
    Example: stepwell bench waiting --spins 1000,10000 --beside 2

    Parameters
    ----------
    model
        smollm2, gemma3 or the path of a GGUF file.
    spins
        Times round the loop, with commas.
    beside
        How many busy programs (default: as many as cores).
    threads
        Of llama.cpp (default: the cores there are).
    """
    path, cores = resolve_model(model).path, usable_cores()
    tried = [ITS_OWN, *_counts(spins)]
    busy, steps = beside or cores, QUICK_STEPS if quick else STEPS
    prompt_tokens = QUICK_PROMPT_TOKENS if quick else PROMPT_TOKENS
    rounds = 1 if quick else rounds
    samples = []
    with ticker() as progress:
        progress.phase("decoding", rounds * 2 * len(tried))
        for round_ in range(rounds):
            for programs in (0, busy):
                with busy_programs(programs):
                    for spin in tried:
                        told = _decoded(path, threads or cores, steps, prompt_tokens, spin)
                        samples.append({"round": round_, "beside": programs, "spins": spin, "step_ms": told})
                        progress.advance()
    report = _report(samples, tried, busy, {"model": model, "threads": threads or cores, "steps": steps})
    console = report_console(json_file)
    console.print(_table(report.results["rows"], busy))
    report.finish(console, json_file)
    return 0


def _counts(text: str) -> list[str]:
    words = [word.strip() for word in text.split(",") if word.strip()]
    if not words or not all(word.isdecimal() and len(word) < 10 for word in words):
        raise BadInput(f"--spins {text!r}: whole numbers with commas, such as 1000,10000")
    return words


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
    child = [sys.executable, "-m", "stepwell.bench.engine.waiting_child"]
    command = [*child, str(path), *map(str, (threads, steps, prompt_tokens))]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if done.returncode:
        raise StepwellError("a process of the benchmark ended before it was done")
    told: dict[str, list[float]] = json.loads(done.stdout)
    return told


def _report(samples: list[dict[str, Any]], tried: list[str], busy: int, settings: dict[str, Any]) -> Report:
    def step_ms(spin: str, programs: int, sequences: int) -> float:
        found = [one["step_ms"] for one in samples if (one["spins"], one["beside"]) == (spin, programs)]
        return float(median(mean(times[str(sequences)]) for times in found))

    rows = [
        {"spins": spin, "sequences": n, "alone_ms": step_ms(spin, 0, n), "beside_ms": step_ms(spin, busy, n)}
        for n in (1, SEQUENCES)
        for spin in tried
    ]
    return Report("waiting", settings | {"beside": busy, "default": SPINS}, {"rows": rows}, samples=samples)


def _table(rows: list[dict[str, Any]], busy: int) -> Any:
    first = {row["sequences"]: row for row in reversed(rows) if row["spins"] == ITS_OWN}
    cells = [
        [
            row["spins"],
            str(row["sequences"]),
            f"{row['alone_ms']:.1f}",
            f"{row['alone_ms'] / first[row['sequences']]['alone_ms']:.2f}x",
            f"{row['beside_ms']:.1f}",
            f"{row['beside_ms'] / first[row['sequences']]['beside_ms']:.2f}x",
        ]
        for row in rows
    ]
    head = ("spins", "sequences", "ms a step alone", "", f"beside {busy} busy programs", "")
    return table("A step of llama.cpp, by how long its threads spin", head, cells)
