"""The clients of the neighbours benchmark: a few agents that paid, and a flood of those that did not.

The paying agents think between turns, as people and tools do. The flood never does: some agents send
their next turn the moment the last one ends, and on top of them strangers arrive at ten times the
rate at which the machine could serve them. What is outstanding is bounded, so it ends by itself.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace

import httpx2

from stepwell.bench.client import TIMEOUT_S, TurnSample, complete
from stepwell.engines.prose import prose

REFUSED_PAUSE_S = 1.0
MOST_ARRIVALS_PER_S = 50.0


@dataclass(frozen=True, slots=True)
class Neighbours:
    """The size of the workload. The defaults are the published ones."""

    agents: int = 3
    turns: int = 5
    opening_words: int = 520
    turn_words: int = 150
    output_tokens: int = 48
    think_s: tuple[float, float] = (0.5, 2.5)
    flood_agents: int = 8
    flood_outstanding: int = 16
    """Of agents and strangers together; what arrives beyond it is held back by its own client."""
    flood_words: int = 180
    flood_turn_words: int = 60
    flood_turns: int = 6
    """Then the agent begins anew with an empty context."""
    flood_output_tokens: int = 16
    long_words: int = 4_700
    """Of the prompt of another session of the same tenant, beside which a short turn is measured: about 6,000
    tokens of SmolLM2."""
    times: float = 10.0
    """Arrivals, as a multiple of what the machine could serve alone."""
    settle_s: float = 4.0
    """How long the flood rises before the paying agents take their turns."""
    flood_s: float = 45.0
    """After so long no agent begins another turn."""
    drain_s: float = 180.0
    seed: int = 20261122


@dataclass(frozen=True, slots=True)
class FloodTarget:
    """A server, and the keys under which each side asks it (None: it knows no keys)."""

    base_url: str
    model: str
    paid_key: str | None = None
    flood_key: str | None = None

    def client(self, key: str | None) -> httpx2.Client:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        return httpx2.Client(base_url=self.base_url, headers=headers, timeout=TIMEOUT_S, trust_env=False)


def served_target(base_url: str, paid_key: str | None, flood_key: str | None) -> FloodTarget:
    """A server that runs, with the first model that it serves."""
    target = FloodTarget(base_url, "", paid_key, flood_key)
    with target.client(paid_key) as http:
        return replace(target, model=str(http.get("/v1/models").json()["data"][0]["id"]))


class FloodSamples:
    """Samples from many threads, and what was asked for besides."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.samples: list[TurnSample] = []
        self.sent = 0
        self.held_back = 0

    def sending(self) -> None:
        with self._lock:
            self.sent += 1

    def keep(self, sample: TurnSample) -> None:
        with self._lock:
            self.samples.append(sample)

    def hold_back(self, count: int) -> None:
        with self._lock:
            self.held_back += count


# --- those who paid ---------------------------------------------------------------------------


class Paying:
    """The agents whose turns are measured. Their openings are not: those come before the flood."""

    def __init__(self, target: FloodTarget, work: Neighbours, phase: str) -> None:
        self.kept = FloodSamples()
        self.openings = FloodSamples()
        self._target, self._work, self._phase = target, work, phase
        self._go, self._late = threading.Event(), threading.Event()
        self._threads = [
            threading.Thread(target=self._agent, args=(number,), daemon=True) for number in range(work.agents)
        ]

    def open(self, began_s: float) -> None:
        """Send the openings and wait until all are answered."""
        self._began_s = began_s
        for thread in self._threads:
            thread.start()
        while len(self.openings.samples) < len(self._threads):
            time.sleep(0.01)

    def run(self, most_s: float, done: Callable[[], None] = lambda: None) -> None:
        """Take the turns; after ``most_s`` no further one is begun."""
        self._done = done
        timer = threading.Timer(most_s, self._late.set)
        timer.start()
        self._go.set()
        for thread in self._threads:
            thread.join()
        timer.cancel()

    def _agent(self, number: int) -> None:
        work, name = self._work, f"{self._phase}-{number}"
        rng = random.Random(f"{work.seed} {name}")
        so_far = f"Instructions of {name}\n\n{prose(rng, work.opening_words)}\n\nQuestion 0:\n"
        with self._target.client(self._target.paid_key) as http:
            so_far += self._turn(http, so_far, name, 0, self.openings)
            self._go.wait()
            for turn in range(1, work.turns + 1):
                low, high = work.think_s
                if self._late.wait(low + rng.random() * (high - low)):
                    return
                so_far += f"\n\nQuestion {turn}: {prose(rng, work.turn_words)}\n"
                so_far += self._turn(http, so_far, name, turn, self.kept)
                self._done()

    def _turn(self, http: httpx2.Client, prompt: str, name: str, turn: int, kept: FloodSamples) -> str:
        kept.sending()
        tokens = self._work.output_tokens
        sample = complete(http, self._target.model, prompt, tokens, name, turn=turn, began_s=self._began_s)
        kept.keep(sample)
        return sample.text


@dataclass(slots=True)
class PaidTurns:
    """The turns of those who paid in one phase, and the flood beside them, if there was one."""

    openings: list[TurnSample]
    turns: list[TurnSample]
    seconds: float
    flood: list[TurnSample] = field(default_factory=list)
    held_back: int = 0
    lost: int = 0
    """Flood requests that never came to an end."""


def paid_turns(
    target: FloodTarget,
    work: Neighbours,
    phase: str,
    arrivals_per_s: float | None = None,
    done: Callable[[], None] = lambda: None,
) -> PaidTurns:
    """Take them, alone or under a flood in which strangers arrive at that rate."""
    began = time.perf_counter()
    paying = Paying(target, work, phase)
    paying.open(began)
    flood = None if arrivals_per_s is None else Flood(target, work, arrivals_per_s, began)
    if flood is not None:
        flood.start()
        time.sleep(work.settle_s)
    paying.run(work.flood_s, done)
    taken = PaidTurns(paying.openings.samples, paying.kept.samples, time.perf_counter() - began)
    if flood is not None:
        taken.lost = flood.stop()
        taken.flood, taken.held_back = list(flood.kept.samples), flood.kept.held_back
    return taken


# --- those who did not ------------------------------------------------------------------------


class Flood:
    """Agents without pause and strangers at a rate, until ``stop``."""

    def __init__(self, target: FloodTarget, work: Neighbours, arrivals_per_s: float, began_s: float) -> None:
        self.kept = FloodSamples()
        self.arrivals_per_s = min(arrivals_per_s, MOST_ARRIVALS_PER_S)
        self._target, self._work, self._began_s = target, work, began_s
        self._stopped = threading.Event()
        strangers = max(1, work.flood_outstanding - work.flood_agents)
        self._places = threading.Semaphore(strangers)
        self._threads = [
            threading.Thread(target=self._agent, args=(number,), daemon=True)
            for number in range(work.flood_agents)
        ]
        self._threads.append(threading.Thread(target=self._arrivals, daemon=True))

    def start(self) -> None:
        for thread in list(self._threads):
            thread.start()

    def stop(self) -> int:
        """Send nothing more and wait for what is outstanding; how many never came to an end."""
        self._stopped.set()
        deadline = time.monotonic() + self._work.drain_s
        for thread in list(self._threads):
            thread.join(max(0.0, deadline - time.monotonic()))
        return self.kept.sent - len(self.kept.samples)

    def _agent(self, number: int) -> None:
        work, rng = self._work, random.Random(f"{self._work.seed} flood {number}")
        with self._target.client(self._target.flood_key) as http:
            turn, so_far = 0, ""
            while not self._stopped.is_set():
                words = work.flood_turn_words if turn % work.flood_turns else work.flood_words
                before = so_far if turn % work.flood_turns else f"Agent {number}, task {turn}\n\n"
                prompt = f"{before}\n\n{prose(rng, words)}\n"
                sample = self._send(http, prompt, f"flood-{number}", turn)
                so_far, turn = prompt + sample.text, turn + 1
                if sample.error:
                    self._stopped.wait(REFUSED_PAUSE_S)

    def _arrivals(self) -> None:
        """Strangers come one by one, each with its own task, whether there is room or not."""
        rng, number = random.Random(f"{self._work.seed} strangers"), 0
        while not self._stopped.wait(1 / self.arrivals_per_s):
            number += 1
            prompt = f"Stranger {number}\n\n{prose(rng, self._work.flood_words)}\n"
            if not self._places.acquire(blocking=False):
                self.kept.hold_back(1)
                continue
            thread = threading.Thread(target=self._stranger, args=(number, prompt), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _stranger(self, number: int, prompt: str) -> None:
        try:
            with self._target.client(self._target.flood_key) as http:
                self._send(http, prompt, f"stranger-{number}", 0)
        finally:
            self._places.release()

    def _send(self, http: httpx2.Client, prompt: str, name: str, turn: int) -> TurnSample:
        self.kept.sending()
        tokens = self._work.flood_output_tokens
        sample = complete(http, self._target.model, prompt, tokens, name, turn=turn, began_s=self._began_s)
        self.kept.keep(sample)
        return sample
