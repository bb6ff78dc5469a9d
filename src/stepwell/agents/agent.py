"""One agent: a conversation that only grows, its tasks, and what it is doing.

Earlier messages never change, so the server finds their KV again. ``turns`` takes the next step of one.
"""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stepwell.agents.client import CallingAgent
from stepwell.agents.crews.definition import Role, SessionLimits
from stepwell.agents.state import AgentRow, Message, Outcome, Task
from stepwell.agents.tools.base import Tool

WAIT_TOOL = "wait_agent"
VERBS = ("spawn_agent", "send_message", WAIT_TOOL, "interrupt_agent", "list_agents", "followup_task")


@dataclass(slots=True)
class Agent:
    """An agent as the session keeps it."""

    row: AgentRow
    role: Role
    tools: Mapping[str, Tool]
    caller: CallingAgent
    messages: list[Message] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    may_return: bool = True
    """Whether another task may follow; False tells the server that it is done when it has answered."""
    narrowed: tuple[str, Mapping[str, Any] | None] = ("", None)
    """The key of a task, and its schema where the role's ``narrow`` gave one."""
    said: Mapping[str, Any] | None = None
    """What the server was told last of its wait."""
    at_work: asyncio.Task[None] | None = None
    closed: asyncio.Event = field(default_factory=asyncio.Event)

    @property
    def id(self) -> str:
        return self.row.id

    @property
    def calls_by_schema(self) -> bool:
        """Whether each of its turns is one JSON object, a call or the answer."""
        return bool(self.tools) and self.role.calls == "schema"

    @property
    def task(self) -> Task:
        """The last one; every agent but a planner's has one from its beginning."""
        return self.tasks[-1]

    @property
    def active(self) -> bool:
        return bool(self.tasks) and self.task.outcome is None

    @property
    def outcome(self) -> Outcome | None:
        """Of its last task."""
        return self.task.outcome if self.tasks else None

    def most_turns(self, limits: SessionLimits) -> int:
        """Of one task."""
        return self.role.max_turns or limits.turns_per_agent

    @property
    def turns(self) -> int:
        return sum(task.turns for task in self.tasks)
