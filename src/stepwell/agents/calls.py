"""Calls of tools as they stand in a conversation: what was asked for, what came of it, and what is a repeat.

Small models make the same call for ever. A call that was made before is answered from its first result, and
a second turn of nothing but repeats leads to the agent's last turn, in which it can only answer. All of it is
read from the messages, so an agent that was stopped anywhere goes on alike.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from stepwell.agents.schemas import ANSWER
from stepwell.agents.state import Message
from stepwell.agents.tools.base import MAY_RETRY

REPEATED = "You have made this very call before. Its result is the same: "
LAST_TURN = "You are repeating yourself. Answer now, with what you know."
UNKNOWN = (
    "The outcome of this call is not known: the program was stopped while it ran. It may have taken effect."
)


@dataclass(frozen=True, slots=True)
class WantedCall:
    """A tool that the model wants called: the ``place``-th call of the message ``at`` in the conversation."""

    at: int
    place: int
    tool: str
    arguments: str
    """As JSON."""
    id: str | None = None
    """The API's id; None under ``calls = "schema"``."""

    @property
    def sameness(self) -> tuple[str, str]:
        """Equal for calls that ask for the same, however their JSON is laid out."""
        try:
            return self.tool, json.dumps(json.loads(self.arguments or "{}", strict=False), sort_keys=True)
        except (ValueError, RecursionError):
            return self.tool, self.arguments


def calls_in(messages: Sequence[Message], at: int) -> list[WantedCall]:
    """Those of the model's message at ``at``; empty where it answers, or says nothing of use."""
    message = messages[at]
    if message["role"] != "assistant":
        return []
    if made := message.get("tool_calls"):
        return [
            WantedCall(at, place, one["function"]["name"], one["function"]["arguments"], one["id"])
            for place, one in enumerate(made)
        ]
    try:
        value = json.loads(message["content"], strict=False)
        is_call = isinstance(value, Mapping) and value["action"] != ANSWER
        return [WantedCall(at, 0, value["action"], json.dumps(value["arguments"]))] if is_call else []
    except (ValueError, KeyError, TypeError, RecursionError):
        return []


def result_message(call: WantedCall, text: str) -> Message:
    """What the model reads of a call."""
    if call.id is None:
        return {"role": "user", "content": f"Result of {call.tool}: {text}"}
    return {"role": "tool", "tool_call_id": call.id, "content": text}


def result_in(messages: Sequence[Message], call: WantedCall) -> str | None:
    """What the model was told of a call; None: nothing yet. Results stand right after their turn."""
    if call.at + 1 + call.place >= len(messages):
        return None
    message = messages[call.at + 1 + call.place]
    if call.id is None:
        prefix = f"Result of {call.tool}: "
        text = str(message["content"])
        return text.removeprefix(prefix) if text.startswith(prefix) else None
    return str(message["content"]) if message.get("tool_call_id") == call.id else None


def first_result(messages: Sequence[Message], call: WantedCall) -> str | None:
    """The result that answers a call made before; None: it is to be made.

    One whose result was that it may be tried again, or is not known, may be made once more.
    """
    earlier = [
        result
        for at in range(call.at)
        for one in calls_in(messages, at)
        if one.sameness == call.sameness and (result := result_in(messages, one)) is not None
    ]
    own = [result for result in earlier if not result.startswith(REPEATED)]
    if len(own) == 1 and (own[0] == UNKNOWN or own[0].endswith(MAY_RETRY)):
        return None
    return own[-1] if own else None


def only_repeats(results: Sequence[str]) -> bool:
    """Whether a turn with these results brought nothing new."""
    return bool(results) and all(result.startswith(REPEATED) for result in results)


def turn_before(messages: Sequence[Message], at: int) -> list[str]:
    """The results of the turn before the one at ``at``."""
    before = next((one for one in range(at - 1, -1, -1) if messages[one]["role"] == "assistant"), None)
    made = [] if before is None else calls_in(messages, before)
    return [result for call in made if (result := result_in(messages, call)) is not None]


def is_last_turn(messages: Sequence[Message]) -> bool:
    """Whether the turn that comes, or has just come, is the one in which the agent can only answer."""
    asked = messages[:-1] if messages and messages[-1]["role"] == "assistant" else messages
    return bool(asked) and asked[-1]["role"] == "user" and asked[-1]["content"] == LAST_TURN


def last_results(messages: Sequence[Message]) -> str:
    """What the latest calls came to, without the note that they were repeats."""
    for at in range(len(messages) - 1, -1, -1):
        found = [result_in(messages, call) for call in calls_in(messages, at)]
        if known := [one.removeprefix(REPEATED) for one in found if one is not None]:
            return "\n".join(known)
    return ""
