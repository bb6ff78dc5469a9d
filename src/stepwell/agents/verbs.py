"""The verbs as tools for models, named as in OpenAI's multi-agent types."""

from __future__ import annotations

import math
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from stepwell.agents.agent import VERBS, WAIT_TOOL, Agent
from stepwell.agents.briefing import what_it_does
from stepwell.agents.crews.definition import Crew, Role
from stepwell.agents.state import Outcome
from stepwell.agents.tools.base import Tool

CHILD_MS = 10_000
"""How long a child is expected to take before anything is known of it."""
TEXT = {"type": "string"}
Arguments = Mapping[str, Any]


class Office(Protocol):
    """What the verbs do their work with: the agents of a session, and what may be asked of them."""

    @property
    def crew(self) -> Crew: ...
    @property
    def agents(self) -> Mapping[str, Agent]: ...
    @property
    def calling(self) -> Mapping[str, str]: ...
    def spawn(self, role: str, task: str, *, parent: str, key: str) -> Agent: ...
    def followup(self, agent: str, task: str, *, key: str, by: str) -> Agent: ...
    def send(self, recipient: str, text: str, *, author: str, key: str) -> None: ...
    async def wait(self, agents: Sequence[str], *, waiting: str) -> dict[str, Outcome]: ...
    async def interrupt(self, agent: str, *, by: str) -> None: ...
    def children(self, agent: str) -> list[Agent]: ...


async def _spawn(office: Office, me: str, given: Arguments) -> str:
    child = office.spawn(given["role"], given["task"], parent=me, key=office.calling[me])
    return f"{child.id} is at work; wait_agent gives its answer."


async def _send(office: Office, me: str, given: Arguments) -> str:
    office.send(given["agent"], given["message"], author=me, key=office.calling[me])
    return f"{given['agent']} reads it before its next turn."


async def _wait(office: Office, me: str, given: Arguments) -> str:
    names = given.get("agents") or [child.id for child in office.children(me)]
    if not names:
        return "You have no agents to wait for."
    outcomes = await office.wait(names, waiting=me)
    return "\n\n".join(f"{name} ({outcome.kind}): {outcome.text}" for name, outcome in outcomes.items())


async def _interrupt(office: Office, me: str, given: Arguments) -> str:
    await office.interrupt(given["agent"], by=me)
    return f"{given['agent']} is stopped."


async def _list(office: Office, me: str, given: Arguments) -> str:
    return "\n".join(
        f"{one.id}: {one.role.name}, {'active' if one.active else 'closed'}, {one.turns} turns"
        for one in office.agents.values()
    )


async def _followup(office: Office, me: str, given: Arguments) -> str:
    office.followup(given["agent"], given["task"], key=office.calling[me], by=me)
    return f"{given['agent']} is at work again; wait_agent gives its answer."


@dataclass(frozen=True, slots=True)
class Verb:
    """One verb as models see it."""

    act: Callable[[Office, str, Arguments], Awaitable[str]]
    """Carries it out for the agent of this name, and says what came of it."""
    description: str
    arguments: Mapping[str, Any] = field(default_factory=dict)
    """Their schemas."""
    optional: bool = False
    """Whether the arguments may be left out."""


_BY_NAME: Mapping[str, Verb] = {
    "spawn_agent": Verb(
        _spawn,
        "Give a task to a new agent, which works on it while you go on.",
        {"role": TEXT, "task": TEXT},
    ),
    "send_message": Verb(_send, "Tell another agent something.", {"agent": TEXT, "message": TEXT}),
    "wait_agent": Verb(
        _wait,
        "Wait until agents have answered and read their answers. Without names: all you have spawned.",
        {"agents": {"type": "array", "items": TEXT, "maxItems": 64}},
        optional=True,
    ),
    "interrupt_agent": Verb(_interrupt, "Stop an agent that is no longer needed.", {"agent": TEXT}),
    "list_agents": Verb(_list, "Which agents there are and what they do."),
    "followup_task": Verb(
        _followup,
        "Give another task to an agent that has answered; it remembers the first.",
        {"agent": TEXT, "task": TEXT},
    ),
}


def verb_tools(office: Office, role: Role, agent: str) -> list[Tool]:
    """The verbs that ``role`` may use: all with ``may_spawn``, else those among its ``tools``."""
    leads = bool(role.may_spawn) and not role.plans
    wanted = VERBS if leads else [name for name in role.tools if name in VERBS]
    return [_tool(name, _BY_NAME[name], office, role, agent) for name in wanted]


def _tool(name: str, verb: Verb, office: Office, role: Role, agent: str) -> Tool:
    properties = dict(verb.arguments)
    if "role" in properties:
        may = [office.crew.roles[one] for one in role.may_spawn]
        known = "; ".join(f"{one.name}: {what_it_does(one)}" for one in may)
        properties["role"] = TEXT | {"enum": list(role.may_spawn), "description": known}
    return Tool(
        name=name,
        description=verb.description,
        parameters={
            "type": "object",
            "properties": properties,
            "required": [] if verb.optional else list(properties),
            "additionalProperties": False,
        },
        call=partial(verb.act, office, agent),
        expected_ms=CHILD_MS if name == WAIT_TOOL else 1,
        timeout_s=math.inf,  # the session's own limit pauses what waits
        volatile=True,
        idempotent=True,  # each is done once per key, which is the call's place in the conversation
    )
