"""Messages in one shape, whatever a client sent: text content, known roles, arguments as objects."""

from __future__ import annotations

import json
from typing import Any

Message = dict[str, Any]

_ROLES = {"developer": "system", "function": "tool"}
_TEXT_KEYS = ("text", "refusal")


def normalized(message: Message) -> Message:
    """Raises ``ValueError`` for content that is no text."""
    flat = {key: value for key, value in message.items() if value is not None}
    flat["role"] = _ROLES.get(str(flat.get("role")), flat.get("role"))
    flat["content"] = _text(flat.get("content"))
    calls = flat.pop("tool_calls", None)
    if calls:
        flat["tool_calls"] = [_call(call, number) for number, call in enumerate(calls)]
    return flat


def _text(content: Any) -> str:
    if content is None:
        return ""
    if isinstance(content, str):
        return content
    if not isinstance(content, list):
        raise ValueError("a message's content must be text or a list of text parts")
    return "".join(_part(part) for part in content)


def _part(part: Any) -> str:
    if isinstance(part, str):
        return part
    if isinstance(part, dict):
        for key in _TEXT_KEYS:
            if isinstance(part.get(key), str):
                return str(part[key])
        kind = str(part.get("type"))[:64]
        raise ValueError(f"this model is served as text only, and a message has a part of type '{kind}'")
    raise ValueError("a content part must be an object with a type")


def _call(call: dict[str, Any], number: int) -> dict[str, Any]:
    """OpenAI sends arguments as JSON text; templates write them with ``tojson`` and want the object."""
    function = dict(call.get("function") or {})
    function["arguments"] = arguments_object(function.get("arguments"))
    return {**call, "id": call.get("id") or f"call_{number}", "type": "function", "function": function}


def arguments_object(arguments: Any) -> dict[str, Any]:
    """Arguments as an object. What was cut off or never was one is wrapped, so that nothing is lost."""
    if isinstance(arguments, dict):
        return arguments
    if arguments is None or arguments == "":
        return {}
    try:
        value = json.loads(arguments) if isinstance(arguments, str) else arguments
    except (ValueError, RecursionError):
        return {"arguments": arguments}
    return value if isinstance(value, dict) else {"arguments": value}
