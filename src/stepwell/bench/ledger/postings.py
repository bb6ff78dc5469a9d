"""``stepwell bench postings``: how many postings a second the ledger takes.

Batches as a meter makes them, one transaction each, into a file that grows as the rounds go on: what an
engine step's postings cost to keep, without engine, policy or server.
"""

from __future__ import annotations

import random
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Annotated, Any

from cyclopts import Parameter

from stepwell.basics.per_tier import PerTier
from stepwell.basics.quantiles import percentile
from stepwell.bench.harness import BenchRun, bench, numbers_of
from stepwell.console.options import Positive
from stepwell.console.output import sheet
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.errors import BadInput
from stepwell.ledger.base import PostingBatch, Run, Store
from stepwell.ledger.stores.open import POSTGRES_SCHEMES, open_store
from stepwell.ledger.types import (
    IDLE,
    MACHINE,
    Account,
    Cause,
    Kind,
    Position,
    Posting,
    Resource,
    Usage,
)

TARGET_PER_S = 100_000
TARGET_BATCH = 64
"""Smaller steps are bound by their transactions; no engine has 12,000 steps a second."""
BATCHES = "8, 64, 256"
MOST_BATCH = 100_000
ROUNDS, POSTINGS = 5, 100_000
QUICK_ROUNDS, QUICK_POSTINGS = 3, 20_000
AGENTS = 300
NODE = "stepwell bench postings"
COLUMNS = {
    "store": "{store}",
    "postings per step": "{postings_per_batch:,}",
    "postings/s": "{postings_per_s:,.0f}",
    "least": "{postings_per_s_least:,.0f}",
    "step p50": "{batch_us_p50:,.0f}",
    "p99": "{batch_us_p99:,.0f}",
    "max": "{batch_us_max:,.0f}",
}
RESOURCES = (
    Resource.COMPUTE,
    Resource.DEVICE,
    Resource.HOST,
    Resource.DISK,
    Resource.STORED,
    Resource.LOADED,
)
CAUSES = {Resource.COMPUTE: Cause.STEP, Resource.STORED: Cause.MOVE, Resource.LOADED: Cause.MOVE}


@dataclass(slots=True)
class PostingsCase:
    """One store with batches of one size."""

    store: str
    postings_per_batch: int
    per_s: list[float] = field(default_factory=list)
    """Of each round."""
    batch_us: list[float] = field(default_factory=list)
    """Of each batch: how long ``write`` took to return."""

    def as_json(self) -> dict[str, Any]:
        return {
            "store": self.store,
            "postings_per_batch": self.postings_per_batch,
            "postings_per_s": median(self.per_s),
            "postings_per_s_least": min(self.per_s),
            "batch_us_p50": median(self.batch_us),
            "batch_us_p99": percentile(self.batch_us, 99),
            "batch_us_max": max(self.batch_us),
            "batches": len(self.batch_us),
        }


@bench("postings")
def main(
    run: BenchRun,
    *,
    batches: str = BATCHES,
    rounds: Positive = ROUNDS,
    postings: Positive = POSTINGS,
    postgres: str | None = None,
    directory: Annotated[Path | None, Parameter(name=["--dir"])] = None,
) -> None:
    """Measure how many postings a second the ledger writes, one transaction for each engine step.

    SQLite in a temporary file, and PostgreSQL where a URL is given. Nothing else runs.

    Example: ``stepwell bench postings --batches 16,128 --postgres postgresql://me@localhost/empty``

    Parameters
    ----------
    batches
        Postings per engine step, comma separated.
    rounds
        How often each is measured; medians are shown.
    postings
        Postings in each round.
    postgres
        URL of a database without books in it: what is entered stays there.
    directory
        Where the temporary file is made (default: the system's directory for such).
    """
    sizes = numbers_of("--batches", batches, "postings per engine step", 1, MOST_BATCH)
    if run.quick:
        rounds, postings = min(rounds, QUICK_ROUNDS), min(postings, QUICK_POSTINGS)
    if postgres is not None and not postgres.startswith(POSTGRES_SCHEMES):
        raise BadInput(f"--postgres takes a URL such as {POSTGRES_SCHEMES[0]}me@localhost/empty")
    run.settings = {"batches": sizes, "rounds": rounds, "postings": postings}
    cases: list[PostingsCase] = []
    with temporary_store(directory) as (store, path):
        cases += measured(run.progress, "SQLite", store, sizes, rounds, postings)
        run.results["sqlite_bytes_per_posting"] = bytes_per_posting(store, path)
    if postgres is not None:
        with postgres_store(postgres) as store:
            cases += measured(run.progress, "PostgreSQL", store, sizes, rounds, postings)
    run.results["cases"] = [case.as_json() for case in cases]
    run.samples = [_samples(case) for case in cases]
    run.verdicts = verdicts(cases)
    run.notes = list(_notes(cases))
    title = "Postings a second (median and least of the rounds), and microseconds until a step's are kept"
    run.show(sheet(title, COLUMNS, run.results["cases"]))
    run.show(f"SQLite: {run.results['sqlite_bytes_per_posting']:.0f} bytes of file per posting.")


# --- stores -----------------------------------------------------------------------------------


@contextmanager
def temporary_store(directory: Path | None) -> Iterator[tuple[Store, Path]]:
    """An empty SQLite ledger that is gone afterwards. ``BadInput`` when the directory does not serve."""
    try:
        made = tempfile.TemporaryDirectory(prefix="stepwell-postings-", dir=directory)
    except OSError as error:
        raise BadInput(f"--dir {directory}: {error.strerror}") from error
    with made as place:
        path = Path(place) / "ledger.db"
        store = open_store(path)
        try:
            yield store, path
        finally:
            store.close()


@contextmanager
def postgres_store(url: str) -> Iterator[Store]:
    """``BadInput`` when real books are there: postings cannot be taken out again."""
    store = open_store(url)
    try:
        (others,) = store.rows("SELECT COUNT(*) FROM runs WHERE node <> ?", (NODE,))[0]
        if others:
            raise BadInput(
                "--postgres: there are books in that database; name an empty one, entries stay for ever"
            )
        yield store
    finally:
        store.close()


def bytes_per_posting(store: Store, path: Path) -> float:
    """Of the file as it has grown, everything in it included."""
    (count,) = store.rows("SELECT COUNT(*) FROM postings")[0]
    store.close()  # the write-ahead log goes into the file
    return path.stat().st_size / max(1, int(count))


# --- measuring --------------------------------------------------------------------------------


def measured(
    progress: Ticker, name: str, store: Store, sizes: Sequence[int], rounds: int, postings: int
) -> list[PostingsCase]:
    """Every size in every round, so that the file's growth meets all of them alike."""
    cases = [PostingsCase(name, size) for size in sizes]
    chance = random.Random(1)
    for number in range(1, rounds + 1):
        progress.phase(f"{name}: round {number} of {rounds}", total=len(cases))
        for case in cases:
            _round(case, store, steps(chance, case.postings_per_batch, postings))
            progress.advance()
    return cases


def _round(case: PostingsCase, store: Store, batches: Sequence[PostingBatch]) -> None:
    run = store.begin(Run(NODE, batches[0].at_us, "none", "{}", "", ""))
    times_us = []
    for batch in batches:
        began = time.perf_counter_ns()
        store.write(run, batch)
        times_us.append((time.perf_counter_ns() - began) / 1_000)
    store.end(run, batches[-1].at_us)
    case.batch_us += times_us
    case.per_s.append(sum(len(batch.postings) for batch in batches) / (sum(times_us) / 1e6))


def steps(chance: random.Random, size: int, postings: int) -> list[PostingBatch]:
    """So many postings in batches of that size: agents' compute and KV, a rest of the machine, and now and
    then a request that ends."""
    agents = [_agent(number) for number in range(AGENTS)]
    start_us = time.time_ns() // 1_000
    return [
        _step(chance, agents, number, start_us, size) for number in range(1, max(1, postings // size) + 1)
    ]


def _agent(number: int) -> Account:
    session, tenant = f"session-{number // 8}", f"tenant-{number % 5}"
    return Account(
        Kind.AGENT, tenant, f"key_{number % 9}", "default", session, f"agent-{number}", "", "reader"
    )


def _step(
    chance: random.Random, agents: Sequence[Account], number: int, start_us: int, size: int
) -> PostingBatch:
    made = [_posting(chance, chance.choice(agents), chance.choice(RESOURCES)) for _ in range(size - 1)]
    made.append(Posting(MACHINE, IDLE, Resource.COMPUTE, 1 + chance.randrange(500), Cause.REST))
    now_us = number * 20_000
    positions = [
        Position(posting.credit, PerTier(chance.randrange(1 << 30), 0, 0), now_us)
        for posting in made
        if posting.resource is Resource.DEVICE
    ]
    usage = (
        [Usage(number, chance.choice(agents), "none", "stop", start_us + now_us)] if number % 20 == 0 else []
    )
    totals = {resource.value: number * 1_000_000 for resource in RESOURCES}
    return PostingBatch(number, start_us + now_us, now_us, made, usage, positions, totals)


def _posting(chance: random.Random, agent: Account, resource: Resource) -> Posting:
    cause = CAUSES.get(resource, Cause.STORAGE)
    return Posting(MACHINE, agent, resource, 1 + chance.randrange(1 << 40), cause, chance.randrange(5_000))


# --- reporting --------------------------------------------------------------------------------


def verdicts(cases: Sequence[PostingsCase]) -> list[Verdict]:
    """For the store that needs no server, at the sizes of a busy engine's steps."""
    return [
        Verdict(
            f"{case.store}, {case.postings_per_batch:,} postings per step",
            median(case.per_s),
            TARGET_PER_S,
            " postings/s",
            at_most=False,
        )
        for case in cases
        if case.store == "SQLite" and case.postings_per_batch >= TARGET_BATCH
    ]


def _notes(cases: Sequence[PostingsCase]) -> Iterator[str]:
    for store in dict.fromkeys(case.store for case in cases):
        reached = [
            case.postings_per_batch
            for case in cases
            if case.store == store and median(case.per_s) >= TARGET_PER_S
        ]
        where = (
            f"with {', '.join(f'{size:,}' for size in reached)} postings per step"
            if reached
            else "at no size"
        )
        yield f"{store}: {TARGET_PER_S:,} postings a second are reached {where}"


def _samples(case: PostingsCase) -> dict[str, Any]:
    return {
        "store": case.store,
        "postings_per_batch": case.postings_per_batch,
        "postings_per_s": [round(rate) for rate in case.per_s],
        "batch_us": [round(us, 1) for us in case.batch_us],
    }
