"""What agents would be asked, without asking: the first request of each role of a crew."""

from __future__ import annotations

from typing import Any

from stepwell.agents.planner import first_request
from stepwell.agents.request import body_of
from stepwell.agents.session import Session
from stepwell.agents.state import Task

KEY = "ask"


def first_requests(session: Session, question: str) -> dict[str, dict[str, Any]]:
    """Per role that may take turns, the body of its first turn, with the question as its task.

    Planners and agents that spawn word other tasks for the roles below them; all else is what is sent.
    """
    made: dict[str, dict[str, Any]] = {}
    for role in session.crew.used_roles:
        agent = session.make(role.name, None, role.name, 0)
        task = first_request(question) if role.plans else question
        agent.messages = session.first_messages(agent, task, KEY)
        agent.tasks = [Task(KEY, agent.id, task)]
        made[role.name] = body_of(agent, session.client.seed, session.end_tokens)
    return made
