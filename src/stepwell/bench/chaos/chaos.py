"""``stepwell bench chaos``: a whole server under load while everything around it fails."""

from __future__ import annotations

import random
import time
from collections import Counter
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.quantiles import percentile
from stepwell.bench.chaos import checks
from stepwell.bench.chaos.faults import ALL, Scene, possible, small_file_system, strike
from stepwell.bench.chaos.load import Load, undisturbed
from stepwell.bench.chaos.tally import ChaosTally
from stepwell.bench.chaos.target import ChaosTarget
from stepwell.bench.harness import BenchRun, DirectoryOption, bench, scratch
from stepwell.bench.ledger.postgres_server import running_postgres, why_not
from stepwell.console.options import NotNegative
from stepwell.console.output import table
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.errors import BadInput, StepwellError
from stepwell.ledger.stores.open import open_store

MINUTES = 30.0
LONGEST_S, QUICK_LONGEST_S = 8.0, 1.0
BETWEEN_S, QUICK_BETWEEN_S = 4.0, 0.4
QUICK_ON_POSTGRES = ("kill", "PostgreSQL restart")
"""What a quick run does beside the faults that it has tried on SQLite."""

Minutes = Annotated[float | None, Parameter(validator=Number(gt=0, lte=1_440))]
BooksIn = Literal["both", "sqlite", "postgres"]

WRONG = {
    "stated": "answers with a code that is not stated",
    "without a reason": "refusals and breaks that no fault explains",
    "other answer": "answers other than the undisturbed server's",
    "charged too often": "agents charged more often than served",
    "charge lost": "answers lost from the books without a kill",
    "books": "differences that 'stepwell ledger verify' finds",
    "document lost": "documents lost",
    "other document": "documents with other bytes",
    "did not come back": "times /health did not come back",
    "never answered": "clients that got no answer at all",
    "deleted books": "times /health said ok without books",
    "damaged books": "starts on books that are none",
    "client failed": "answers that no client could read",
    "traceback": "tracebacks in the server's log",
    "unclear start": "failed starts without one clear sentence",
    "died": "times the server ended by itself",
}
"""Everything that may go wrong, in the order of the report."""


@dataclass(frozen=True, slots=True)
class ChaosSetup:
    """What was asked for. ``for_s`` None: each fault once; ``only``: these faults (empty: all)."""

    engine: str
    seed: int
    for_s: float | None
    quick: bool
    only: frozenset[str]

    @property
    def longest_s(self) -> float:
        return QUICK_LONGEST_S if self.quick else LONGEST_S

    @property
    def between_s(self) -> float:
        return QUICK_BETWEEN_S if self.quick else BETWEEN_S


@dataclass(slots=True)
class ChaosRun:
    """What one run, of one or of two parts, came to."""

    counts: Counter[str] = field(default_factory=Counter)
    unexplained: list[str] = field(default_factory=list)
    came_back_s: list[float] = field(default_factory=list)
    skipped: list[str] = field(default_factory=list)


@bench("chaos", fails=True)
def main(
    run: BenchRun,
    *,
    minutes: Minutes = None,
    seed: NotNegative = 1,
    engine: Literal["null", "llamacpp"] = "null",
    books: BooksIn = "both",
    faults: list[str] | None = None,
    directory: DirectoryOption = None,
) -> None:
    """Kill, freeze and starve a server under load: is anything lost, wrong, or charged twice?

    A server with its books, documents and crews is asked without a pause, and meanwhile is killed and
    restarted, stopped and continued; its clock jumps, its disk is full, slow, read-only or refuses to write,
    KV on disk is damaged, its books are locked, moved away and truncated, PostgreSQL restarts, and hundreds
    of clients storm in. Each client knows what every answer must be: an undisturbed server gave it before.
    The target is none: no other answer, no unstated code, no refusal without a reason, nothing charged
    twice or lost, books that verify, documents that are all there, and /health that comes back each time.

    Example: ``stepwell bench chaos --minutes 30 --seed 7``

    Faults that the machine does not allow are left out, and the report names them: filling a file system
    needs root, and PostgreSQL needs its programs. Exit code 1 if a target is missed.

    Parameters
    ----------
    minutes
        How long (30; with --quick each fault once, under a minute on a quiet machine).
    seed
        Seed of the faults and of the load. Threads and kills never fall twice at the same moment.
    engine
        null takes time and computes nothing; llamacpp serves SmolLM2.
    books
        Where they are kept: in SQLite, in a PostgreSQL of the bench's own, or first one and then the other.
    faults
        Only these (repeat the flag), to look closer at one: kill, restart, freeze, clock, "slow disk",
        "writes fail", "disk full", "read-only start", "damaged KV", "books locked", "books moved away",
        "books truncated", "PostgreSQL restart", storm.
    """
    if books == "postgres" and (reason := why_not()) is not None:
        raise StepwellError(f"--books postgres: {reason}")
    if unknown := sorted(set(faults or ()) - ALL.keys()):
        raise BadInput(f"--faults {unknown[0]!r} is none of {', '.join(sorted(ALL))}")
    found, began = ChaosRun(), time.monotonic()
    parts = _parts(books, found)
    for_s = None if run.quick and minutes is None else (minutes or MINUTES) * 60 / len(parts)
    setup = ChaosSetup(engine, seed, for_s, run.quick, frozenset(faults or ()))
    with scratch("chaos", directory) as place:
        for number, part in enumerate(parts):
            run.progress.phase(f"{part}: the undisturbed server")
            own = replace(setup, seed=seed + 1_000 * number)
            try:
                _part(found, part, place / f"{number}-{part}", own, run.progress)
            except StepwellError as error:  # what the other part has found is said all the same
                found.counts["wrong: did not come back"] += 1
                found.unexplained.append(f"{part}: {error}")
    run.settings = {"engine": engine, "seed": seed, "quick": run.quick}
    _fill(run, found, time.monotonic() - began)


def _parts(books: BooksIn, run: ChaosRun) -> list[str]:
    if books != "both":
        return [books]
    if (reason := why_not()) is None:
        return ["sqlite", "postgres"]
    run.skipped.append(f"PostgreSQL: {reason}")
    return ["sqlite"]


def _part(run: ChaosRun, books: str, place: Path, setup: ChaosSetup, progress: Ticker) -> None:
    """One server on one kind of books, from its first start to the last look at what it has written."""
    place.mkdir()
    with ExitStack() as stack:
        tmpfs = stack.enter_context(small_file_system(place / "state"))
        if not tmpfs:
            run.skipped.append("a full and a read-only file system: only root may mount one")
        postgres = stack.enter_context(running_postgres()) if books == "postgres" else None
        ledger = str(place / "state" / "ledger.db") if postgres is None else postgres.url()
        target = ChaosTarget(place / "state", place, setup.engine, ledger)
        stack.callback(target.close)
        if not target.start():
            raise StepwellError(f"the server did not start: {' '.join(target.last_words())}")
        expected = undisturbed(target.base_url, setup.engine, place)
        tally = ChaosTally(target)
        scene = Scene(target, tally, random.Random(setup.seed), setup.longest_s, tmpfs, postgres)
        progress.phase(f"{books}: faults under load")
        with Load(tally, expected, setup.engine, setup.seed, place).running():
            _strike(scene, setup, progress)
        progress.phase(f"{books}: comparing the books")
        _judge(scene, run)


def _strike(scene: Scene, setup: ChaosSetup, progress: Ticker) -> None:
    """Each fault once, in an order of the seed; then, while there is time, any of them."""
    acts, began, for_s = possible(scene), time.monotonic(), setup.for_s
    if setup.quick and scene.postgres is not None:
        acts = {name: act for name, act in acts.items() if name in QUICK_ON_POSTGRES}
    if setup.only:
        acts = {name: act for name, act in acts.items() if name in setup.only}
    if not acts:
        return
    order = scene.dice.sample(sorted(acts), len(acts))
    while order or (for_s is not None and time.monotonic() - began < for_s):
        name = order.pop() if order else scene.dice.choice(sorted(acts))
        time.sleep(setup.between_s * scene.dice.random())
        progress.phase(f"{time.monotonic() - began:6.1f} s: {name}")
        strike(scene, name, acts[name])
        if for_s is not None and time.monotonic() - began >= for_s:
            break


def _judge(scene: Scene, run: ChaosRun) -> None:
    """The server ends as an operator ends it; then everything it has said is compared."""
    target, tally = scene.target, scene.tally
    target.terminate()
    target.ended()
    tally.judge()
    store = open_store(target.ledger, create=False)
    try:
        checks.books(store, tally)
    finally:
        store.close()
    checks.server(target, tally)
    tally.counts["kills"] = len(target.kills_s)
    tally.counts["starts that were refused"] = target.refused_starts
    run.counts.update(tally.counts)
    run.unexplained += tally.unexplained
    run.came_back_s += target.came_back_s


# --- report --------------------------------------------------------------------------------------


def _fill(run: BenchRun, found: ChaosRun, seconds: float) -> None:
    back = found.came_back_s or [0.0]
    run.results = dict(sorted(found.counts.items())) | {
        "seconds": round(seconds, 1),
        "well_again_s_median": round(percentile(back, 50), 2),
        "well_again_s_worst": round(max(back), 2),
    }
    run.verdicts = [Verdict(text, found.counts[f"wrong: {kind}"], 0) for kind, text in WRONG.items()]
    run.notes = [f"left out: {reason}" for reason in found.skipped] + found.unexplained[:20]
    run.samples = [{"unexplained": sentence} for sentence in found.unexplained]
    rows = [
        (name, f"{count:,}") for name, count in sorted(found.counts.items()) if not name.startswith("wrong: ")
    ]
    well = f"{percentile(back, 50):.2f} / {max(back):.2f}"
    rows.append(("well again after a fault, median / worst, s", well))
    run.show(table("A server and what was done to it", ("what", "count"), rows))
