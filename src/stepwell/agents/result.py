"""What came of a session, and what it took."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stepwell.agents.events import Usage, now_us

if TYPE_CHECKING:
    from stepwell.agents.session import Session
    from stepwell.agents.state import Outcome


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
    cut: bool = False
    """The answer ended at its turn's token limit: it may be a stump."""


def result_of(session: Session, outcome: Outcome, began_us: int) -> Result:
    """The session as it ended; without an answer of its own it gives the best draft there was."""
    turns = session.store.turns()
    last = [usage for _, task, usage in turns if task == session.answered_by]
    visible = last[-1].completion_tokens if last and outcome.ok else 0
    meter = session.meter
    return Result(
        status=outcome.kind,
        answer=outcome.text if outcome.ok else session.store.get("draft") or "",
        sentence="" if outcome.ok else outcome.text,
        session=session.id,
        agents=len(session.agents),
        turns=len(turns),
        prompt_tokens=meter.prompt_tokens,
        visible_tokens=visible,
        intermediate_tokens=meter.completion_tokens - visible,
        cost_microusd=meter.cost_microusd,
        duration_us=now_us() - began_us,
        by_role=_by_role(session),
        cut=bool(last) and last[-1].cut,
    )


def _by_role(session: Session) -> dict[str, RoleUse]:
    used: dict[str, RoleUse] = {}
    for agent, _, usage in session.store.turns():
        role = session.agents[agent].role.name
        used[role] = used.get(role, RoleUse()).with_turn(usage)
    return used
