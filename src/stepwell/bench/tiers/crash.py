"""``stepwell bench crash``: kill the disk store at random moments, damage it, and read everything back."""

from __future__ import annotations

import json
import logging
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from stepwell.bench.tiers.crash_child import BLOCK_BYTES, block, content
from stepwell.console.options import JsonOption, QuickOption
from stepwell.console.output import report_console, table
from stepwell.console.progress import Ticker, ticker
from stepwell.console.report import Report, Verdict
from stepwell.errors import StepwellError
from stepwell.policy.types import KvTier
from stepwell.quantiles import percentile
from stepwell.tiers.directory import DiskBusy
from stepwell.tiers.local import LocalTiers, TransferLimits
from stepwell.tiers.store import DiskStore

KILLS, QUICK_KILLS = 200, 10
MODELS = ("model-a", "model-b")
_PAGE = 4096
_SHORT_S = 0.02
"""By so much a kill is moved, so that it strikes anywhere in a write."""


@dataclass(frozen=True, slots=True)
class CrashSetup:
    """What is fixed for a whole run."""

    directory: Path
    kills: int
    seed: int
    limit_bytes: int = 40 * BLOCK_BYTES
    numbers: int = 70
    """Different blocks: more than the disk holds, so its bound is always in play."""
    longest_life_blocks: int = 400
    harmed_share: float = 0.4
    """Of the kills after which records are damaged as well."""


@dataclass(slots=True)
class CrashTally:
    """What was done to the store, and what came of it."""

    counts: Counter[str] = field(default_factory=Counter)
    recovery_ms: list[float] = field(default_factory=list)
    recovered: list[int] = field(default_factory=list)
    most_bytes: int = 0


def main(
    *,
    quick: QuickOption = False,
    json_file: JsonOption = None,
    kills: int | None = None,
    directory: Path | None = None,
    seed: int = 1,
) -> int:
    """Kill -9, flipped bits, truncated files, full disks: is a wrong byte ever served?

    A child process loads the real host pool, disk store and transfer threads with blocks whose bytes
    follow from their names, and is killed at a random moment, again and again. In between, records are
    damaged, writes fail, models change and the bound is kept full. After every kill everything that is
    offered is read back and compared. The target is none: no wrong byte, bound never passed, lock never
    in the way, no block lost without damage.
    Example: stepwell bench crash --kills 50

    Exit code 1 if a target is missed.

    Parameters
    ----------
    kills
        How many times (200; 10 with --quick).
    directory
        Where to do it (a new directory in there, removed afterwards); the default is the system's
        temporary directory. Name a directory on the disk that matters.
    seed
        Of the damage and of the load. When the kill strikes is never the same twice.
    """
    count = kills if kills is not None else QUICK_KILLS if quick else KILLS
    place = Path(tempfile.mkdtemp(prefix="stepwell-crash-", dir=directory))
    setup, tally = CrashSetup(place / "kv", count, seed), CrashTally()
    started = time.perf_counter()
    try:
        with ticker() as progress, without_warnings():
            _run(setup, tally, progress)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return _finish(_report(setup, tally, time.perf_counter() - started, quick), tally, json_file)


@contextmanager
def without_warnings() -> Iterator[None]:
    """What the store says about damaged records is what this benchmark counts."""
    logger = logging.getLogger("stepwell.tiers")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def _run(setup: CrashSetup, tally: CrashTally, progress: Ticker) -> None:
    progress.phase(f"killing {setup.kills} times", setup.kills)
    dice = random.Random(setup.seed)
    for round_ in range(setup.kills):
        model = MODELS[dice.random() < 0.15]
        _live_and_die(setup, tally, dice, round_, model)
        _check_bound(setup, tally)
        harmed = _do_harm(setup, tally, dice) if dice.random() < setup.harmed_share else 0
        for number, fingerprint in enumerate((model, *(other for other in MODELS if other != model))):
            _read_everything_back(setup, tally, fingerprint, harmed, timed=number == 0)
        _check_bound(setup, tally)
        progress.advance()


# --- one life -----------------------------------------------------------------------------------


def _live_and_die(setup: CrashSetup, tally: CrashTally, dice: random.Random, round_: int, model: str) -> None:
    fickle = dice.choice((0.0, 0.0, 0.0, 0.03))
    arguments = (setup.directory, setup.limit_bytes, setup.numbers, model, f"{setup.seed}-{round_}", fickle)
    command = [sys.executable, "-m", "stepwell.bench.tiers.crash_child", *map(str, arguments)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        if round_ % 10 == 1:  # killed while it starts and puts its house in order
            time.sleep(dice.uniform(0.03, 0.3))
        else:
            _wait_until_ready(child)
            if round_ % 10 == 0:
                tally.counts["second_server_let_in"] += not _second_is_refused(setup, model)
            # Most live long enough to do work, some are killed in their first milliseconds.
            _wait_until_moved(child, int(dice.random() ** 2 * setup.longest_life_blocks))
            time.sleep(dice.random() * _SHORT_S)
        child.send_signal(signal.SIGKILL)
        lines = child.stdout.read().splitlines()
    tally.counts["kills"] += 1
    for name, value in _last_counts(lines).items():
        if name == "ready":
            continue
        tally.counts[f"child_{name}"] += value


def _wait_until_ready(child: subprocess.Popen[bytes]) -> None:
    assert child.stdout is not None
    if b"ready" not in child.stdout.readline():
        child.kill()
        raise StepwellError("the child process of the crash benchmark did not start")


def _wait_until_moved(child: subprocess.Popen[bytes], blocks: int) -> None:
    """Until the child has written or read so many: by its work, as a busy machine gives it little time."""
    assert child.stdout is not None
    moved = 0
    while moved < blocks and (line := child.stdout.readline()):
        counts = json.loads(line)
        moved = sum(counts.get(name, 0) for name in ("written", "failed_writes", "read", "failed_reads"))


def _last_counts(lines: Sequence[bytes]) -> dict[str, int]:
    """The child's last whole line; the kill may have cut the one after it."""
    for line in reversed(lines):
        try:
            counts: dict[str, int] = json.loads(line)
        except ValueError:
            continue
        return counts
    return {}


def _second_is_refused(setup: CrashSetup, model: str) -> bool:
    try:
        DiskStore(setup.directory, setup.limit_bytes, model).close()
    except DiskBusy:
        return True
    return False


# --- harm ---------------------------------------------------------------------------------------


def _do_harm(setup: CrashSetup, tally: CrashTally, dice: random.Random) -> int:
    """Damage up to three records; returns how many files were touched."""
    records = sorted(setup.directory.glob("v*/*.kv"))
    victims = dice.sample(records, min(len(records), dice.randint(1, 3)))
    for path in victims:
        kind = dice.choice(("bit_flips", "truncations", "zeroed_pages", "mixed_up_files"))
        tally.counts[kind] += 1
        data = bytearray(path.read_bytes())
        if kind == "bit_flips":
            data[dice.randrange(len(data))] ^= 1 << dice.randrange(8)
        elif kind == "truncations":
            del data[dice.randrange(len(data)) :]
        elif kind == "zeroed_pages":
            page = dice.randrange(-(-len(data) // _PAGE)) * _PAGE
            data[page : page + _PAGE] = bytes(len(data[page : page + _PAGE]))
        else:  # what a lost renaming after a power cut looks like
            data = bytearray(dice.choice(records).read_bytes())
        path.write_bytes(data)
    return len(victims)


# --- checking -----------------------------------------------------------------------------------


def _read_everything_back(
    setup: CrashSetup, tally: CrashTally, model: str, harmed: int, *, timed: bool
) -> None:
    started = time.perf_counter()
    try:
        store = DiskStore(setup.directory, setup.limit_bytes, model)
    except DiskBusy:
        tally.counts["lock_in_the_way"] += 1
        return
    took_ms = (time.perf_counter() - started) * 1e3
    tiers = LocalTiers(setup.numbers * BLOCK_BYTES, store, limits=TransferLimits(read_deadline_s=60.0))
    try:
        blocks = list(tiers.recovered())
        if timed:
            tally.recovery_ms.append(took_ms)
            tally.recovered.append(len(blocks))
        found = store.found
        tally.counts["leftovers_removed"] += found.leftovers
        at_start = found.damaged + found.torn
        missed = _compare(tiers, tally)
        tally.counts["records_recovered"] += len(blocks)
        tally.counts["misses_at_start"] += at_start
        tally.counts["misses_at_read"] += missed
        if not harmed:
            tally.counts["lost_without_damage"] += missed + at_start
    finally:
        tiers.close()


def _compare(tiers: LocalTiers, tally: CrashTally) -> int:
    """Read every block that is offered; returns how many were misses."""
    known = {meta.id: meta for meta in map(block, range(1_000))}
    blocks = list(tiers.recovered())
    for meta in blocks:
        tiers.start(meta, KvTier.DISK, KvTier.HOST)
    ended, missed = 0, 0
    while ended < len(blocks):
        for moved in tiers.poll():
            ended += 1
            missed += not moved.ok
            if moved.ok:
                expected = content(known[moved.block]) if moved.block in known else None
                tally.counts["wrong_bytes_served"] += tiers.get_host(moved.block) != expected
                tally.counts["blocks_compared"] += 1
        time.sleep(0.0002)
    return missed


def _check_bound(setup: CrashSetup, tally: CrashTally) -> None:
    used = directory_bytes(setup.directory)
    tally.most_bytes = max(tally.most_bytes, used)
    tally.counts["bound_exceeded"] += used > setup.limit_bytes


def directory_bytes(path: Path) -> int:
    """What a directory takes: files in whole pages and the directories themselves, as ``stat`` says.

    It may be in use: what is removed meanwhile takes nothing.
    """
    total = _size(path)
    for place, directories, files in os.walk(path):
        total += sum(_size(Path(place) / name) for name in directories)
        total += sum(-(-_size(Path(place) / name) // _PAGE) * _PAGE for name in files)
    return total


def _size(path: Path) -> int:
    try:
        return path.lstat().st_size
    except FileNotFoundError:
        return 0


# --- report -------------------------------------------------------------------------------------

NONE_OF = {
    "wrong_bytes_served": "blocks served with wrong bytes",
    "child_wrong": "blocks served with wrong bytes while under load",
    "bound_exceeded": "times over the bound",
    "lost_without_damage": "whole records lost though nothing damaged them",
    "lock_in_the_way": "times a dead process's lock was in the way",
    "second_server_let_in": "times a second process was let in",
}


def _report(setup: CrashSetup, tally: CrashTally, seconds: float, quick: bool) -> Report:
    counts = tally.counts
    results: dict[str, Any] = dict(counts) | {
        "recovery_ms_mean": sum(tally.recovery_ms) / max(1, len(tally.recovery_ms)),
        "recovery_ms_p95": percentile(tally.recovery_ms, 95) if tally.recovery_ms else None,
        "limit_bytes": setup.limit_bytes,
        "most_bytes": tally.most_bytes,
        "seconds": seconds,
    }
    settings = {"kills": setup.kills, "seed": setup.seed, "quick": quick, "block_bytes": BLOCK_BYTES}
    report = Report("crash", settings, results)
    report.samples = [
        {"recovery_ms": took, "records": records}
        for took, records in zip(tally.recovery_ms, tally.recovered, strict=True)
    ]
    report.verdicts = [Verdict(text, counts[name], 0) for name, text in NONE_OF.items()]
    if not quick:
        report.verdicts.append(Verdict("kills", counts["kills"], KILLS, at_most=False))
    return report


def _finish(report: Report, tally: CrashTally, json_file: Path | None) -> int:
    console = report_console(json_file)
    counts, results = tally.counts, report.results
    rows = [
        ("kills", f"{counts['kills']:,}"),
        ("blocks written / read / dropped by the killed processes", _three(counts)),
        ("writes that failed there (disk full, errors, parts)", f"{counts['child_failed_writes']:,}"),
        ("bit flips / truncations / zeroed pages / mixed-up files", _harm(counts)),
        ("records offered after the kills", f"{counts['records_recovered']:,}"),
        ("blocks read back and compared", f"{counts['blocks_compared']:,}"),
        ("damage noticed at start / at reading", _two(counts, "misses_at_start", "misses_at_read")),
        ("half-written files removed", f"{counts['leftovers_removed']:,}"),
        ("wrong bytes served", f"{counts['wrong_bytes_served'] + counts['child_wrong']:,}"),
        ("times over the bound", f"{counts['bound_exceeded']:,}"),
        ("most bytes on disk / bound", f"{results['most_bytes']:,} / {results['limit_bytes']:,}"),
        (
            "recovery, mean / p95",
            f"{results['recovery_ms_mean']:.1f} / {results['recovery_ms_p95'] or 0:.1f} ms",
        ),
    ]
    console.print(table("Crashes of the disk store", ("what", "count"), rows))
    report.finish(console, json_file)
    return 1 if report.missed else 0


def _two(counts: Counter[str], first: str, second: str) -> str:
    return f"{counts[first]:,} / {counts[second]:,}"


def _three(counts: Counter[str]) -> str:
    return f"{_two(counts, 'child_written', 'child_read')} / {counts['child_dropped']:,}"


def _harm(counts: Counter[str]) -> str:
    pairs = _two(counts, "bit_flips", "truncations"), _two(counts, "zeroed_pages", "mixed_up_files")
    return " / ".join(pairs)
