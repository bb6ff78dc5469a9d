"""What is known of a run while it goes on: crews report to it, the screen reads it."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, field

from stepwell.agents import events
from stepwell.demo.record import KV_TIERS, CheckedAnswer, DemoTurn

WORK = {"planner": "plans", "reader": "reads", "verifier": "checks", "writer": "writes"}
WAITS = {
    "person": "waits for a person",
    "child": "waits for its agents",
    "agent": "waits for the planner",
    "tool": "waits for a tool",
    "done": "done",
}
"""Per hint that the agent gives the server."""


@dataclass(slots=True)
class AgentStatus:
    """What an agent is doing, as its crew knows it (the server cannot know why it waits)."""

    agent: str
    role: str
    doing: str = "not started"
    turns: int = 0
    last_ttft_s: float | None = None
    context_tokens: int = 0
    busy: bool = False
    """Whether it is calling the model right now."""
    retries: int = 0
    """Of the turn under way."""


@dataclass(slots=True)
class RunBoard:
    """Everything that is known about the run so far."""

    began_s: float = 0.0
    statuses: dict[str, AgentStatus] = field(default_factory=dict)
    turns: list[DemoTurn] = field(default_factory=list)
    sessions_s: dict[str, tuple[float, float]] = field(default_factory=dict)
    answers: dict[str, list[CheckedAnswer]] = field(default_factory=dict)

    def listener(self, tenant: str, clock: Callable[[], float] = time.perf_counter) -> events.Listener:
        """Takes the events of one customer's session."""

        def hear(event: events.Event) -> None:
            match event:
                case events.Spawned(agent=agent, role=role):
                    key = f"{tenant}/{agent}"
                    self.statuses.setdefault(key, AgentStatus(key, agent, WORK.get(role, role)))
                case events.TurnBegan(agent=agent):
                    status = self.statuses[f"{tenant}/{agent}"]
                    status.busy, status.retries, status.doing = True, 0, _work(agent)
                case events.Retried(agent=agent):
                    self.statuses[f"{tenant}/{agent}"].retries += 1
                case events.TurnEnded(agent=agent):
                    self._note(f"{tenant}/{agent}", event, clock() - self.began_s)
                case events.Waiting(agent=agent, waits_for=waits_for):
                    self.statuses[f"{tenant}/{agent}"].doing = WAITS.get(waits_for, waits_for)

        return hear

    def _note(self, key: str, ended: events.TurnEnded, end_s: float) -> None:
        status, usage = self.statuses[key], ended.usage
        start_s = end_s - ended.duration_us / 1e6
        first_us = ended.duration_us if usage.first_token_us is None else usage.first_token_us
        turn = DemoTurn(
            agent=key,
            number=ended.number,
            task=_work(ended.agent),
            start_s=start_s,
            first_token_s=min(end_s, start_s + first_us / 1e6),
            end_s=end_s,
            prompt_tokens=usage.prompt_tokens,
            output_tokens=usage.completion_tokens,
            cached_tokens={tier: usage.cached_by_tier.get(tier, 0) for tier in KV_TIERS},
            recomputed_tokens=usage.recomputed_tokens,
            retries=status.retries,
        )
        self.turns.append(turn)
        status.busy, status.turns, status.last_ttft_s = False, status.turns + 1, turn.ttft_s
        status.context_tokens = turn.prompt_tokens + turn.output_tokens
        status.doing = "has answered"


def _work(agent: str) -> str:
    role = agent.rpartition(".")[2].rstrip("0123456789").rstrip("-")
    return WORK.get(role, f"{role} is at work")
