"""One life of the server that ``stepwell bench conservation`` runs, kills and runs again.

The real node with real books. Beside it, and knowing nothing of the meter, stands what the machine itself
has given: the clock, and the bytes that went through the engine's and the KV tiers' own doors. It says so on
standard output, one JSON object a line. On the null engine time is simulated: an hour passes in a minute.
"""

from __future__ import annotations

import json
import logging
import os
import random
import signal
import sys
import threading
import time
from collections import Counter, deque
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import Any, cast

from stepwell.basics.clock import Clock, ManualClock, MonotonicClock
from stepwell.bench.ledger.mixed_load import BUDGETED, SECOND_US, MixedLoad, MixedSize
from stepwell.bench.node import Door
from stepwell.engines.base import BatchItem, Buffer, Engine, EngineError, Sampled
from stepwell.engines.prose import prose
from stepwell.launch import assemble
from stepwell.ledger.settings import BudgetEntry, LedgerSettings
from stepwell.ledger.types import Budget, Scope
from stepwell.policy.types import BlockMeta, Moved
from stepwell.settings.engine import EngineSettings
from stepwell.settings.file import KvSettings, PolicySettings, Settings
from stepwell.tiers.base import Tiers

BUDGET_MICROUSD = 400
"""What it has at first, and what it is topped up by."""
TOP_UP_AFTER_US = 10 * SECOND_US
FAIL_EVERY = 400
"""Engine steps, on average, between two that fail."""
SAY_EVERY_S = 0.05
DISK_US = 2_000
"""Simulated time that passes while the loop waits for the disk."""
LAST_STEPS = 5
"""So many of the last steps a simulated life remembers to tell."""
_OUTPUT = threading.Lock()
BUSY_STEPS = 3
"""Steps that ran one right after the other before a simulated life is killed: it dies at work."""
DRAIN_S = 30.0
SOURCE_WORDS = 4_000
NULL_SIZE = MixedSize()
LIVE_SIZE = MixedSize(
    system_tokens=128,
    document_tokens=128,
    message_tokens=64,
    answer_tokens=48,
    turns=3,
    session_every_s=20.0,
    burst_sessions=6,
)


@dataclass(frozen=True, slots=True)
class Life:
    """What one process is to do."""

    directory: str
    number: int
    engine: str
    model: str
    seed: int
    seconds: float
    kill_at_s: float | None = None
    """Simulated: when it kills itself, within a batch. Real time: its parent does."""

    @property
    def recording(self) -> Path:
        return Path(self.directory) / f"life-{self.number}.jsonl"

    @property
    def ledger(self) -> Path:
        return Path(self.directory) / "ledger.db"

    @property
    def simulated(self) -> bool:
        return self.engine == "null"


def settings_of(life: Life) -> Settings:
    """A server that is too small for its load in every KV tier."""
    block_bytes, host_blocks = (4096, 48) if life.simulated else (64 * 23_040, 16)
    return Settings(
        engine=EngineSettings(
            kind="null" if life.simulated else "llamacpp",
            model=life.model,
            device_kv_tokens=64 * (64 if life.simulated else 40),
            max_sequences=32,
        ),
        kv=KvSettings(
            host_kv=host_blocks * block_bytes,
            disk_kv=300 * (block_bytes + 8192),
            disk_dir=Path(life.directory) / "kv",
        ),
        policy=PolicySettings(step_tokens=64 if life.simulated else 128, max_running=16, reserve_tokens=16),
        ledger=LedgerSettings(path=str(life.ledger), node="conservation"),
        budgets=(BudgetEntry(tenant=BUDGETED, hard_usd=Decimal(BUDGET_MICROUSD) / 10**6),),
        record=life.recording,
    )


@dataclass(slots=True)
class MachineTotals:
    """What the machine has given, as its doors saw it."""

    clock: Clock
    begun_us: int
    moved: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    busy: int = 0
    """Steps since the loop last waited."""
    last_steps: deque[dict[str, Any]] = field(default_factory=lambda: deque(maxlen=LAST_STEPS))
    """When each began, and what had moved until then."""

    def step(self) -> None:
        self.steps += 1
        self.busy += 1
        line = {"kind": "step", "step_us": self.clock.now_us(), "moved": dict(self.moved)}
        if isinstance(self.clock, ManualClock):
            self.last_steps.append(line)
        else:  # it is not known when it will be killed
            tell(line)


def tell(line: dict[str, Any]) -> None:
    """One whole line for the parent process, from any thread."""
    with _OUTPUT:
        sys.stdout.write(json.dumps(line) + "\n")
        sys.stdout.flush()


class EngineDoor(Door):
    """Counts what is loaded, fails now and then, and dies when it is time."""

    def __init__(self, inner: Engine, given: MachineTotals, life: Life, dying: Dying) -> None:
        super().__init__(inner)
        self._given, self._dice, self._dying = given, random.Random(life.seed), dying

    def load(self, block: BlockMeta, data: Buffer) -> None:
        self._inner.load(block, data)
        self._given.moved["host_device_bytes"] += len(data)

    def run(self, batch: Sequence[BatchItem]) -> list[Sampled]:
        if self._dice.random() < 1 / FAIL_EVERY:
            victim = self._dice.choice(batch).request
            self._inner.close(victim)
            raise EngineError("this is a drill", [victim])
        self._dying.now_or_never()
        return cast("list[Sampled]", self._inner.run(batch))


class TiersDoor(Door):
    """Counts what goes through; ``poll`` is the first thing of every step."""

    def __init__(self, inner: Tiers, given: MachineTotals) -> None:
        super().__init__(inner)
        self._given = given

    def put_host(self, block: BlockMeta, data: Buffer) -> bool:
        taken = bool(self._inner.put_host(block, data))
        self._given.moved["device_host_bytes"] += taken * len(data)
        return taken

    def poll(self) -> list[Moved]:
        ended: list[Moved] = self._inner.poll()
        for moved in ended:
            route = f"{moved.source.value}_{moved.target.value}_bytes"
            self._given.moved[route] += moved.ok * moved.size_bytes
        self._given.step()
        return ended


@dataclass(slots=True)
class NodeUnderLoad:
    """A node under load, and what is known about it from outside."""

    life: Life
    node: assemble.Node
    clock: Clock
    given: MachineTotals
    load: MixedLoad
    spent_since_us: int | None = None

    def act(self) -> None:
        """The customers' next move, and the operator's."""
        now_us = self.clock.now_us()
        self.load.act(now_us)
        if not self.load.waits_for_budget:
            return
        self.spent_since_us = self.spent_since_us or now_us
        if now_us - self.spent_since_us >= TOP_UP_AFTER_US:
            self._top_up()

    def _top_up(self) -> None:
        assert self.node.ledger is not None
        states = self.node.ledger.keeper.budgets.states()
        spent = max(state.spent_microusd for state in states if state.name.tenant == BUDGETED)
        hard = spent + BUDGET_MICROUSD
        self.node.ledger.set_budget(Budget(Scope.TENANT, BUDGETED, "", None, hard, actor="operator"))
        self.load.waits_for_budget, self.spent_since_us = False, None
        self.load.counts["top_ups"] += 1

    def say(self, kind: str) -> None:
        """One line for the parent process."""
        given = self.given
        line = {
            "kind": kind,
            "begun_us": given.begun_us,
            "now_us": self.clock.now_us(),
            "steps": given.steps,
            "running": len(self.node.driver.scheduler.table.running),
            "moved": dict(given.moved),
            "load": dict(self.load.counts),
        }
        tell(line)

    def say_all(self, kind: str) -> None:
        """The same with everything that the server itself counts."""
        counters = self.node.driver.snapshot().counters
        tell({"kind": "counters", "counters": counters})
        self.say(kind)


class Dying:
    """A simulated life ends itself, as abruptly as from outside: within a batch, with a last word to us."""

    def __init__(self, kill_at_us: int | None) -> None:
        self.kill_at_us = kill_at_us
        self.server: NodeUnderLoad | None = None

    def now_or_never(self) -> None:
        server = self.server
        if self.kill_at_us is None or server is None:
            return
        if server.clock.now_us() >= self.kill_at_us and server.given.busy >= BUSY_STEPS:
            for line in server.given.last_steps:
                tell(line)
            server.say_all("dying")
            os.kill(os.getpid(), signal.SIGKILL)


def start(life: Life) -> NodeUnderLoad:
    """Everything in place, nothing running."""
    clock: Clock = ManualClock() if life.simulated else MonotonicClock()
    node = assemble.build(settings_of(life), clock=clock)
    given = MachineTotals(clock, clock.now_us())
    kill_at_us = int(life.kill_at_s * 1e6) if life.simulated and life.kill_at_s is not None else None
    dying = Dying(kill_at_us)
    driver = node.driver
    executor = node.driver.executor
    executor.engine = cast("Engine", EngineDoor(executor.engine, given, life, dying))
    executor.tiers = cast("Tiers", TiersDoor(executor.tiers, given))
    source = node.text.tokenize(prose(random.Random(7), SOURCE_WORDS), add_bos=False, parse_special=False)
    until_us = clock.now_us() + int(life.seconds * 1e6)
    size = NULL_SIZE if life.simulated else LIVE_SIZE
    load = MixedLoad(driver, source, life.seed * 1_000 + life.number, clock.now_us(), until_us, size)
    dying.server = NodeUnderLoad(life, node, clock, given, load)
    return dying.server


def play_simulated(server: NodeUnderLoad, clock: ManualClock, until_us: int) -> None:
    """Step until there is nothing to do, then let time jump to whatever comes next."""
    driver, memory = server.node.driver, server.node.driver.scheduler.block_manager
    while clock.now_us() < until_us:
        server.act()
        wake_at_us = driver.step()
        if wake_at_us is not None and wake_at_us <= clock.now_us():
            continue
        if memory.writes_in_flight or memory.reads_in_flight:
            time.sleep(0.0002)  # the disk is a real one
            clock.sleep_us(DISK_US)
            continue
        server.given.busy = 0
        times = [until_us, server.load.due_us(), wake_at_us]
        clock.sleep_us(max(0, min(at for at in times if at is not None) - clock.now_us()))


def play_live(server: NodeUnderLoad, until_us: int) -> None:
    """The loop runs in its own thread; this one is the customers."""
    server.node.driver.start()
    said_s = said_all_s = 0.0
    while server.clock.now_us() < until_us:
        server.act()
        now_s = time.monotonic()
        if now_s - said_all_s >= 1:
            server.say_all("alive")
            said_s = said_all_s = now_s
        elif now_s - said_s >= SAY_EVERY_S:
            server.say("alive")
            said_s = now_s
        time.sleep(0.005)


def main(text: str) -> None:
    """Live as told, in JSON; say how it went."""
    logging.getLogger("stepwell").setLevel(logging.CRITICAL)  # failing steps are the point here
    life = Life(**json.loads(text))
    server = start(life)
    ledger = server.node.ledger
    assert ledger is not None
    config = server.node.driver.scheduler.config
    said = {
        "kind": "ready",
        "run": ledger.run,
        "capacity": [config.device_blocks * config.block_bytes, config.host_bytes, config.disk_bytes],
        "warm_blocks": len(server.node.tiers.recovered()),
        "recovered": [asdict(one) for one in ledger.recovered],
    }
    tell(said)
    until_us = server.clock.now_us() + int(life.seconds * 1e6)
    if isinstance(server.clock, ManualClock):
        play_simulated(server, server.clock, until_us)
    else:
        play_live(server, until_us)
    server.node.stop(DRAIN_S)
    server.say_all("ended")


if __name__ == "__main__":
    main(sys.argv[1])
