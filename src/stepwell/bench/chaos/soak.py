"""``stepwell bench soak``: a server under load for hours. Does anything grow?"""

from __future__ import annotations

import random
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter
from cyclopts.validators import Number

from stepwell.basics.units import parse_size
from stepwell.bench.chaos import checks
from stepwell.bench.chaos.growth import WARM_UP_SHARE, ProcessSample, Slope, enough, look, slope
from stepwell.bench.chaos.load import Load, undisturbed
from stepwell.bench.chaos.tally import ChaosTally
from stepwell.bench.chaos.target import DISK_KV, ChaosTarget
from stepwell.bench.harness import BenchRun, DirectoryOption, SeedOption, bench, scratch
from stepwell.console.output import table
from stepwell.console.progress import Ticker
from stepwell.console.report import Report, Verdict
from stepwell.errors import StepwellError
from stepwell.ledger.pricing.bills import MAX_CORRECTABLE
from stepwell.ledger.stores.open import open_store
from stepwell.recording.decided_again import decided_again
from stepwell.recording.file import read_recording

MINUTES, QUICK_MINUTES = 120.0, 5.0
SAMPLES = 600
"""Looks in a run, however long it is; their distance is at least LOOK_S."""
FILLING_TURNS = MAX_CORRECTABLE
"""After so many turns every bounded memory of a server has been full at least once: the causes of 2,000
requests, agents, and the largest, charges that may still be corrected (some 15 MB)."""
LOOK_S = 0.25
SCRIPTS = 64
"""Different conversations: more KV than the disk may hold."""
Minutes = Annotated[float | None, Parameter(validator=Number(gte=0.1, lte=10_080))]

LIMITS: dict[str, tuple[str, float, str]] = {
    "memory_bytes": ("growth of memory, surely", 8 * 2**20, " bytes an hour"),
    "descriptors": ("growth of descriptors, surely", 6, " an hour"),
    "threads": ("growth of threads, surely", 3, " an hour"),
}
"""Per figure: what is said, how much an hour is still flat, unit."""


@dataclass(slots=True)
class Soaked:
    """What a run came to."""

    samples: list[ProcessSample] = field(default_factory=list)
    slopes: dict[str, Slope] = field(default_factory=dict)
    books_bytes: int = 0
    steps: int = 0
    same_decisions: bool = False


@bench("soak", fails=True)
def main(
    run: BenchRun, *, minutes: Minutes = None, seed: SeedOption = 1, directory: DirectoryOption = None
) -> None:
    """Serve without a pause: do memory, descriptors and threads stay, and the disk within its bound?

    A server on the null engine, whose time is skipped, with books, documents and crews, is asked by clients
    that know every answer; each conversation is a new session. Meanwhile its process is looked at. After a
    warm-up of a third of the time the slope of each figure is estimated (Theil-Sen, 95 % interval); a target
    is missed when even the lower bound of the interval is more than flat. At the end the books verify, and
    the recording of the whole run is decided again. Linux; takes scipy (the extra 'soak').

    Example: ``stepwell bench soak --minutes 30``

    Exit code 1 if a target is missed.

    Parameters
    ----------
    minutes
        How long (120; 5 with --quick).
    """
    import scipy.stats  # noqa: F401 - its absence is said before hours of measuring

    for_s = (minutes or (QUICK_MINUTES if run.quick else MINUTES)) * 60
    with scratch("soak", directory) as place:
        soaked, tally = _soak(place, seed, for_s, run.progress)
    run.settings = {"seed": seed, "seconds": for_s}
    _fill(run, soaked, tally)
    rows = []
    for name, found in soaked.slopes.items():
        first, last = (getattr(soaked.samples[at], name) for at in (0, -1))
        interval = f"{found.per_hour:+,.1f} ({found.low:+,.1f} to {found.high:+,.1f})"
        rows.append((name.replace("_", " "), f"{first:,}", f"{last:,}", interval))
    run.show(table("What the process held", ("", "first", "last", "slope per hour, 95 %"), rows))
    counts = Counter(run.results)
    run.show(
        f"{counts['answered']:,} turns answered, {counts['crews completed']:,} crews, "
        f"{counts['documents compared']:,} documents compared; "
        f"{soaked.steps:,} steps decided again; books of {soaked.books_bytes:,} bytes"
    )


def _soak(place: Path, seed: int, for_s: float, progress: Ticker) -> tuple[Soaked, ChaosTally]:
    home, soaked = place / "state", Soaked()
    home.mkdir()
    target = ChaosTarget(
        home, place, "null", str(home / "ledger.db"), record=place / "run.jsonl.gz", skips_time=True
    )
    tally = ChaosTally(target)
    try:
        if not target.start():
            raise StepwellError(f"the server did not start: {' '.join(target.unclear_starts)}")
        expected = undisturbed(target.base_url, "null", place, SCRIPTS)
        progress.phase(f"serving for {for_s / 60:.0f} minutes", SAMPLES)
        with Load(tally, expected, "null", seed, place, scripts=SCRIPTS, rest_s=0.0).running():
            _watch(target, soaked, for_s, random.Random(seed), progress)
        progress.phase("comparing the books, deciding again")
        target.terminate()
        _judge(target, tally, soaked)
    finally:
        target.close()
    return soaked, tally


def _watch(target: ChaosTarget, soaked: Soaked, for_s: float, dice: random.Random, progress: Ticker) -> None:
    """Look at the process at moments that no rhythm of its own can hide from."""
    began = time.monotonic()
    between_s = max(LOOK_S, for_s / SAMPLES)
    while (at_s := time.monotonic() - began) < for_s and target.process is not None:
        try:
            soaked.samples.append(look(target.process.pid, target.home / "kv", at_s))
        except (OSError, KeyError) as error:
            if target.process.poll() is not None:
                target.deaths.append(f"ended by itself: {error}")
                return
        progress.advance()
        time.sleep(between_s * dice.uniform(0.7, 1.3))


def _judge(target: ChaosTarget, tally: ChaosTally, soaked: Soaked) -> None:
    tally.judge()
    soaked.books_bytes = Path(target.ledger).stat().st_size
    store = open_store(target.ledger, create=False)
    try:
        checks.books(store, tally)
    finally:
        store.close()
    checks.server(target, tally)
    if enough(soaked.samples):
        soaked.slopes = {name: slope(soaked.samples, name) for name in LIMITS}
    assert target.record is not None
    again = decided_again(*read_recording(target.record))
    soaked.steps, soaked.same_decisions = again.log.plans, again.differs_at is None


def _fill(report: Report, soaked: Soaked, tally: ChaosTally) -> None:
    most_bytes = max(one.disk_bytes for one in soaked.samples)
    last = soaked.samples[-1]
    report.results = dict(sorted(tally.counts.items())) | {
        "memory_bytes_at_the_end": last.memory_bytes,
        "descriptors_at_the_end": last.descriptors,
        "threads_at_the_end": last.threads,
        "kv_disk_bytes_most": most_bytes,
        "books_bytes": soaked.books_bytes,
        "steps_decided_again": soaked.steps,
        "slopes_per_hour": {name: [s.per_hour, s.low, s.high] for name, s in soaked.slopes.items()},
    }
    wrong = sum(count for name, count in tally.counts.items() if name.startswith("wrong: "))
    warm_up = tally.counts["answered"] * WARM_UP_SHARE
    filled, bound = warm_up >= FILLING_TURNS, parse_size(DISK_KV["null"])
    report.verdicts = [
        Verdict(text, _judged(soaked, name, filled=filled), limit, unit)
        for name, (text, limit, unit) in LIMITS.items()
    ]
    report.verdicts += [
        Verdict("KV on disk at most", most_bytes, bound, " bytes"),
        Verdict("KV on disk is used", most_bytes, bound / 2, " bytes", at_most=False),
        Verdict("recordings that are decided differently", int(not soaked.same_decisions), 0),
        Verdict("things that should not have happened (as bench chaos counts them)", wrong, 0),
    ]
    report.notes = tally.unexplained[:20]
    if not filled:
        report.notes.append(
            f"memory is not judged: what a server remembers of its last turns is full after "
            f"{FILLING_TURNS:,} of them, and the warm-up had {warm_up:,.0f}"
        )
    report.samples = [one._asdict() for one in soaked.samples]


def _judged(soaked: Soaked, name: str, *, filled: bool) -> float | None:
    """The lower bound of a slope; None where a run is too short to say."""
    if name not in soaked.slopes or (name == "memory_bytes" and not filled):
        return None
    return soaked.slopes[name].low
