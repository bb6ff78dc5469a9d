"""What can be done to a conversation that a template refuses, or of which it would lose a part.

Each repair changes the form and keeps the words: ids are rewritten, calls split over turns, roles
merged, the system message folded into the first user turn, arguments written as text, calls and results
written as words. ``template`` finds out which of them a template needs.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Sequence
from typing import Any

from stepwell.engines.llamacpp.chat.messages import Message
from stepwell.engines.llamacpp.chat.written import instruction, written_calls

Repair = Callable[[list[Message]], list[Message]]

_SHORT_ID = re.compile(r"[a-zA-Z0-9]{9}")
_ID_ALPHABET = "0123456789abcdefghijklmnopqrstuvwxyz"
_PARAGRAPH = "\n\n"


def text_arguments(messages: list[Message]) -> list[Message]:
    """Arguments as JSON text, for templates that concatenate them."""

    def written(call: dict[str, Any]) -> dict[str, Any]:
        function = call["function"]
        if isinstance(function["arguments"], str):
            return call
        text = json.dumps(function["arguments"], ensure_ascii=False)
        return {**call, "function": {**function, "arguments": text}}

    return [_with_calls(message, written) for message in messages]


def short_ids(messages: list[Message]) -> list[Message]:
    """Ids of nine letters and digits, which is all that Mistral's templates take."""
    renamed = [
        _with_calls(message, lambda call: {**call, "id": short_id(call["id"])}) for message in messages
    ]
    return [
        {**message, "tool_call_id": short_id(str(message.get("tool_call_id", "")))}
        if message["role"] == "tool"
        else message
        for message in renamed
    ]


def short_id(call_id: str) -> str:
    """The same id always becomes the same nine characters."""
    if _SHORT_ID.fullmatch(call_id):
        return call_id
    number = int.from_bytes(hashlib.sha256(call_id.encode("utf-8", "replace")).digest()[:8], "big")
    letters = []
    for _ in range(9):
        number, digit = divmod(number, len(_ID_ALPHABET))
        letters.append(_ID_ALPHABET[digit])
    return "".join(letters)


def one_call_a_turn(messages: list[Message]) -> list[Message]:
    """Parallel calls one after the other, each followed by its own result."""
    turns: list[Message] = []
    at = 0
    while at < len(messages):
        message = messages[at]
        at += 1
        calls = message.get("tool_calls") or ()
        if len(calls) < 2:
            turns.append(message)
            continue
        results: list[Message] = []
        while at < len(messages) and messages[at]["role"] == "tool":
            results.append(messages[at])
            at += 1
        turns += _apart(message, results)
    return turns


def _apart(message: Message, results: list[Message]) -> list[Message]:
    turns, left = [], list(results)
    for number, call in enumerate(message["tool_calls"]):
        own = [result for result in left if result.get("tool_call_id") == call["id"]]
        left = [result for result in left if result.get("tool_call_id") != call["id"]]
        content = message["content"] if number == 0 else ""
        turns += [{**message, "content": content, "tool_calls": [call]}, *own]
    return [*turns, *left]


def named_results(messages: list[Message]) -> list[Message]:
    """Every result with the name of the function it comes from."""
    names: dict[str, str] = {}
    turns = []
    for message in messages:
        names.update({call["id"]: call["function"]["name"] for call in message.get("tool_calls") or ()})
        named = message["role"] == "tool" and "name" not in message
        name = names.get(message.get("tool_call_id", ""), "tool")
        turns.append({**message, "name": name} if named else message)
    return turns


def text_before_calls(messages: list[Message]) -> list[Message]:
    """What was said beside a call as a message of its own, for templates that drop it."""
    turns: list[Message] = []
    for message in messages:
        if message.get("tool_calls") and message["content"].strip():
            turns += [{"role": "assistant", "content": message["content"]}, {**message, "content": ""}]
        else:
            turns.append(message)
    return turns


def without_empty(messages: list[Message]) -> list[Message]:
    """Without assistant turns that say nothing and call nothing."""
    return [
        message
        for message in messages
        if message["role"] != "assistant" or message["content"].strip() or message.get("tool_calls")
    ]


def merged_roles(messages: list[Message]) -> list[Message]:
    """Neighbours of one role as one message, for templates that want roles to alternate."""
    turns: list[Message] = []
    for message in messages:
        last = turns[-1] if turns else None
        if last is None or last["role"] != message["role"] or message["role"] not in ("user", "assistant"):
            turns.append(message)
            continue
        joined = {**last, **message, "content": _joined(last["content"], message["content"])}
        calls = [*last.get("tool_calls", ()), *message.get("tool_calls", ())]
        turns[-1] = {**joined, "tool_calls": calls} if calls else joined
    return turns


def late_system_as_user(messages: list[Message]) -> list[Message]:
    """System messages after the first place, as words of the user."""
    return [
        {**message, "role": "user"} if number and message["role"] == "system" else message
        for number, message in enumerate(messages)
    ]


def folded_system(messages: list[Message]) -> list[Message]:
    """System messages at the head of the user message that follows."""
    turns: list[Message] = []
    waiting: list[str] = []
    for message in messages:
        if message["role"] == "system":
            waiting.append(message["content"])
        elif waiting and message["role"] == "user":
            turns.append({**message, "content": _joined(*waiting, message["content"])})
            waiting = []
        elif waiting:
            turns += [{"role": "user", "content": _joined(*waiting)}, message]
            waiting = []
        else:
            turns.append(message)
    return [*turns, {"role": "user", "content": _joined(*waiting)}] if waiting else turns


def user_first(messages: list[Message]) -> list[Message]:
    """A user turn at the beginning, for templates that cannot begin without one."""
    first = 1 if messages and messages[0]["role"] == "system" else 0
    if any(message["role"] == "user" for message in messages[: first + 1]):
        return messages
    return [*messages[:first], {"role": "user", "content": "."}, *messages[first:]]


def in_words(messages: Sequence[Message], template: str) -> list[Message]:
    """Calls and results as plain words, the calls in the syntax that ``template`` shows."""
    return [_as_words(message, template) for message in messages]


def _as_words(message: Message, template: str) -> Message:
    if message["role"] == "tool":
        return {"role": "user", "content": f"<tool_response>\n{message['content']}\n</tool_response>"}
    return calls_in_words(message, template)


def calls_in_words(message: Message, template: str) -> Message:
    """The calls of a message as the end of its text."""
    calls = message.get("tool_calls")
    if not calls:
        return message
    written = written_calls([call["function"] for call in calls], template)
    rest = {key: value for key, value in message.items() if key != "tool_calls"}
    return {**rest, "content": "\n".join(text for text in (message["content"], written) if text)}


def told(messages: Sequence[Message], tools: Sequence[dict[str, Any]] | None) -> list[Message]:
    """The tools explained in the system message, for a template that knows nothing of tools."""
    if not tools:
        return list(messages)
    words = instruction(tools)
    if messages and messages[0]["role"] == "system":
        first = {**messages[0], "content": _joined(messages[0]["content"], words)}
        return [first, *messages[1:]]
    return [{"role": "system", "content": words}, *messages]


def _with_calls(message: Message, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Message:
    calls = message.get("tool_calls")
    return {**message, "tool_calls": [change(call) for call in calls]} if calls else message


def _joined(*texts: str) -> str:
    return _PARAGRAPH.join(text for text in texts if text)
