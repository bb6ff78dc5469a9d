"""The turns of an agent: what it does next follows from how its conversation ends.

One that was stopped anywhere goes on by looking at its messages: calls that have no answer are carried out, a
question is asked, an answer ends the task. A ``Desk`` is all that an agent has of the session around it.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import replace
from typing import Any, Protocol

from stepwell.agents import events, schemas
from stepwell.agents.agent import WAIT_TOOL, Agent
from stepwell.agents.calls import (
    LAST_TURN,
    REPEATED,
    UNKNOWN,
    WantedCall,
    calls_in,
    first_result,
    is_last_turn,
    last_results,
    only_repeats,
    result_message,
    turn_before,
)
from stepwell.agents.client import Client, TurnRefused
from stepwell.agents.crews.definition import Crew, Role
from stepwell.agents.request import REPAIR, answer_schema, body_of, pointed_at
from stepwell.agents.servers import Servers
from stepwell.agents.state import REFUSED, TURN_LIMIT, Message, Outcome, SessionFile, Task
from stepwell.agents.tools.base import Tool, run_tool

MAX_LETTER_CHARS = 8_000
MAX_FOUND_CHARS = 1_500


class Desk(Protocol):
    """What the turns of an agent need: a server, a place to write down, limits, and an observer."""

    calling: dict[str, str]
    """Per agent, the key of the call that it is in."""

    @property
    def crew(self) -> Crew: ...
    @property
    def client(self) -> Client | Servers: ...
    @property
    def store(self) -> SessionFile: ...
    @property
    def tell(self) -> events.Stream: ...
    @property
    def end_tokens(self) -> Mapping[str, Sequence[int]]: ...
    def require_open(self) -> None: ...
    def turn_of(self, agent: str) -> AbstractContextManager[None]: ...
    def append(self, agent: Agent, *messages: Message) -> None: ...
    def count(self, task: Task, usage: events.TurnUsage) -> None: ...
    async def hint(self, agent: Agent, hint: Mapping[str, Any]) -> None: ...
    async def narrow(self, agent: Agent) -> None: ...
    async def finish(self, role: Role, answer: str) -> str: ...


async def work(agent: Agent, desk: Desk) -> Outcome:
    """Take steps until the task has an outcome, which is not committed yet."""
    while True:
        if agent.role.narrow and agent.narrowed[0] != agent.task.key:
            await desk.narrow(agent)
        step = _react if agent.messages[-1]["role"] == "assistant" else _turn
        outcome = await step(agent, desk)
        if outcome is not None:
            return outcome


# --- turns ---------------------------------------------------------------------------------------


async def _turn(agent: Agent, desk: Desk) -> Outcome | None:
    """Ask the model; its answer is committed with what it took."""
    most = agent.most_turns(desk.crew.limits)
    if agent.task.turns >= most:
        return Outcome(TURN_LIMIT, f"{agent.id} has had its {most} turns and no answer")
    desk.require_open()
    _open_letters(agent, desk)
    began_us = events.now_us()
    agent.said = _hint_with_turn(agent)
    number = agent.turns + 1
    body = body_of(agent, desk.client.seed, desk.end_tokens)
    request = {key: value for key, value in body.items() if key not in ("messages", "model")}
    desk.tell(events.TurnBegan(agent.id, number, agent.caller.model, request))

    def retry(why: str, wait_ms: int) -> None:
        desk.tell(events.Retried(agent.id, why, wait_ms))

    with desk.turn_of(agent.id):
        try:
            reply = await desk.client.chat(body, agent.caller, agent.said, retry)
        except TurnRefused as error:
            return Outcome(REFUSED, f"the server refused the turn of {agent.id}: {error}")
        usage = replace(reply.usage, cut=reply.cut)
        with desk.store.transaction():
            desk.append(agent, reply.message)
            desk.store.add_turn(agent.id, number, agent.task.key, usage)
    desk.count(agent.task, usage)
    took_us = events.now_us() - began_us
    desk.tell(events.TurnEnded(agent.id, number, usage, took_us, reply.id))
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


def _open_letters(agent: Agent, desk: Desk) -> None:
    letters = desk.store.undelivered(agent.id)
    if not letters:
        return
    text = "\n".join(f"Message from {one['author']}: {one['text'][:MAX_LETTER_CHARS]}" for one in letters)
    with desk.store.transaction():
        desk.append(agent, {"role": "user", "content": text})
        desk.store.deliver(agent.id)


# --- what the model said ---------------------------------------------------------------------------


async def _react(agent: Agent, desk: Desk) -> Outcome | None:
    """To the last message, which is the model's: an answer ends the task, calls are carried out."""
    try:
        said = _understood(agent)
        if isinstance(said, str):
            answer = await desk.finish(agent.role, said) if agent.role.finish else said
            return Outcome("completed", answer)
    except schemas.Invalid as error:
        is_last = is_last_turn(agent.messages)
        return _repeating(agent) if is_last else _send_back(agent, desk, error)
    if is_last_turn(agent.messages):
        return _repeating(agent)
    await _carry_out(agent, desk, said)
    return None


def _send_back(agent: Agent, desk: Desk, error: schemas.Invalid) -> Outcome | None:
    """An answer that cannot be used; once."""
    if agent.messages[-2]["content"].startswith(REPAIR):
        text = f"{agent.id} gave no valid answer, and none when asked again: {error}"
        return Outcome("invalid_output", text)
    text = f"{REPAIR}{error}. Answer again, as you were asked."
    desk.append(agent, {"role": "user", "content": text})
    return None


def _repeating(agent: Agent) -> Outcome:
    """An agent that makes calls when it can only answer; what it found is worth more than that it failed."""
    found = last_results(agent.messages)[:MAX_FOUND_CHARS]
    text = f"{agent.id} made the same calls again and again in place of an answer; they gave: {found}"
    return Outcome("repeated_call", text)


def _understood(agent: Agent) -> list[WantedCall] | str:
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
            return [WantedCall(at, 0, value["action"], json.dumps(value["arguments"]))]
        value = value[schemas.ANSWER]
    if offered := pointed_at(agent):
        return str(offered[value - 1])
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


# --- calls ---------------------------------------------------------------------------------------


async def _carry_out(agent: Agent, desk: Desk, calls: Sequence[WantedCall]) -> None:
    """All calls of one turn; their answers are committed together."""
    await desk.hint(agent, _hint_of(calls, agent.tools))
    results: dict[WantedCall, str] = {}
    for call in calls:
        results[call] = await _answered(agent, desk, call, results)
    told = [result_message(call, text) for call, text in results.items()]
    if only_repeats(list(results.values())) and only_repeats(turn_before(agent.messages, calls[0].at)):
        told.append({"role": "user", "content": LAST_TURN})
    desk.append(agent, *told)


async def _answered(agent: Agent, desk: Desk, call: WantedCall, before: Mapping[WantedCall, str]) -> str:
    """The result of a call; one that was made before, in this turn or an earlier one, has the same."""
    tool = agent.tools.get(call.tool)
    if tool is None or not tool.volatile:
        same = next((text for one, text in before.items() if one.sameness == call.sameness), None)
        known = same if same is not None else first_result(agent.messages, call)
        if known is not None:
            return f"{REPEATED}{known.removeprefix(REPEATED)}"
    return await _call(agent, desk, call)


def _hint_of(calls: Sequence[WantedCall], tools: Mapping[str, Tool]) -> dict[str, Any]:
    if any(call.tool == WAIT_TOOL for call in calls):
        return {"next": "child"}
    expected_ms = sum(tools[call.tool].expected_ms for call in calls if call.tool in tools)
    return {"next": "tool", "expected_ms": max(expected_ms, 1), "tool": calls[-1].tool}


async def _call(agent: Agent, desk: Desk, call: WantedCall) -> str:
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
    first = desk.store.begin_call(agent.id, call.at, call.place, tool.name)
    if not first and not tool.idempotent:
        return UNKNOWN
    desk.tell(events.CallBegan(agent.id, tool.name, arguments))
    began_us = events.now_us()
    desk.calling[agent.id] = f"{agent.id}#{call.at}.{call.place}"
    result = await run_tool(tool, arguments)
    took_us = events.now_us() - began_us
    desk.tell(events.CallEnded(agent.id, tool.name, took_us, result.ok, result.text))
    return result.text
