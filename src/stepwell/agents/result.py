"""What came of a session, and what it took."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from stepwell.agents.events import TurnUsage, now_us
from stepwell.agents.limits import SessionMeter
from stepwell.agents.state import Outcome


@dataclass(frozen=True, slots=True)
class RoleUse:
    """What all agents of a role took."""

    turns: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    cost_microusd: int = 0

    def with_turn(self, usage: TurnUsage) -> RoleUse:
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


@dataclass(frozen=True, slots=True)
class Ending:
    """The session at its end, as far as the result tells of it."""

    session: str
    roles: Mapping[str, str]
    """Per agent its role."""
    turns: Sequence[tuple[str, str, TurnUsage]]
    """Agent, task and usage of each, in the order they ended."""
    answered_by: str
    """The key of the task whose answer is the session's."""
    draft: str
    """The best answer so far, for a session that ends without one."""
    meter: SessionMeter


def result_of(ending: Ending, outcome: Outcome, began_us: int) -> Result:
    """The result; of a session without an answer of its own, with the best draft there was."""
    last = [usage for _, task, usage in ending.turns if task == ending.answered_by]
    visible = last[-1].completion_tokens if last and outcome.ok else 0
    meter = ending.meter
    return Result(
        status=outcome.kind,
        answer=outcome.text if outcome.ok else ending.draft,
        sentence="" if outcome.ok else outcome.text,
        session=ending.session,
        agents=len(ending.roles),
        turns=len(ending.turns),
        prompt_tokens=meter.prompt_tokens,
        visible_tokens=visible,
        intermediate_tokens=meter.completion_tokens - visible,
        cost_microusd=meter.cost_microusd,
        duration_us=now_us() - began_us,
        by_role=_by_role(ending),
        cut=bool(last) and last[-1].cut,
    )


def _by_role(ending: Ending) -> dict[str, RoleUse]:
    used: dict[str, RoleUse] = {}
    for agent, _, usage in ending.turns:
        role = ending.roles[agent]
        used[role] = used.get(role, RoleUse()).with_turn(usage)
    return used
