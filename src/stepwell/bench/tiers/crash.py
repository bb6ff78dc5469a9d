"""``stepwell bench crash``: kill the disk store at random moments, damage it, and read everything back."""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections import Counter, deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.basics.quantiles import percentile
from stepwell.bench.child import Child
from stepwell.bench.harness import BenchRun, DirectoryOption, SeedOption, bench, none_of, scratch
from stepwell.bench.tiers.crash_child import BLOCK_BYTES, block, content
from stepwell.console.output import facts
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.policy.types import KvTier
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


@bench("crash", fails=True)
def main(
    run: BenchRun, *, kills: int | None = None, directory: DirectoryOption = None, seed: SeedOption = 1
) -> None:
    """Kill -9, flipped bits, truncated files, full disks: is a wrong byte ever served?

    A child process loads the real host pool, disk store and transfer threads with blocks whose bytes
    follow from their names, and is killed at a random moment, again and again. In between, records are
    damaged, writes fail, models change and the bound is kept full. After every kill everything that is
    offered is read back and compared. The target is none: no wrong byte, bound never passed, lock never
    in the way, no block lost without damage.

    Example: ``stepwell bench crash --kills 50``

    Exit code 1 if a target is missed.

    Parameters
    ----------
    kills
        How many times (200; 10 with --quick).
    """
    count = kills if kills is not None else QUICK_KILLS if run.quick else KILLS
    tally, started = CrashTally(), time.perf_counter()
    with scratch("crash", directory) as place, without_warnings():
        setup = CrashSetup(place / "kv", count, seed)
        _run(setup, tally, run.progress)
    run.settings = {"kills": count, "seed": seed, "quick": run.quick, "block_bytes": BLOCK_BYTES}
    run.results = dict(tally.counts) | {
        "recovery_ms_mean": sum(tally.recovery_ms) / max(1, len(tally.recovery_ms)),
        "recovery_ms_p95": percentile(tally.recovery_ms, 95) if tally.recovery_ms else None,
        "limit_bytes": setup.limit_bytes,
        "most_bytes": tally.most_bytes,
        "seconds": time.perf_counter() - started,
    }
    run.samples = [
        {"recovery_ms": took, "records": records}
        for took, records in zip(tally.recovery_ms, tally.recovered, strict=True)
    ]
    run.verdicts = none_of(tally.counts, NONE_OF)
    if not run.quick:
        run.verdicts.append(Verdict("kills", tally.counts["kills"], KILLS, at_most=False))
    shown = Counter(run.results)
    shown["wrong"] = shown["wrong_bytes_served"] + shown["child_wrong"]
    run.show(facts("Crashes of the disk store", ROWS, shown, ("what", "count")))


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
    words = (setup.directory, setup.limit_bytes, setup.numbers, model, f"{setup.seed}-{round_}", fickle)
    with Child("stepwell.bench.tiers.crash_child", *words) as child:
        if round_ % 10 == 1:  # killed while it starts and puts its house in order
            time.sleep(dice.uniform(0.03, 0.3))
        else:
            child.expect("ready")
            if round_ % 10 == 0:
                tally.counts["second_server_let_in"] += not _second_is_refused(setup, model)
            # Most live long enough to do work, some are killed in their first milliseconds.
            _wait_until_moved(child, int(dice.random() ** 2 * setup.longest_life_blocks))
            time.sleep(dice.random() * _SHORT_S)
        child.kill()
        last = deque(child.json_lines(), maxlen=1)
    tally.counts["kills"] += 1
    for name, value in (last[0] if last else {}).items():
        tally.counts[f"child_{name}"] += value if name != "ready" else 0


def _wait_until_moved(child: Child, blocks: int) -> None:
    """Until the child has written or read so many: by its work, as a busy machine gives it little time."""
    moved = 0
    while moved < blocks:
        counts = json.loads(child.line())
        moved = sum(counts.get(name, 0) for name in ("written", "failed_writes", "read", "failed_reads"))


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
ROWS = {
    "kills": "{kills:,}",
    "blocks written / read / dropped by the killed processes": (
        "{child_written:,} / {child_read:,} / {child_dropped:,}"
    ),
    "writes that failed there (disk full, errors, parts)": "{child_failed_writes:,}",
    "bit flips / truncations / zeroed pages / mixed-up files": (
        "{bit_flips:,} / {truncations:,} / {zeroed_pages:,} / {mixed_up_files:,}"
    ),
    "records offered after the kills": "{records_recovered:,}",
    "blocks read back and compared": "{blocks_compared:,}",
    "damage noticed at start / at reading": "{misses_at_start:,} / {misses_at_read:,}",
    "half-written files removed": "{leftovers_removed:,}",
    "wrong bytes served": "{wrong:,}",
    "times over the bound": "{bound_exceeded:,}",
    "most bytes on disk / bound": "{most_bytes:,} / {limit_bytes:,}",
    "recovery, mean / p95": "{recovery_ms_mean:.1f} / {recovery_ms_p95:.1f} ms",
}
