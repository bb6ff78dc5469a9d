"""One turn of the loop: poll, decide, execute, settle.

Everything that happens in a server passes through here. Nothing is decided but by the policy, which is
pure: the same events at the same times give the same plans, live, replayed or simulated.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from typing import Protocol

from stepwell.policy.scheduler import Scheduler
from stepwell.policy.types import Event, Plan


class Executor(Protocol):
    """The world in which plans are carried out: an engine with its KV tiers, or a model of them."""

    def poll(self) -> list[Event]:
        """What has happened since the last call, in the order in which the policy is to hear of it."""

    def execute(self, plan: Plan) -> None:
        """Move bytes and run the batch; what comes of it is reported by the next ``poll``."""

    def settle(self, events: Sequence[Event]) -> None:
        """Forget the requests whose end the policy has now seen."""

    @property
    def has_results(self) -> bool:
        """Whether the next ``poll`` will report something that has already happened."""


class Observer(Protocol):
    """Sees every step: recordings, counters, the ledger."""

    def decided(self, now_us: int, events: Sequence[Event], plan: Plan) -> None:
        """``events`` went into the policy and ``plan`` came out; it is carried out after this."""

    def close(self, now_us: int) -> None:
        """The run ends."""


class Loop:
    """Not thread-safe but for ``lock``, which is held while the policy's state changes."""

    def __init__(
        self,
        scheduler: Scheduler,
        executor: Executor,
        now_us: Callable[[], int],
        observers: Sequence[Observer] = (),
    ) -> None:
        self.scheduler, self.executor = scheduler, executor
        self.observers = list(observers)
        self.lock = threading.Lock()
        self.steps = self.step_us = 0
        """Steps that ran a batch, and how long they took."""
        self._now_us = now_us

    def step(self) -> int | None:
        """Take one step. Returns when the next one is due: now, later, or (None) at the next event."""
        now_us = self._now_us()
        with self.lock:
            events = self.executor.poll()
            plan = self.scheduler.step(now_us, events)
        for observer in self.observers:
            observer.decided(now_us, events, plan)
        self.executor.execute(plan)
        self.executor.settle(events)
        if plan.batch:
            self.steps += 1
            self.step_us += self._now_us() - now_us
        if plan.actions or plan.batch or self.executor.has_results:
            return self._now_us()
        return plan.wake_at_us

    def close(self) -> None:
        """Tell the observers that the run ends."""
        for observer in self.observers:
            observer.close(self._now_us())
