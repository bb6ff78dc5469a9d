"""``stepwell bench shared-disk``: two processes on one directory, killed at random, again and again."""

from __future__ import annotations

import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from stepwell.bench.tiers.crash import directory_bytes, without_warnings
from stepwell.bench.tiers.shared_disk_child import (
    BLOCK_BYTES,
    LIMIT_BYTES,
    NUMBERS,
    content_of,
    key_of,
    open_store,
)
from stepwell.console.options import JsonOption, QuickOption
from stepwell.console.output import report_console, table
from stepwell.console.progress import Ticker, ticker
from stepwell.console.report import Report, Verdict
from stepwell.tiers.pages import Pages
from stepwell.tiers.record import Damaged

KILLS, QUICK_KILLS = 200, 8
LONGEST_LIFE_S = 0.4
ENGINES = 2


@dataclass(slots=True)
class DiskTally:
    counts: Counter[str] = field(default_factory=Counter)
    most_bytes: int = 0


def main(
    *,
    quick: QuickOption = False,
    json_file: JsonOption = None,
    kills: int | None = None,
    directory: Path | None = None,
    seed: int = 1,
) -> int:
    """Kill -9 and flipped bits under a disk store that two processes share: is a wrong byte ever served?

    Two processes write blocks whose bytes follow from their names, over a bound that is always full, and read
    each other's. One of them is killed at a random moment and another takes its place. After every kill the
    directory is measured, a record is damaged now and then, and everything is read back and compared.
    Example: stepwell bench shared-disk --kills 50

    Exit code 1 if a target is missed.

    Parameters
    ----------
    kills
        How many times (200; 8 with --quick).
    directory
        Where to do it (a new directory in there, removed afterwards); the default is the system's
        temporary directory.
    seed
        Of the damage. When the kill strikes is never the same twice.
    """
    count = kills if kills is not None else QUICK_KILLS if quick else KILLS
    place = Path(tempfile.mkdtemp(prefix="stepwell-shared-", dir=directory))
    tally, started = DiskTally(), time.perf_counter()
    try:
        with ticker() as progress, without_warnings():
            _run(place / "kv", count, random.Random(seed), tally, progress)
    finally:
        shutil.rmtree(place, ignore_errors=True)
    return _finish(count, seed, tally, time.perf_counter() - started, json_file)


def _run(place: Path, kills: int, dice: random.Random, tally: DiskTally, progress: Ticker) -> None:
    progress.phase(f"killing {kills} times", kills)
    children = [_child(place, n) for n in range(ENGINES)]
    try:
        for round_ in range(kills):
            time.sleep(dice.random() * LONGEST_LIFE_S)
            victim = children.pop(dice.randrange(ENGINES))
            victim.send_signal(signal.SIGKILL)
            _heard(victim, tally)
            tally.counts["kills"] += 1
            _measure(place, tally, children)
            children.append(_child(place, ENGINES + round_))
            if dice.random() < 0.2:
                _damage(place, dice, tally)
            _read_everything(place, tally)
            progress.advance()
    finally:
        for child in children:
            child.send_signal(signal.SIGKILL)
            _heard(child, tally)
    _measure(place, tally, [])
    store = open_store(place)
    try:
        store.check()
        tally.counts["left_by_the_dead"] += len(list(place.glob("alive-*"))) - 1
    finally:
        store.close()


def _child(place: Path, number: int) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "stepwell.bench.tiers.shared_disk_child", str(place), str(number)]
    child = subprocess.Popen(command, stdout=subprocess.PIPE)
    assert child.stdout is not None
    child.stdout.readline()  # it is at work
    return child


def _heard(child: subprocess.Popen[bytes], tally: DiskTally) -> None:
    """What a process said it had done, up to its last whole line."""
    assert child.stdout is not None
    with child.stdout:
        lines = child.stdout.read().splitlines()
    child.wait()
    for line in reversed(lines):
        with suppress(ValueError):
            written, read, wrong = map(int, line.split())
            tally.counts.update({"written": written, "read": read, "wrong_bytes_served": wrong})
            return


def _measure(place: Path, tally: DiskTally, living: Sequence[subprocess.Popen[bytes]]) -> None:
    """With everybody stopped: a file that is renamed between two looks would count twice, or not be found."""
    for child in living:
        child.send_signal(signal.SIGSTOP)
        os.waitid(os.P_PID, child.pid, os.WSTOPPED)
    used = directory_bytes(place)
    for child in living:
        child.send_signal(signal.SIGCONT)
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


def _finish(kills: int, seed: int, tally: DiskTally, seconds: float, json_file: Path | None) -> int:
    counts = tally.counts
    results = dict(counts) | {"limit_bytes": LIMIT_BYTES, "most_bytes": tally.most_bytes, "seconds": seconds}
    report = Report("shared-disk", {"kills": kills, "seed": seed, "engines": ENGINES}, results)
    none_of = {
        "wrong_bytes_served": "blocks served with wrong bytes",
        "bound_exceeded": "times over the bound",
        "left_by_the_dead": "dead processes that nobody has cleared away",
    }
    report.verdicts = [Verdict(text, counts[name], 0) for name, text in none_of.items()]
    report.verdicts.append(Verdict("kills", counts["kills"], kills, at_most=False))
    rows = [
        ("kills", f"{counts['kills']:,}"),
        ("blocks written / read by the processes", f"{counts['written']:,} / {counts['read']:,}"),
        ("blocks read back and compared", f"{counts['compared']:,}"),
        ("bits flipped / damage noticed", f"{counts['bit_flips']:,} / {counts['damage_noticed']:,}"),
        ("evicted between look and read", f"{counts['evicted_meanwhile']:,}"),
        ("wrong bytes served", f"{counts['wrong_bytes_served']:,}"),
        ("times over the bound", f"{counts['bound_exceeded']:,}"),
        ("most bytes on disk / bound", f"{tally.most_bytes:,} / {LIMIT_BYTES:,}"),
    ]
    console = report_console(json_file)
    console.print(table("Two processes on one disk store", ("what", "count"), rows))
    report.finish(console, json_file)
    return 1 if report.missed else 0
