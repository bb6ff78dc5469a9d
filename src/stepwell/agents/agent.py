"""One agent: a conversation that only grows, and the next step that follows from how it ends.

What an agent does next depends on its messages alone, so that one that was stopped anywhere goes on by
looking at them: calls that have no answer are carried out, a question is asked, an answer ends the task.
Earlier messages never change, so the server finds their KV again.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from stepwell.agents import events, schemas
from stepwell.agents.calls import (
    LAST_TURN,
    REPEATED,
    UNKNOWN,
    Call,
    calls_in,
    first_result,
    is_last_turn,
    last_results,
    only_repeats,
    result_message,
    turn_before,
)
from stepwell.agents.client import Caller, TurnRefused
from stepwell.agents.crews.definition import Limits, Role
from stepwell.agents.request import REPAIR, answer_schema, body_of, pointed_at
from stepwell.agents.state import REFUSED, TURN_LIMIT, AgentRow, Message, Outcome, Task
from stepwell.agents.tools.base import Tool, run_tool

if TYPE_CHECKING:
    from stepwell.agents.session import Session

WAIT_TOOL = "wait_agent"
VERBS = ("spawn_agent", "send_message", WAIT_TOOL, "interrupt_agent", "list_agents", "followup_task")
MAX_LETTER_CHARS = 8_000
MAX_FOUND_CHARS = 1_500


@dataclass(slots=True)
class Agent:
    """An agent as the session keeps it."""

    row: AgentRow
    role: Role
    tools: Mapping[str, Tool]
    caller: Caller
    messages: list[Message] = field(default_factory=list)
    tasks: list[Task] = field(default_factory=list)
    may_return: bool = True
    """Whether another task may follow; False tells the server that it is done when it has answered."""
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

    def most_turns(self, limits: Limits) -> int:
        """Of one task."""
        return self.role.max_turns or limits.turns_per_agent

    @property
    def turns(self) -> int:
        return sum(task.turns for task in self.tasks)


async def work(agent: Agent, session: Session) -> Outcome:
    """Take steps until the task has an outcome, which is not committed yet."""
    while True:
        step = _react if agent.messages[-1]["role"] == "assistant" else _turn
        outcome = await step(agent, session)
        if outcome is not None:
            return outcome


# --- turns ---------------------------------------------------------------------------------------


async def _turn(agent: Agent, session: Session) -> Outcome | None:
    """Ask the model; its answer is committed with what it took."""
    most = agent.most_turns(session.crew.limits)
    if agent.task.turns >= most:
        return Outcome(TURN_LIMIT, f"{agent.id} has had its {most} turns and no answer")
    session.require_open()
    _open_letters(agent, session)
    began_us = events.now_us()
    agent.said = _hint_with_turn(agent)
    number = agent.turns + 1
    body = body_of(agent, session)
    request = {key: value for key, value in body.items() if key not in ("messages", "model")}
    session.tell(events.TurnBegan(agent.id, number, agent.caller.model, request))

    def retry(why: str, wait_ms: int) -> None:
        session.tell(events.Retried(agent.id, why, wait_ms))

    with session.turn_of(agent.id):
        try:
            reply = await session.client.chat(body, agent.caller, agent.said, retry)
        except TurnRefused as error:
            return Outcome(REFUSED, f"the server refused the turn of {agent.id}: {error}")
        usage = replace(reply.usage, cut=reply.cut)
        with session.store.transaction():
            session.append(agent, reply.message)
            session.store.add_turn(agent.id, number, agent.task.key, usage)
    session.count(agent.task, usage)
    took_us = events.now_us() - began_us
    session.tell(events.TurnEnded(agent.id, number, usage, took_us, reply.id))
    return None


def _hint_with_turn(agent: Agent) -> dict[str, Any] | None:
    """What it will most likely wait for once it has answered.

    The entry may answer the person, so it keeps still.
    """
    if agent.row.parent is None or not agent.tools:
        return hint_after_task(agent)
    return {"next": "tool", "expected_ms": max(tool.expected_ms for tool in agent.tools.values())}


def hint_after_task(agent: Agent) -> dict[str, Any] | None:
    """What it waits for once its task has an outcome."""
    if agent.row.parent is None:
        return {"next": "child"} if agent.role.plans else None
    return {"next": "agent", "after_agent": agent.row.parent} if agent.may_return else {"next": "done"}


def _open_letters(agent: Agent, session: Session) -> None:
    letters = session.store.undelivered(agent.id)
    if not letters:
        return
    text = "\n".join(f"Message from {one['author']}: {one['text'][:MAX_LETTER_CHARS]}" for one in letters)
    with session.store.transaction():
        session.append(agent, {"role": "user", "content": text})
        session.store.deliver(agent.id)


# --- what the model said ---------------------------------------------------------------------------


async def _react(agent: Agent, session: Session) -> Outcome | None:
    """To the last message, which is the model's: an answer ends the task, calls are carried out."""
    try:
        said = _understood(agent)
        if isinstance(said, str):
            answer = await session.finish(agent.role, said) if agent.role.finish else said
            return Outcome("completed", answer)
    except schemas.Invalid as error:
        is_last = is_last_turn(agent.messages)
        return _repeating(agent) if is_last else _send_back(agent, session, error)
    if is_last_turn(agent.messages):
        return _repeating(agent)
    await _carry_out(agent, session, said)
    return None


def _send_back(agent: Agent, session: Session, error: schemas.Invalid) -> Outcome | None:
    """An answer that cannot be used; once."""
    if agent.messages[-2]["content"].startswith(REPAIR):
        text = f"{agent.id} gave no valid answer, and none when asked again: {error}"
        return Outcome("invalid_output", text)
    text = f"{REPAIR}{error}. Answer again, as you were asked."
    session.append(agent, {"role": "user", "content": text})
    return None


def _repeating(agent: Agent) -> Outcome:
    """An agent that makes calls when it can only answer; what it found is worth more than that it failed."""
    found = last_results(agent.messages)[:MAX_FOUND_CHARS]
    text = f"{agent.id} made the same calls again and again in place of an answer; they gave: {found}"
    return Outcome("repeated_call", text)


def _understood(agent: Agent) -> list[Call] | str:
    """Calls to make, or the answer. Raises ``Invalid``."""
    at = len(agent.messages) - 1
    message = agent.messages[at]
    if message.get("tool_calls"):
        return calls_in(agent.messages, at)
    text, schema = message["content"], answer_schema(agent)
    if schema is None:
        if not text.strip():
            raise schemas.Invalid("it is empty")
        return str(text.strip())
    value = schemas.read_json(text, schema)
    if agent.calls_by_schema:
        if value["action"] != schemas.ANSWER:
            return [Call(at, 0, value["action"], json.dumps(value["arguments"]))]
        value = value[schemas.ANSWER]
    if offered := pointed_at(agent):
        return str(offered[value - 1])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- calls ---------------------------------------------------------------------------------------


async def _carry_out(agent: Agent, session: Session, calls: Sequence[Call]) -> None:
    """All calls of one turn; their answers are committed together."""
    await session.hint(agent, _hint_of(calls, agent.tools))
    results: dict[Call, str] = {}
    for call in calls:
        results[call] = await _answered(agent, session, call, results)
    told = [result_message(call, text) for call, text in results.items()]
    if only_repeats(list(results.values())) and only_repeats(turn_before(agent.messages, calls[0].at)):
        told.append({"role": "user", "content": LAST_TURN})
    session.append(agent, *told)


async def _answered(agent: Agent, session: Session, call: Call, before: Mapping[Call, str]) -> str:
    """The result of a call; one that was made before, in this turn or an earlier one, has the same."""
    tool = agent.tools.get(call.tool)
    if tool is None or not tool.volatile:
        same = next((text for one, text in before.items() if one.sameness == call.sameness), None)
        known = same if same is not None else first_result(agent.messages, call)
        if known is not None:
            return f"{REPEATED}{known.removeprefix(REPEATED)}"
    return await _call(agent, session, call)


def _hint_of(calls: Sequence[Call], tools: Mapping[str, Tool]) -> dict[str, Any]:
    if any(call.tool == WAIT_TOOL for call in calls):
        return {"next": "child"}
    expected_ms = sum(tools[call.tool].expected_ms for call in calls if call.tool in tools)
    return {"next": "tool", "expected_ms": max(expected_ms, 1)}


async def _call(agent: Agent, session: Session, call: Call) -> str:
    """One call; whatever happens is a text for the model."""
    tool = agent.tools.get(call.tool)
    if tool is None:
        return f"There is no tool {call.tool!r}: there are {', '.join(agent.tools) or 'none'}."
    try:
        arguments = schemas.read_json(call.arguments, tool.parameters)
    except schemas.Invalid as error:
        return f"The arguments of {tool.name} are not valid: {error}."
    if not isinstance(arguments, dict):
        return f"The arguments of {tool.name} are not an object."
    first = session.store.begin_call(agent.id, call.at, call.place, tool.name)
    if not first and not tool.idempotent:
        return UNKNOWN
    session.tell(events.CallBegan(agent.id, tool.name, arguments))
    began_us = events.now_us()
    session.calling[agent.id] = f"{agent.id}#{call.at}.{call.place}"
    result = await run_tool(tool, arguments)
    took_us = events.now_us() - began_us
    session.tell(events.CallEnded(agent.id, tool.name, took_us, result.ok, result.text))
    return result.text
