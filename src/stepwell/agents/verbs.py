"""The verbs as tools for models, named as in OpenAI's multi-agent types."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping
from typing import TYPE_CHECKING, Any

from stepwell.agents.agent import VERBS, Agent
from stepwell.agents.crews.definition import Role
from stepwell.agents.tools.base import Tool

if TYPE_CHECKING:
    from stepwell.agents.session import Session

CHILD_MS = 10_000
"""How long a child is expected to take before anything is known of it."""
TASK = {"type": "string"}
AGENT = {"type": "string"}

Verb = Callable[["Session", Agent, Mapping[str, Any]], Awaitable[str]]


async def _spawn(session: Session, agent: Agent, arguments: Mapping[str, Any]) -> str:
    child = session.spawn(
        arguments["role"], arguments["task"], parent=agent.id, key=session.calling[agent.id]
    )
    return f"{child.id} is at work; wait_agent gives its answer."


async def _send(session: Session, agent: Agent, arguments: Mapping[str, Any]) -> str:
    session.send(arguments["agent"], arguments["message"], author=agent.id, key=session.calling[agent.id])
    return f"{arguments['agent']} reads it before its next turn."


async def _wait(session: Session, agent: Agent, arguments: Mapping[str, Any]) -> str:
    names = arguments.get("agents") or [child.id for child in session.children(agent.id)]
    if not names:
        return "You have no agents to wait for."
    outcomes = await session.wait(names, waiting=agent.id)
    return "\n\n".join(f"{name} ({outcome.kind}): {outcome.text}" for name, outcome in outcomes.items())


async def _interrupt(session: Session, agent: Agent, arguments: Mapping[str, Any]) -> str:
    await session.interrupt(arguments["agent"], by=agent.id)
    return f"{arguments['agent']} is stopped."


async def _list(session: Session, agent: Agent, arguments: Mapping[str, Any]) -> str:
    lines = [
        f"{one.id}: {one.role.name}, {'active' if one.active else 'closed'}, {one.turns} turns"
        for one in session.agents.values()
    ]
    return "\n".join(lines)


async def _followup(session: Session, agent: Agent, arguments: Mapping[str, Any]) -> str:
    session.followup(arguments["agent"], arguments["task"], key=session.calling[agent.id], by=agent.id)
    return f"{arguments['agent']} is at work again; wait_agent gives its answer."


def verb_tools(session: Session, role: Role, agent: Callable[[], Agent]) -> list[Tool]:
    """The verbs that ``role`` may use: all with ``may_spawn``, else those among its ``tools``."""
    wanted = (
        VERBS if role.may_spawn and not role.plans else tuple(name for name in role.tools if name in VERBS)
    )
    roles = {"type": "string", "enum": list(role.may_spawn)}
    shapes: dict[str, tuple[Verb, str, dict[str, Any], list[str]]] = {
        "spawn_agent": (
            _spawn,
            "Give a task to a new agent, which works on it while you go on.",
            {"role": roles, "task": TASK},
            ["role", "task"],
        ),
        "send_message": (
            _send,
            "Tell another agent something.",
            {"agent": AGENT, "message": TASK},
            ["agent", "message"],
        ),
        "wait_agent": (
            _wait,
            "Wait until agents have answered and read their answers. Without names: all you have spawned.",
            {"agents": {"type": "array", "items": AGENT, "maxItems": 64}},
            [],
        ),
        "interrupt_agent": (
            _interrupt,
            "Stop an agent that is no longer needed.",
            {"agent": AGENT},
            ["agent"],
        ),
        "list_agents": (_list, "Which agents there are and what they do.", {}, []),
        "followup_task": (
            _followup,
            "Give another task to an agent that has answered; it remembers the first.",
            {"agent": AGENT, "task": TASK},
            ["agent", "task"],
        ),
    }
    return [_tool(name, *shapes[name], session, agent) for name in wanted]


def _tool(
    name: str,
    verb: Verb,
    description: str,
    properties: dict[str, Any],
    required: list[str],
    session: Session,
    agent: Callable[[], Agent],
) -> Tool:
    schema = {"type": "object", "properties": properties, "required": required, "additionalProperties": False}
    return Tool(
        name=name,
        description=description,
        parameters=schema,
        call=lambda arguments: verb(session, agent(), arguments),
        expected_ms=CHILD_MS if name == "wait_agent" else 1,
        timeout_s=math.inf,  # the session's own limit pauses what waits
        idempotent=True,  # each is done once per key, which is the call's place in the conversation
    )
