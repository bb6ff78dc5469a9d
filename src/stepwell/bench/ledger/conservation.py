"""``stepwell bench conservation``: do the books come to what the machine gave?

A server lives under a mixed load, is killed at work, and lives on with the same books and a warm disk. What
the machine gave is counted outside the meter: room is capacity times the time that the process lived,
compute is that time, and bytes are counted at the doors of the engine and of the KV tiers. Then every posting
is added up, and once more made from the recordings.
"""

from __future__ import annotations

import json
import random
import signal
import threading
from collections import Counter, deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

from rich.table import Table

from stepwell.bench.child import Child
from stepwell.bench.harness import BenchRun, RealModelOption, bench, scratch
from stepwell.bench.ledger.conservation_child import DRAIN_S, Life
from stepwell.console.output import table
from stepwell.console.progress import Ticker
from stepwell.console.report import Report, Verdict
from stepwell.errors import BadInput
from stepwell.ledger.reading.queries import Accounts, moves
from stepwell.ledger.reading.verify import Verified, verify
from stepwell.ledger.stores.open import open_store
from stepwell.ledger.types import MACHINE_RESOURCES, Kind, Resource
from stepwell.recording.replayed import replay_of

LIMIT_PERCENT = 0.1
MINUTES = {"null": 60.0, "llamacpp": 10.0}
QUICK_MINUTES = {"null": 5.0, "llamacpp": 1.5}
ROOM = (Resource.DEVICE, Resource.HOST, Resource.DISK)
SHOWN = {
    Resource.COMPUTE: ("compute", 1e6, "s"),
    Resource.DEVICE: ("device KV", 1e6 * 2**20, "MiB s"),
    Resource.HOST: ("host KV", 1e6 * 2**20, "MiB s"),
    Resource.DISK: ("disk KV", 1e6 * 2**20, "MiB s"),
    Resource.STORED: ("device to host", 2**20, "MiB"),
    Resource.LOADED: ("host to device", 2**20, "MiB"),
    Resource.WRITTEN: ("host to disk", 2**20, "MiB"),
    Resource.READ: ("disk to host", 2**20, "MiB"),
    Resource.EMBEDDING: ("embeddings", 1e6, "s"),
}
"""How a resource is shown: name, divisor, unit."""
MOST_STEPS = 100
START_S = 120.0
"""Longest that a process may take to load its model."""
TAKERS = (Kind.AGENT, Kind.IDLE, Kind.OVERHEAD, Kind.UNATTRIBUTED)


@dataclass(slots=True)
class Lived:
    """What one process said before it ended."""

    life: Life
    killed: bool = False
    ready: dict[str, Any] = field(default_factory=dict)
    last: dict[str, Any] = field(default_factory=dict)
    counters: dict[str, int] = field(default_factory=dict)
    steps: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=MOST_STEPS))
    """The last ones that began: when, and what had moved until then."""

    def take(self, said: dict[str, Any]) -> None:
        """One line of its output."""
        match said["kind"]:
            case "ready":
                self.ready = said
            case "counters":
                self.counters = said["counters"]
            case "step":
                self.steps.append(said)
            case _:
                self.last = said

    @property
    def last_s(self) -> float:
        """Since its beginning, by its own clock."""
        return float(self.last["now_us"] - self.last["begun_us"]) / 1e6

    def lost_steps(self, last_now_us: int) -> int:
        """Steps that had begun when it was killed, after the last one that its books know."""
        return sum(step["step_us"] > self._end(last_now_us)[0] for step in self.steps) if self.killed else 0

    def lived_us(self, last_now_us: int) -> int:
        """A life that was killed ends with the last step that is in its books."""
        return int(self._end(last_now_us)[0] - self.last["begun_us"])

    def given(self, last_now_us: int) -> dict[Resource, int]:
        """What the machine gave in that time."""
        lived_us, moved = self.lived_us(last_now_us), self._end(last_now_us)[1]
        rooms = zip(ROOM, self.ready["capacity"], strict=True)
        found = {Resource.COMPUTE: lived_us} | {room: size * lived_us for room, size in rooms}
        return {resource: found.get(resource, moved.get(resource.value, 0)) for resource in MACHINE_RESOURCES}

    def _end(self, last_now_us: int) -> tuple[int, dict[str, int]]:
        """When, by its own clock, and what had moved until then."""
        if not self.killed:
            return self.last["now_us"], self.last["moved"]
        step = next((step for step in self.steps if step["step_us"] >= last_now_us), self.steps[-1])
        return step["step_us"], step["moved"]


@dataclass(frozen=True, slots=True)
class ConservationLine:
    """One resource: what was given, and where the books say that it went."""

    resource: Resource
    given: int
    posted: dict[Kind, int]

    @property
    def sum(self) -> int:
        return sum(self.posted.values())

    @property
    def off_percent(self) -> float:
        """0 where nothing was given and nothing is posted."""
        if not self.given:
            return 100.0 if self.sum else 0.0
        return abs(self.sum - self.given) / self.given * 100


@bench("conservation", fails=True)
def main(
    run: BenchRun,
    *,
    engine: Literal["null", "llamacpp"] = "null",
    minutes: float | None = None,
    model: RealModelOption = "smollm2",
    seed: int = 1,
    keep: Path | None = None,
) -> None:
    """Run a mixed load, kill the server, go on, and compare its books with what the machine gave.

    Three customers under three service tiers: sessions with children, shared prefixes, waits for tools and
    people, hints, bursts, cancelled answers, second choices, failed steps, a budget that is spent and topped
    up. In the middle the process is killed with SIGKILL at work; the next one recovers the books and finds
    the disk warm. On the null engine an hour passes in a minute or two; on a real model in its own time.

    Example: ``stepwell bench conservation --engine llamacpp --minutes 10``

    Exit code 1: a sum is off by more than 0.1 %, 'ledger verify' finds anything, or something of all that
    did not happen, so that the run proves nothing.

    Parameters
    ----------
    engine
        ``null`` (simulated time) or ``llamacpp`` (a real model, live).
    minutes
        How long, both lives together (60 on null, 10 live; 5 and 1.5 with --quick).
    seed
        Seed of the load, of the failures and of the kill.
    keep
        Leave books and recordings here (a new directory), to be looked at.
    """
    wanted = minutes if minutes is not None else (QUICK_MINUTES if run.quick else MINUTES)[engine]
    if not 1 <= wanted <= 24 * 60:
        raise BadInput("--minutes must be between 1 and 1440")
    run.settings = {"engine": engine, "minutes": wanted, "seed": seed, "quick": run.quick}
    run.settings |= {"model": model} if engine != "null" else {}
    with scratch("conservation") if keep is None else _kept(keep) as directory:
        first, second = _plan(directory, engine, model, seed, wanted * 60)
        lives = [live(first, run.progress), live(second, run.progress)]
        run.progress.phase("adding up the books, and making them again from the recordings")
        found = audit(lives)
    _fill(run, lives, found)
    seen_rows = [(name, f"{count:,}") for name, count in seen(lives).items()]
    run.show(_table(found.lines), table("What happened in the run", ("event", "count"), seen_rows))


@contextmanager
def _kept(keep: Path) -> Iterator[Path]:
    if keep.exists():
        raise BadInput(f"--keep {keep} exists: give the name of a new directory")
    keep.mkdir(parents=True)
    yield keep


def _plan(directory: Path, engine: str, model: str, seed: int, seconds: float) -> tuple[Life, Life]:
    """Two lives; the first is killed somewhere around the middle."""
    kill_at_s = seconds * random.Random(seed).uniform(0.4, 0.6)
    place = str(directory.absolute())
    first = Life(place, 1, engine, model, seed, seconds, kill_at_s)
    return first, Life(place, 2, engine, model, seed + 1, seconds - kill_at_s)


# --- one life -----------------------------------------------------------------------------------


def live(life: Life, progress: Ticker) -> Lived:
    """Run a process to its end, or kill it when it is time. ``StepwellError`` when it fails."""
    what = "until it is killed" if life.kill_at_s is not None else "to its end"
    seconds = life.seconds if life.kill_at_s is None else life.kill_at_s
    progress.phase(f"life {life.number}: {seconds:,.0f} {'simulated ' * life.simulated}seconds, {what}")
    lived = Lived(life)
    with Child("stepwell.bench.ledger.conservation_child", json.dumps(asdict(life))) as child:
        too_late = threading.Timer(START_S + 2 * life.seconds + DRAIN_S, child.kill)
        too_late.start()
        try:
            _follow(child, lived)
        finally:
            too_late.cancel()
        lived.killed = child.wait() == -signal.SIGKILL and lived.last.get("kind") != "ended"
        if not lived.last or lived.killed != (life.kill_at_s is not None):
            raise child.failure(f"ended otherwise than planned (life {life.number})")
    return lived


def _follow(child: Child, lived: Lived) -> None:
    """Read what it says; a life in real time is killed from here, in the middle of its work."""
    kill_at_s = None if lived.life.simulated else lived.life.kill_at_s
    steps_before = 0
    for said in child.json_lines():
        lived.take(said)
        if not lived.last:
            continue
        works = lived.last["running"] and lived.last["steps"] > steps_before
        steps_before = lived.last["steps"]
        if kill_at_s is not None and works and lived.last_s >= kill_at_s:
            child.signal(signal.SIGKILL)
            kill_at_s = None


# --- the audit ----------------------------------------------------------------------------------


@dataclass(slots=True)
class Audit:
    """What was found in the books."""

    lines: list[ConservationLine]
    verified: Verified
    lived_us: list[int]
    lost_steps: int


def audit(lives: Sequence[Lived]) -> Audit:
    """Every resource against what was given, and everything that ``stepwell ledger verify`` looks at."""
    store = open_store(str(lives[0].life.ledger), create=False)
    try:
        known = Accounts(store)
        posted: dict[Resource, Counter[Kind]] = {resource: Counter() for resource in MACHINE_RESOURCES}
        for move in moves(store, "1 = 1", []):
            resource = Resource(move.resource)
            if resource in posted:
                posted[resource][known[move.credit].kind] += move.amount
                posted[resource][known[move.debit].kind] -= move.amount
        until_us = dict(store.rows("SELECT id, last_now_us FROM runs"))
        found = verify(store, replay_of([one.life.recording for one in lives]))
    finally:
        store.close()
    given = [one.given(until_us[one.ready["run"]]) for one in lives]
    return Audit(
        [
            ConservationLine(
                resource, sum(one[resource] for one in given), {k: posted[resource][k] for k in TAKERS}
            )
            for resource in MACHINE_RESOURCES
        ],
        found,
        [one.lived_us(until_us[one.ready["run"]]) for one in lives],
        sum(one.lost_steps(until_us[one.ready["run"]]) for one in lives),
    )


def seen(lives: Sequence[Lived]) -> dict[str, int]:
    """What really happened, in both lives; the names are what the report calls it."""
    load: Counter[str] = Counter()
    counters: Counter[str] = Counter()
    for one in lives:
        load.update(one.last["load"])
        counters.update(one.counters)
    recovered = [run for one in lives for run in one.ready["recovered"]]
    return {
        "requests": load["requests"],
        "answers finished": load["finished"],
        "answers cancelled": load["cancelled"],
        "second choices of a prompt": load["second_choices"],
        "children": load["children"],
        "hints": load["hints"],
        "bursts": load["bursts"],
        "preemptions": counters["preemptions"],
        "evictions from the device": counters["evictions_device_host"] + counters["evictions_device_gone"],
        "evictions from host memory": counters["evictions_host_disk"] + counters["evictions_host_gone"],
        "steps that failed": counters["failed_steps"],
        "requests refused by a budget": load["refused_by_budget"],
        "budgets topped up": load["top_ups"],
        "kill -9": sum(one.killed for one in lives),
        "runs recovered at the restart": len(recovered),
        "holds given back by it": sum(run["released_requests"] for run in recovered),
        "blocks found on disk at the restart": sum(one.ready["warm_blocks"] for one in lives),
    }


# --- report -------------------------------------------------------------------------------------


def _fill(report: Report, lives: Sequence[Lived], audited: Audit) -> None:
    happened, lines, found = seen(lives), audited.lines, audited.verified
    report.results = {
        "resources": [
            {
                "resource": line.resource.value,
                "given": line.given,
                "posted": line.sum,
                "off_percent": line.off_percent,
                "by": {kind.value: amount for kind, amount in line.posted.items()},
            }
            for line in lines
        ],
        "seen": happened,
        "postings": found.postings,
        "runs": found.runs,
        "replayed": found.replayed,
        "differences": [difference.sentence for difference in found.differences],
        "lived_s": [lived_us / 1e6 for lived_us in audited.lived_us],
        "lost_steps": audited.lost_steps,
    }
    report.samples = [{"life": one.life.number, **one.last, "counters": one.counters} for one in lives]
    report.verdicts = [
        Verdict(f"{SHOWN[line.resource][0]}: postings off the total", line.off_percent, LIMIT_PERCENT, " %")
        for line in lines
    ]
    report.verdicts += [
        Verdict("steps that a kill took, besides the one in flight", max(0, audited.lost_steps - 1), 0),
        Verdict("differences found by ledger verify", len(found.differences), 0),
        Verdict("runs made again from their recordings", found.replayed, len(lives), at_most=False),
        Verdict("kinds of events that did not happen", sum(not count for count in happened.values()), 0),
    ]
    missing = [name for name, count in happened.items() if not count]
    if missing:
        report.notes.append(f"a run without these proves nothing: {', '.join(missing)}")
    report.notes += [difference.sentence for difference in found.differences[:5]]


def _table(lines: Sequence[ConservationLine]) -> Table:
    columns = ("resource", "given", "agents", "idle", "overhead", "unattributed", "sum", "off")
    rows = []
    for line in lines:
        name, divisor, unit = SHOWN[line.resource]
        amounts = (line.given, *line.posted.values(), line.sum)
        shown = [f"{amount / divisor:,.2f}" for amount in amounts]
        rows.append((f"{name}, {unit}", *shown, f"{line.off_percent:.4f} %"))
    return table("What the machine gave, and where the books say it went", columns, rows)
