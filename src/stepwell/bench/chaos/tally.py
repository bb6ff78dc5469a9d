"""What the clients of a chaos run saw, and for which of it there was a reason."""

from __future__ import annotations

import threading
from collections import Counter, defaultdict
from dataclasses import dataclass, field

from stepwell.bench.chaos.target import DOWN, ChaosTarget

Agent = tuple[str, str]
"""Session and agent: each asks for little, so that charges can be compared with what was asked."""

BREAKS = frozenset({DOWN})
STOPS = frozenset({DOWN, "freeze"})
BOOKS = frozenset({"books locked", "books moved away", "PostgreSQL restart", "disk full", "writes fail"})
DISK = frozenset({"disk full", "writes fail", "read-only"})
REASONS: dict[tuple[int, str], frozenset[str] | None] = {
    (429, "rate_limit_exceeded"): None,
    (429, "flex_unavailable"): None,
    (503, "server_overloaded"): BREAKS,
    (503, "ledger_unavailable"): BOOKS | BREAKS,
    (507, "storage_full"): DISK,
    (500, "file_damaged"): DISK,
    (403, "storage_quota_exceeded"): None,
}
"""Answers that are no failure, and what must have been going on for them. None: nothing, it is the load."""
RETRIES_S = 10.0
"""How long after its end a fault may be felt: the ledger's writer tries again every five seconds."""


@dataclass(slots=True)
class AgentTurns:
    """The turns of one agent."""

    attempts: int = 0
    refused: int = 0
    answered_s: list[float] = field(default_factory=list)


@dataclass(slots=True)
class ChaosTally:
    """Counters of one run; every method may be called from any thread."""

    target: ChaosTarget
    counts: Counter[str] = field(default_factory=Counter)
    asked: dict[Agent, AgentTurns] = field(default_factory=lambda: defaultdict(AgentTurns))
    unexplained: list[str] = field(default_factory=list)
    """One sentence for each thing that should not have happened."""
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _pending: list[tuple[float, float, str, frozenset[str]]] = field(default_factory=list)

    def attempt(self, agent: Agent) -> None:
        with self._lock:
            self.asked[agent].attempts += 1
            self.counts["requests"] += 1

    def answered(self, agent: Agent, now_s: float) -> None:
        with self._lock:
            self.asked[agent].answered_s.append(now_s)
            self.counts["answered"] += 1

    def refused(
        self, agent: Agent | None, what: str, answer: tuple[int, str], during: tuple[float, float]
    ) -> None:
        """An answer that says no: is its code one of those that are stated, and was there a reason?"""
        with self._lock:
            self.counts["refused"] += 1
            self.counts[f"refused {answer[0]} {answer[1]}"] += 1
            if agent is not None:
                self.asked[agent].refused += 1
        if answer not in REASONS:
            self.wrong("stated", f"{what}: {answer[0]} {answer[1]}")
            return
        if (reasons := REASONS[answer]) is not None:
            self._expect(during, f"{what}: {answer[0]} {answer[1]}", reasons)

    def cut(self, what: str, during: tuple[float, float]) -> None:
        """No answer, or half of one."""
        with self._lock:
            self.counts["cut off"] += 1
        self._expect(during, f"{what}: cut off", STOPS)

    def wrong(self, kind: str, sentence: str) -> None:
        with self._lock:
            self.counts[f"wrong: {kind}"] += 1
            if len(self.unexplained) < 100:
                self.unexplained.append(f"{kind}: {sentence}")

    def count(self, name: str, amount: int = 1) -> None:
        with self._lock:
            self.counts[name] += amount

    def _expect(self, during: tuple[float, float], what: str, faults: frozenset[str]) -> None:
        """Judged at the end: the window of a fault is known when it is over."""
        with self._lock:
            self._pending.append((*during, what, faults))

    def judge(self) -> None:
        """Hold every refusal and every break against what was going on."""
        for start_s, end_s, what, faults in self._pending:
            if not self.target.disturbed(start_s - RETRIES_S, end_s + 1.0, faults):
                self.wrong("without a reason", f"{what} ({start_s:.1f} to {end_s:.1f} s)")
        self._pending.clear()
