"""What a session has used so far against what it may use."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass

from stepwell.agents.crews.definition import SessionLimits
from stepwell.agents.events import TurnUsage
from stepwell.agents.tools.base import Tool
from stepwell.errors import BadInput, StepwellError

PAUSES = frozenset({"budget_reached", "token_limit", "time_limit", "server_unreachable"})
"""Statuses of a session that stops where it is."""


class Paused(StepwellError):
    """The session stops where it is and can be resumed; nothing that was done is lost."""

    def __init__(self, status: str, sentence: str) -> None:
        super().__init__(sentence)
        self.status = status


class Refused(StepwellError):
    """A verb that cannot be carried out: one sentence for its caller."""


@dataclass(slots=True)
class SessionMeter:
    """Counts what all turns of the session took, those before a crash too."""

    limits: SessionLimits
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_microusd: int | None = None

    def add(self, usage: TurnUsage) -> None:
        self.prompt_tokens += usage.prompt_tokens
        self.completion_tokens += usage.completion_tokens
        if usage.cost_microusd is not None:
            self.cost_microusd = (self.cost_microusd or 0) + usage.cost_microusd

    @property
    def tokens(self) -> int:
        return self.prompt_tokens + self.completion_tokens

    def require_room(self) -> None:
        """Before a turn. Raises ``Paused`` when the session has used what it may."""
        budget = self.limits.budget_microusd
        if budget is not None and (self.cost_microusd or 0) >= budget:
            raise budget_reached(f"its budget of {budget / 1_000_000:.6g} USD is spent")
        if self.tokens >= self.limits.tokens:
            raise Paused("token_limit", f"the session has used its {self.limits.tokens:,} tokens")


def budget_reached(why: str) -> Paused:
    return Paused("budget_reached", f"the session is paused: {why}; resume it with a larger budget")


def require_depth(limits: SessionLimits, depth: int) -> None:
    if depth > limits.depth:
        raise Refused(f"agents may stand at most {limits.depth} deep: do this task yourself")


def require_agents(limits: SessionLimits, made: int, active: int) -> None:
    """Before a spawn: ``made`` sub-agents so far, ``active`` of them at work."""
    if made >= limits.agents:
        raise Refused(f"this session has made its {limits.agents} sub-agents: do this task yourself")
    if active >= limits.concurrent:
        raise Refused(f"{active} sub-agents are at work, the most there may be: wait for one first")


def require_repeatable(role: str, tool: Tool) -> None:
    """Of a tool that finishes or checks answers. Raises ``BadInput``."""
    if not tool.idempotent:
        raise BadInput(
            f"role {role}: {tool.name} cannot finish or check answers: after a crash it would be "
            "called again, and it is not idempotent"
        )


async def until(holds: Callable[[], bool], changed: asyncio.Event) -> None:
    """Returns when something holds, looked at whenever it may have changed."""
    while not holds():
        changed.clear()
        await changed.wait()
