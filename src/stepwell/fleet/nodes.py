"""One node as the router sees it: what it has to do, how fast it is, and whether it takes turns."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

from stepwell.fleet.prefixes import SentPrefixes
from stepwell.fleet.types import NodeState

PRIOR_WORK = 2_000.0
"""Work (in prompt tokens) for which a node is taken to be as fast as the others."""
HALF_LIFE_US = 30_000_000.0
"""After this long without news half of what was learned of a node's speed is forgotten: a node that was slow
gets a turn again, and shows whether it still is."""
FULL_MEMORY = 20_000.0
"""Work that is remembered at most: older work weighs less."""
LIGHTER_SHARE = 0.25
"""Turns of lighter service tiers do not go first, but share batches and memory."""
FIRST_PAUSE_US = 500_000
LONGEST_PAUSE_US = 30_000_000


@dataclass(slots=True)
class FleetNode:
    """Its rates are learned: time in which it had something to do, over the work it has finished."""

    name: str
    weight: float = 1.0
    """Its part of those agents of which nothing is known."""
    state: NodeState = NodeState.READY
    in_flight: int = 0
    outstanding: dict[str, float] = field(default_factory=dict)
    """Work by service tier that went there from here and has not ended."""
    reported_turns: int = 0
    """Running and waiting, by its own account."""
    foreign_turns: int = 0
    """Of those, what went there through other front ends."""
    failures: int = 0
    """In a row."""
    closed_until_us: int = 0
    """After failures: nothing goes there before."""
    busy_us: float = 0.0
    done: float = 0.0
    """Work finished in ``busy_us``."""
    last_us: int = 0
    """When ``busy_us`` was brought up to date."""
    turns: int = 0
    """How many went there in all."""
    kv_tokens: int | None = None
    """Room for KV, device and below; None: it has not said."""
    prefixes: SentPrefixes = field(default_factory=SentPrefixes)

    def takes(self, now_us: int) -> bool:
        return self.state is NodeState.READY and now_us >= self.closed_until_us

    def shown(self, now_us: int) -> tuple[float, float]:
        """Busy time and the work done in it. A turn that does not end makes its node look slow."""
        since_us = max(0, now_us - self.last_us)
        if self.in_flight:
            return self.busy_us + since_us, self.done
        kept = 0.5 ** (since_us / HALF_LIFE_US) if since_us and self.done else 1.0
        return self.busy_us * kept, self.done * kept

    def ahead(self, service_tier: str, weights: Mapping[str, int]) -> float:
        """Work that a turn of that service tier waits for or shares the node with."""
        own, heavier, lighter = weights.get(service_tier, 1), 0.0, 0.0
        total = 0.0
        for name, work in self.outstanding.items():
            total += work
            if weights.get(name, 1) >= own:
                heavier += work
            else:
                lighter += work
        mine = heavier + LIGHTER_SHARE * lighter
        if self.foreign_turns:
            mean = total / self.in_flight if self.in_flight else PRIOR_WORK / 4
            mine += self.foreign_turns * mean
        return mine

    def sent(self, service_tier: str, work: float, now_us: int) -> None:
        self._catch_up(now_us)
        self.in_flight += 1
        self.turns += 1
        self.outstanding[service_tier] = self.outstanding.get(service_tier, 0.0) + work

    def ended(self, service_tier: str, estimated: float, really: float, now_us: int) -> None:
        """``really``: 0 where nothing came of it."""
        self._catch_up(now_us)
        self.in_flight = max(0, self.in_flight - 1)
        left = self.outstanding.get(service_tier, 0.0) - estimated
        if left > 0 and self.in_flight:
            self.outstanding[service_tier] = left
        else:
            self.outstanding.pop(service_tier, None)
        self.done += really
        if self.done > FULL_MEMORY:
            kept = FULL_MEMORY / self.done
            self.done, self.busy_us = FULL_MEMORY, self.busy_us * kept

    def answered(self) -> None:
        self.failures, self.closed_until_us = 0, 0

    def failed(self, now_us: int) -> None:
        """Each failure in a row doubles the time in which nothing goes there."""
        self.failures += 1
        pause_us = min(LONGEST_PAUSE_US, FIRST_PAUSE_US << min(self.failures - 1, 16))
        self.closed_until_us = max(self.closed_until_us, now_us + pause_us)

    def reported(self, running: int, waiting: int) -> None:
        self.reported_turns = running + waiting
        self.foreign_turns = max(0, running + waiting - self.in_flight)

    def restarted(self) -> None:
        """A new process: it has no debts."""
        self.in_flight, self.foreign_turns, self.reported_turns = 0, 0, 0
        self.outstanding.clear()
        self.prefixes.clear()

    def _catch_up(self, now_us: int) -> None:
        self.busy_us, self.done = self.shown(now_us)
        self.last_us = max(self.last_us, now_us)


def rates(nodes: Iterable[FleetNode], now_us: int, prior_us_per_token: float) -> dict[str, float]:
    """Microseconds for a unit of work on each node, with all that goes on there at the same time.

    A node that has shown little is taken to be about as fast as the (lower) median of those that have shown
    more: with a fixed first guess, the first node that proved better than it would get every turn.
    """
    shown = {node.name: node.shown(now_us) for node in nodes}
    known = sorted(busy / done for busy, done in shown.values() if done > PRIOR_WORK / 4)
    usual = known[(len(known) - 1) // 2] if known else prior_us_per_token
    return {name: (busy + PRIOR_WORK * usual) / (done + PRIOR_WORK) for name, (busy, done) in shown.items()}
