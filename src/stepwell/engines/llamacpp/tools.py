"""Tool calls in plain text: how a model is told to write them, and how they are read back.

The convention is Hermes' (also Qwen's and many others'): one ``<tool_call>`` element per call with a
JSON object in it. Llama 3 writes the bare object instead; both are understood.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

ToolCall = dict[str, Any]

_CALL = re.compile(r"<tool_call>\s*(.*?)\s*</tool_call>", re.DOTALL)
_UNCLOSED = re.compile(r"<tool_call>\s*(.*)\Z", re.DOTALL)


def instruction(tools: Sequence[dict[str, Any]]) -> str:
    """What the system message says when the template itself does not speak of tools."""
    signatures = "\n".join(json.dumps(tool, ensure_ascii=False) for tool in tools)
    return (
        "You may call one or more functions to help with the user's request. "
        "You are given their signatures within <tools></tools>:\n"
        f"<tools>\n{signatures}\n</tools>\n"
        "For each call, write a JSON object with the function's name and arguments within "
        "<tool_call></tool_call>:\n"
        '<tool_call>\n{"name": <function name>, "arguments": <JSON object>}\n</tool_call>'
    )


def call_as_text(function: dict[str, Any]) -> str:
    """A call from an earlier turn, as the model would have written it."""
    call = {"name": function.get("name"), "arguments": function.get("arguments")}
    return f"<tool_call>\n{json.dumps(call, ensure_ascii=False)}\n</tool_call>"


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
