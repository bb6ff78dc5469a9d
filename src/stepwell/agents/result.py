"""What came of a session, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from stepwell.agents.events import Usage


@dataclass(frozen=True, slots=True)
class RoleUse:
    """What all agents of a role took."""

    turns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_microusd: int = 0

    def with_turn(self, usage: Usage) -> RoleUse:
        return RoleUse(
            self.turns + 1,
            self.prompt_tokens + usage.prompt_tokens,
            self.completion_tokens + usage.completion_tokens,
            self.cost_microusd + (usage.cost_microusd or 0),
        )


@dataclass(frozen=True, slots=True)
class Result:
    """How a run of a session ended."""

    status: str
    """completed; budget_reached, token_limit, time_limit or server_unreachable (all can be resumed); or the
    outcome of the entry agent's task where that has no answer."""
    answer: str
    """Empty where there is none."""
    sentence: str
    """What to say about it where it is not completed."""
    session: str
    agents: int
    turns: int
    prompt_tokens: int
    visible_tokens: int
    """Of the turn that gave the answer."""
    intermediate_tokens: int
    """Of all other answers."""
    cost_microusd: int | None
    duration_us: int
    by_role: Mapping[str, RoleUse] = field(default_factory=dict)
    """The roles that had turns."""
