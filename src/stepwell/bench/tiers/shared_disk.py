"""``stepwell bench shared-disk``: two processes on one directory, killed at random, again and again."""

from __future__ import annotations

import os
import random
import signal
import time
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.bench.child import Child
from stepwell.bench.harness import BenchRun, DirectoryOption, SeedOption, bench, none_of, scratch
from stepwell.bench.tiers.crash import directory_bytes, without_warnings
from stepwell.bench.tiers.shared_disk_child import (
    BLOCK_BYTES,
    LIMIT_BYTES,
    NUMBERS,
    content_of,
    key_of,
    open_store,
)
from stepwell.console.output import facts
from stepwell.console.progress import Ticker
from stepwell.console.report import Verdict
from stepwell.tiers.pages import Pages
from stepwell.tiers.record import Damaged

KILLS, QUICK_KILLS = 200, 8
LONGEST_LIFE_S = 0.4
ENGINES = 2
NONE_OF = {
    "wrong_bytes_served": "blocks served with wrong bytes",
    "bound_exceeded": "times over the bound",
    "left_by_the_dead": "dead processes that were not cleared away",
}
ROWS = {
    "kills": "{kills:,}",
    "blocks written / read by the processes": "{written:,} / {read:,}",
    "blocks read back and compared": "{compared:,}",
    "bits flipped / damage noticed": "{bit_flips:,} / {damage_noticed:,}",
    "evicted between look and read": "{evicted_meanwhile:,}",
    "wrong bytes served": "{wrong_bytes_served:,}",
    "times over the bound": "{bound_exceeded:,}",
    "most bytes on disk": "{most_bytes:,}",
}


@dataclass(slots=True)
class DiskTally:
    counts: Counter[str] = field(default_factory=Counter)
    most_bytes: int = 0


@bench("shared-disk", fails=True)
def main(
    run: BenchRun, *, kills: int | None = None, directory: DirectoryOption = None, seed: SeedOption = 1
) -> None:
    """Kill -9 and flipped bits under a disk store that two processes share: is a wrong byte ever served?

    Two processes write blocks whose bytes follow from their names, over a bound that is always full, and read
    each other's. One of them is killed at a random moment and another takes its place. After every kill the
    directory is measured, a record is damaged now and then, and everything is read back and compared.

    Example: ``stepwell bench shared-disk --kills 50``

    Exit code 1 if a target is missed.

    Parameters
    ----------
    kills
        How many times (200; 8 with --quick).
    """
    count = kills if kills is not None else QUICK_KILLS if run.quick else KILLS
    tally, started = DiskTally(), time.perf_counter()
    with scratch("shared", directory) as place, without_warnings():
        _run(place / "kv", count, random.Random(seed), tally, run.progress)
    counts, seconds = tally.counts, time.perf_counter() - started
    run.settings = {"kills": count, "seed": seed, "engines": ENGINES}
    run.results = dict(counts) | {
        "limit_bytes": LIMIT_BYTES, "most_bytes": tally.most_bytes, "seconds": seconds,
    }  # fmt: skip
    run.verdicts = none_of(counts, NONE_OF)
    run.verdicts.append(Verdict("kills", counts["kills"], count, at_most=False))
    run.show(facts("Two processes on one disk store", ROWS, Counter(run.results), ("what", "count")))


def _run(place: Path, kills: int, dice: random.Random, tally: DiskTally, progress: Ticker) -> None:
    progress.phase(f"killing {kills} times", kills)
    children = [_child(place, n) for n in range(ENGINES)]
    try:
        for round_ in range(kills):
            time.sleep(dice.random() * LONGEST_LIFE_S)
            _heard(children.pop(dice.randrange(ENGINES)), tally)
            tally.counts["kills"] += 1
            _measure(place, tally, children)
            children.append(_child(place, ENGINES + round_))
            if dice.random() < 0.2:
                _damage(place, dice, tally)
            _read_everything(place, tally)
            progress.advance()
    finally:
        for child in children:
            _heard(child, tally)
    _measure(place, tally, [])
    store = open_store(place)
    try:
        store.check()
        tally.counts["left_by_the_dead"] += len(list(place.glob("alive-*"))) - 1
    finally:
        store.close()


def _child(place: Path, number: int) -> Child:
    child = Child("stepwell.bench.tiers.shared_disk_child", place, number)
    child.expect("at work")
    return child


def _heard(child: Child, tally: DiskTally) -> None:
    """Kill it. What it said that it had done, up to its last whole line."""
    with child:
        child.kill()
        last = deque(child.lines(), maxlen=1)
    if last:
        written, read, wrong = map(int, last[0].split())
        tally.counts.update({"written": written, "read": read, "wrong_bytes_served": wrong})


def _measure(place: Path, tally: DiskTally, living: Sequence[Child]) -> None:
    """With all processes stopped: a file renamed between two looks would count twice, or not be found."""
    for child in living:
        child.signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    used = directory_bytes(place)
    for child in living:
        child.signal(signal.SIGCONT)
    tally.most_bytes = max(tally.most_bytes, used)
    tally.counts["bound_exceeded"] += used > LIMIT_BYTES


def _damage(place: Path, dice: random.Random, tally: DiskTally) -> None:
    """One bit of one record, which may be evicted meanwhile."""
    records = sorted(place.glob("v1-*/*.kv"))
    with suppress(OSError, IndexError):
        path = dice.choice(records)
        with path.open("r+b") as file:
            at = dice.randrange(4096 + BLOCK_BYTES)
            file.seek(at)
            byte = file.read(1)[0]
            file.seek(at)
            file.write(bytes([byte ^ 1 << dice.randrange(8)]))
        tally.counts["bit_flips"] += 1


def _read_everything(place: Path, tally: DiskTally) -> None:
    store = open_store(place)
    try:
        there = store.changes().present
        for number in range(NUMBERS):
            record = there.get(key_of(number))
            if record is None:
                continue
            pages = Pages(BLOCK_BYTES)
            try:
                store.read(record, pages)
            except Damaged:
                tally.counts["damage_noticed"] += 1
            except FileNotFoundError:
                tally.counts["evicted_meanwhile"] += 1
            else:
                tally.counts["compared"] += 1
                tally.counts["wrong_bytes_served"] += bytes(pages.payload) != content_of(number)
    finally:
        store.close()
