"""``stepwell bench metering``: what it costs to keep the books.

Twice: the same turns on a real model with and without a ledger, and as many postings as the loop can make on
an engine whose time is only simulated. What the ledger takes is measured directly as well, for on most
machines one per cent of a run is less than two runs differ by.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from statistics import median
from typing import Any

from rich.table import Table

from stepwell.basics.clock import Clock, ManualClock, MonotonicClock
from stepwell.bench.clocks import timed_calls
from stepwell.bench.harness import NULL_MODEL, BenchRun, ModelOption, ThreadsOption, bench, both_ways, scratch
from stepwell.bench.turns import TurnsPlayer, TurnsWork
from stepwell.console.options import Positive
from stepwell.console.output import facts
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.launch import assemble
from stepwell.ledger.base import PostingBatch, RunId
from stepwell.ledger.settings import LedgerSettings
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import KvSettings, PolicySettings, Settings

LIMIT_PERCENT = 1
TARGET_PER_S = 100_000
KEEPER_CALLS = ("reserve", "ran", "decided", "use_of")
HOST_BYTES = 8 << 30


LIVE = TurnsWork(8, 4, 300, 40, 32, 4_096)
QUICK_LIVE = TurnsWork(4, 1, 80, 20, 16, 1_024)
NULL = TurnsWork(192, 4, 400, 40, 64, 192 * 1_024, step_tokens=4_096)
QUICK_NULL = replace(NULL, agents=96, turns=1)


@dataclass(slots=True)
class MeteringKept:
    """What keeping books took in one run."""

    wall_s: float = 0.0
    steps: int = 0
    keeper_s: float = 0.0
    """In the loop's own thread, waiting for the writer included."""
    writer_cpu_s: float = 0.0
    """In the writer's thread: time that a core could have given to the model."""
    written_s: float = 0.0
    """From the first submit until everything was in the books."""
    postings: int = 0
    transactions: int = 0

    @property
    def per_s(self) -> float:
        """Postings a second of the time that the loop gives to the books, until the last is written."""
        return self.postings / (self.keeper_s + self.written_s - self.wall_s)

    @property
    def share(self) -> float:
        return (self.keeper_s + self.writer_cpu_s) / self.wall_s

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"share": self.share}


@dataclass(slots=True)
class MeteringRounds:
    """Wall time of the same work, without and with books."""

    without_s: list[float]
    with_s: list[float]
    kept: list[MeteringKept]

    @property
    def per_s(self) -> float:
        """Postings a second, median of the rounds."""
        return median([kept.per_s for kept in self.kept])

    @property
    def per_s_by_wall_time(self) -> float:
        """The same by what runs with books took longer; infinite where they did not."""
        longer_s = median(self.with_s) - median(self.without_s)
        return median([kept.postings for kept in self.kept]) / longer_s if longer_s > 0 else math.inf

    @property
    def ratios(self) -> list[float]:
        return [kept / bare for kept, bare in zip(self.with_s, self.without_s, strict=True)]


@bench("metering")
def main(
    run: BenchRun, *, model: ModelOption = "smollm2", rounds: Positive = 5, threads: ThreadsOption = None
) -> None:
    """Measure what keeping books costs a server, and how many postings a second it can make.

    The same turns on a real model with and without a ledger, in turn; and, on an engine that computes
    nothing, postings from the meter through the writer into SQLite.

    Example: ``stepwell bench metering``

    Parameters
    ----------
    rounds
        How often the live work is done in each way (2 with --quick).
    """
    live, null = (QUICK_LIVE, QUICK_NULL) if run.quick else (LIVE, NULL)
    rounds = min(rounds, 2) if run.quick else rounds
    run.settings = {"model": model, "rounds": rounds, "live": asdict(live), "null": asdict(null)}
    run.settings["quick"] = run.quick
    with scratch("metering") as place:
        found = _live(place, live, model, threads, rounds, run.progress)
        many = _null(place, null, rounds, run.progress)
    _fill(run, found, many)
    run.show(_live_table(found, run.results), _null_table(many))


# --- live ---------------------------------------------------------------------------------------


def _live(
    place: Path, work: TurnsWork, model: str, threads: int | None, rounds: int, progress: Ticker
) -> MeteringRounds:
    """The same turns in real time. The first run of a process is slower and is not counted."""
    engine = EngineSettings(
        kind="null" if model == NULL_MODEL else "llamacpp",
        model=model,
        device_kv_tokens=work.device_kv_tokens,
        threads=threads,
    )
    progress.phase(f"{work.agents} agents on {model}, without and with books", 2 * rounds + 1)
    _one_run(place, work, engine, None, MonotonicClock())
    progress.advance()
    return _rounds(place / "live", work, engine, rounds, MonotonicClock, progress)


def _null(place: Path, work: TurnsWork, rounds: int, progress: Ticker) -> MeteringRounds:
    """Time is simulated: the engine's passes at once and is metered all the same."""
    progress.phase(f"{work.agents} agents on the null engine, without and with books", 2 * rounds)
    engine = EngineSettings(
        kind="null", device_kv_tokens=work.device_kv_tokens, max_sequences=min(255, work.agents)
    )
    return _rounds(place / "null", work, engine, rounds, ManualClock, progress)


def _rounds(
    place: Path,
    work: TurnsWork,
    engine: EngineSettings,
    rounds: int,
    clock: Callable[[], Clock],
    progress: Ticker,
) -> MeteringRounds:
    """Each round once without and once with books, which of them first in turn."""
    place.mkdir()

    def measure(number: int, keeps: bool) -> MeteringKept:
        return _one_run(place, work, engine, place / f"{number}.db" if keeps else None, clock())

    bare, kept = both_ways(rounds, measure, progress)
    return MeteringRounds([one.written_s for one in bare], [one.written_s for one in kept], kept)


def _one_run(
    place: Path, work: TurnsWork, engine: EngineSettings, ledger: Path | None, clock: Clock
) -> MeteringKept:
    settings = Settings(
        engine=engine,
        kv=KvSettings(host_kv=HOST_BYTES, disk_kv=0, disk_dir=place / "kv"),
        policy=PolicySettings(max_running=engine.max_sequences, step_tokens=work.step_tokens),
        ledger=LedgerSettings(path=None if ledger is None else str(ledger)),
    )
    node = assemble.build(settings, clock=clock)
    kept = MeteringKept()
    try:
        with _stopwatch(node, kept):
            _play(node, work, kept)
    finally:
        node.stop(0.0)
    return kept


def _play(node: assemble.Node, work: TurnsWork, kept: MeteringKept) -> None:
    driver, player = node.driver, TurnsPlayer(node.text, work)
    steps_before = driver.snapshot().counters["steps"]
    started_s = time.perf_counter()
    player.play(driver, driver.step)
    kept.wall_s = time.perf_counter() - started_s
    if node.ledger is not None:
        node.ledger.writer.flush()
    kept.written_s = time.perf_counter() - started_s
    kept.steps = driver.snapshot().counters["steps"] - steps_before


# --- the stopwatch ------------------------------------------------------------------------------


@contextmanager
def _stopwatch(node: assemble.Node, kept: MeteringKept) -> Iterator[None]:
    """Time what the loop calls of the keeper, and what the writer's thread computes for it, and count it."""
    if node.ledger is None:
        yield
        return
    keeper, store = node.ledger.keeper, node.ledger.store
    write = store.write

    def counted(run: RunId, batch: PostingBatch) -> None:
        write(run, batch)
        kept.postings += len(batch.postings)
        kept.transactions += 1

    setattr(store, "write", counted)  # noqa: B010  (a method of this one store)
    try:
        with (
            timed_calls([(keeper, name, "loop") for name in KEEPER_CALLS], time.perf_counter) as loop,
            timed_calls([(store, "write", "writer")], time.thread_time) as writer,
        ):
            yield
    finally:
        delattr(store, "write")
    kept.keeper_s, kept.writer_cpu_s = loop["loop"], writer["writer"]


# --- report -------------------------------------------------------------------------------------


def _fill(run: BenchRun, found: MeteringRounds, many: MeteringRounds) -> None:
    shares = [kept.share for kept in found.kept]
    run.results = {
        "share_of_wall_time": median(shares),
        "loop_us_per_step": median([kept.keeper_s / kept.steps * 1e6 for kept in found.kept]),
        "writer_us_per_step": median([kept.writer_cpu_s / kept.steps * 1e6 for kept in found.kept]),
        "wall_time_ratio": median(found.ratios),
        "wall_time_ratio_least": min(found.ratios),
        "wall_time_ratio_most": max(found.ratios),
        "without_s": found.without_s,
        "with_s": found.with_s,
        "postings_per_s": many.per_s,
        "postings_per_s_by_wall_time": many.per_s_by_wall_time,
        "null": [kept.as_json() for kept in many.kept],
    }
    run.samples = [kept.as_json() for kept in found.kept]
    run.verdicts = [
        Verdict("keeping books, share of a live run's wall time", 100 * median(shares), LIMIT_PERCENT, " %"),
        Verdict("postings a second, from the meter into SQLite", many.per_s, TARGET_PER_S, at_most=False),
    ]
    spread = max(found.without_s) / min(found.without_s) - 1
    run.notes.append(
        f"runs without books differ among themselves by {100 * spread:.1f} %: the share is what was timed in "
        "the loop and in the writer, not the difference of two runs"
    )


LIVE_ROWS = {
    "a step, us": "{wall_us:,.0f}",
    "of it in the loop: meter, budgets, handing over, us": "{loop_us_per_step:,.0f}",
    "beside it in the writer's thread: SQLite, us of CPU": "{writer_us_per_step:,.0f}",
    "both, share of wall time": "{share_percent:.2f} %",
    "postings a step": "{postings_a_step:,.1f}",
    "wall time without books, median s": "{without:,.2f}",
    "wall time with books, median s": "{with:,.2f}",
    "longer by, median": "{longer:+.1f} %",
    "longer by, least to most": "{least:+.1f} to {most:+.1f} %",
}
NULL_ROWS = {
    "postings": "{postings:,.0f}",
    "a step": "{a_step:,.0f}",
    "seconds in the loop for the books, waiting for the writer included": "{keeper_s:,.3f}",
    "seconds of CPU in the writer": "{writer_cpu_s:,.3f}",
    "postings a second of the loop's time for the books": "{per_s:,.0f}",
    "seconds without books, whole run": "{without:,.3f}",
    "seconds with books, whole run, until all is written": "{with:,.3f}",
    "postings a second of the difference": "{per_s_by_wall_time:,.0f}",
}


def _live_table(found: MeteringRounds, results: Mapping[str, Any]) -> Table:
    ratios = [100 * (ratio - 1) for ratio in found.ratios]
    figures = {
        "wall_us": median([kept.wall_s / kept.steps * 1e6 for kept in found.kept]),
        "share_percent": 100 * results["share_of_wall_time"],
        "postings_a_step": median([kept.postings / kept.steps for kept in found.kept]),
        "without": median(found.without_s),
        "with": median(found.with_s),
        "longer": median(ratios),
        "least": min(ratios),
        "most": max(ratios),
    }
    return facts("The same turns with and without books", LIVE_ROWS, {**results, **figures}, ("", "live"))


def _null_table(many: MeteringRounds) -> Table:
    figures = {
        name: float(median(getattr(kept, name) for kept in many.kept))
        for name in ("postings", "steps", "keeper_s", "writer_cpu_s")
    }
    figures |= {"a_step": figures["postings"] / figures["steps"], "per_s": many.per_s}
    figures |= {"without": median(many.without_s), "with": median(many.with_s)}
    figures["per_s_by_wall_time"] = many.per_s_by_wall_time
    return facts("On an engine that takes no time", NULL_ROWS, figures, ("", "null"))
