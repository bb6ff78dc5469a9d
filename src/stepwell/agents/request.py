"""What a turn asks of the model: its request, from the agent's messages, its task and its role alone.

Accuracy is measured by these very bytes, and answers are remembered by them: a change here
makes a published figure untrue.
"""

from __future__ import annotations

import random
import zlib
from collections.abc import Mapping, Sequence
from typing import Any

from stepwell.agents import schemas
from stepwell.agents.agent import Agent
from stepwell.agents.calls import is_last_turn
from stepwell.agents.crews.definition import Example, Role
from stepwell.agents.penalty import Terms
from stepwell.agents.pointing import MOST_TOKENS, pointing_schema, sentences_in
from stepwell.agents.state import Message

Part = Mapping[str, Any]
"""Of a message's content, as the API has them."""
REPAIR = "That cannot be used: "
SAMPLE = "~"
"""Between the key of a step and the number of the answer to it, from the second on."""
SPREAD_TEMPERATURE = 0.7
"""Of all answers to a step but the first, where nothing else makes them differ."""


def body_of(agent: Agent, seed: int, end_tokens: Mapping[str, Sequence[int]]) -> dict[str, Any]:
    """Of the agent's next turn. ``end_tokens``: per model, what ends an answer, where that is known."""
    role, task, tools = agent.role, agent.task, list(agent.tools.values())
    terms = task.terms or Terms()
    body: dict[str, Any] = {
        "model": agent.caller.model,
        "messages": wire(agent.messages),
        "max_tokens": _max_tokens(agent),
        "temperature": _temperature(agent),
        # Of the task and not of the agent: names of agents may depend on which was first.
        "seed": zlib.crc32(f"{seed}/{task.key}/{task.turns}".encode()),
    }
    if role.stop:
        body["stop"] = list(role.stop)
    if terms.eos_bias and (ends := end_tokens.get(agent.caller.model)):
        body["logit_bias"] = {str(token): terms.eos_bias for token in ends}
    if tools and role.calls == "tools":
        body["tools"] = [
            {
                "type": "function",
                "function": {"name": t.name, "description": t.description, "parameters": t.parameters},
            }
            for t in tools
        ]
        if is_last_turn(agent.messages):
            body["tool_choice"] = "none"
    elif schema := answer_schema(agent):
        body["response_format"] = {
            "type": "json_schema",
            "json_schema": {"name": role.name, "schema": schema},
        }
    return body


def _max_tokens(agent: Agent) -> int:
    terms = agent.task.terms
    if pointed_at(agent):
        return MOST_TOKENS  # a number, whatever the role may say elsewhere
    return (terms and terms.max_tokens) or agent.role.max_tokens


def sample_key(key: str, number: int) -> str:
    """The key of the task that is given to the ``number``-th agent of a step."""
    return f"{key}{SAMPLE}{number}" if number else key


def step_key(key: str) -> str:
    """The key of the step that a task with this key answers."""
    return key.partition(SAMPLE)[0]


def sample_number(key: str) -> int:
    """From 0."""
    return int(key.rpartition(SAMPLE)[2]) if SAMPLE in key else 0


def _temperature(agent: Agent) -> float:
    """Answers to one step differ, by their examples where there are enough, else by chance; and so does an
    answer from the one that was sent back."""
    role = agent.role
    alike = sample_number(agent.task.key) and not 0 < role.shots < len(role.examples)
    again = str(agent.messages[-1].get("content")).startswith(REPAIR)
    return max(role.temperature, SPREAD_TEMPERATURE) if alike or again else role.temperature


def opening(role: Role, key: str, briefed: str, attached: Sequence[Part] = ()) -> list[Message]:
    """What stands before an agent's first task: its briefing, and examples as turns that were.

    What is ``attached`` comes before all else, so that agents of every role have it as their common prefix.
    """
    parts = [*attached, {"type": "text", "text": briefed}]
    told: list[Message] = [{"role": "system", "content": parts if attached else briefed}]
    for example in _shown(role, sample_number(key)):
        told.append({"role": "user", "content": example.ask})
        told.append({"role": "assistant", "content": example.answer})
    return told


def _shown(role: Role, number: int) -> Sequence[Example]:
    """The first ``shots`` examples; other answers to the same step see others, in another order.

    Examples are written in sets of ``shots``, each with one of every kind: for each place one of those that
    stand there in any set is drawn, so that no kind is missing.
    """
    shots = role.shots or len(role.examples)
    if number == 0:
        return role.examples[:shots]
    rng = random.Random(number)
    drawn = [rng.choice(role.examples[place::shots]) for place in range(shots)]
    rng.shuffle(drawn)
    return drawn


def pointed_at(agent: Agent) -> list[str]:
    """The sentences that the agent may answer with; empty where it answers in its own words."""
    if not agent.role.points or agent.tools:
        return []
    return sentences_in(agent.messages, agent.task.text)


def answer_schema(agent: Agent) -> dict[str, Any] | None:
    """What a turn's text has to fit; None: any text."""
    if offered := pointed_at(agent):
        return pointing_schema(offered)
    first = len(agent.tasks) == 1 and agent.role.first_schema
    schema = first or agent.narrowed[1] or agent.role.schema
    if agent.calls_by_schema:
        may_call = [] if is_last_turn(agent.messages) else list(agent.tools.values())
        return schemas.action_schema(may_call, schema, _max_tokens(agent))
    return None if schema is None else dict(schema)


def wire(messages: Sequence[Message]) -> list[Message]:
    """Neighbours of one role as one message: many chat templates insist that roles alternate."""
    joined: list[Message] = []
    for message in messages:
        if joined and message["role"] == joined[-1]["role"] == "user":
            joined[-1] = joined[-1] | {"content": f"{joined[-1]['content']}\n\n{message['content']}"}
        else:
            joined.append(message)
    return joined
