"""Tool calls in plain text: how a model is told to write them, and how they are read back.

The convention is Hermes' (also Qwen's and many others'): one ``<tool_call>`` element per call with a
JSON object in it. Llama 3 writes the bare object instead; both are understood.
"""

from __future__ import annotations

import json
import re
from typing import Any

from stepwell.engines.llamacpp.chat.written import call_as_text, instruction

__all__ = ["call_as_text", "instruction", "parse_tool_calls"]

ToolCall = dict[str, Any]

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_UNCLOSED = re.compile(r"<tool_call>\s*(.*)\Z", re.DOTALL)


def parse_tool_calls(text: str) -> tuple[str, list[ToolCall]]:
    """Split a finished answer into content and calls. What cannot be read as a call stays content."""
    bare = _calls_in(text)
    if bare:
        return "", bare
    calls: list[ToolCall] = []

    def take(match: re.Match[str]) -> str:
        found = _calls_in(match.group(1))
        calls.extend(found)
        return "" if found else match.group(0)

    rest = _CALL.sub(take, text)
    # A small model often stops before it closes the element; the object is whole all the same.
    rest = _UNCLOSED.sub(take, rest)
    return (rest.strip() if calls else text), calls


def _calls_in(text: str) -> list[ToolCall]:
    """The calls that this text is, if it is nothing but calls (an object, or a list of them)."""
    try:
        value = json.loads(text.strip().removeprefix("<|python_tag|>"))
    except (ValueError, RecursionError):
        return []
    calls = [_call_of(item) for item in (value if isinstance(value, list) else [value])]
    return [call for call in calls if call is not None] if all(calls) else []


def _call_of(value: Any) -> ToolCall | None:
    if not isinstance(value, dict) or not isinstance(value.get("name"), str) or not value["name"]:
        return None
    if "arguments" not in value and "parameters" not in value:
        return None
    arguments = value.get("arguments", value.get("parameters"))
    if isinstance(arguments, str):
        return {"name": value["name"], "arguments": arguments}
    return {"name": value["name"], "arguments": json.dumps(arguments, ensure_ascii=False)}
