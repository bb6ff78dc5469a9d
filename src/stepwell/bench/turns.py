"""Agents that take turns in process, all of them at once: the workload of measurements without a server."""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass, field

from stepwell.bench.node import TurnLog, turn_of
from stepwell.engines.base import TextModel
from stepwell.engines.prose import prose
from stepwell.loop.driver import Driver


@dataclass(frozen=True, slots=True)
class TurnsWork:
    """How many agents, and how much each says and hears. Lengths are tokens."""

    agents: int
    turns: int
    prompt_tokens: int
    added_tokens: int
    """To the context between two turns."""
    output_tokens: int
    device_kv_tokens: int
    """Of the node: less than all contexts together, where there is to be pressure."""
    step_tokens: int = 256


@dataclass(slots=True)
class TurnsPlayer:
    """Contexts of the agents, made before anything is timed."""

    text: TextModel
    work: TurnsWork
    contexts: list[list[int]] = field(init=False)
    added: list[list[int]] = field(init=False)

    def __post_init__(self) -> None:
        work = self.work
        self.contexts = [self._tokens(number, work.prompt_tokens) for number in range(work.agents)]
        self.added = [self._tokens(work.agents + number, work.added_tokens) for number in range(work.agents)]

    def _tokens(self, number: int, count: int) -> list[int]:
        words = prose(random.Random(9_000 + number), count)
        return self.text.tokenize(f" {number}: {words}", add_bos=False, parse_special=False)[:count]

    def play(
        self, driver: Driver, step: Callable[[], object], turn_ended: Callable[[], None] = lambda: None
    ) -> None:
        """All turns; a turn of every agent is asked for at once, as a busy server has it. ``step`` steps the
        driver."""
        for _ in range(self.work.turns):
            logs = [TurnLog() for _ in self.contexts]
            for number, (context, log) in enumerate(zip(self.contexts, logs, strict=True)):
                driver.submit(turn_of(context, self.work.output_tokens, f"agent-{number}"), log)
            while not all(log.finished for log in logs):
                step()
            for number, log in enumerate(logs):
                self.contexts[number] += [*log.tokens, *self.added[number]]
            turn_ended()
