"""Calls as a model would have written them, for templates that drop them; and how a model is told to."""

from __future__ import annotations

import json
from collections.abc import Sequence
from typing import Any

_PYTHONIC = "<|tool_call_start|>"
_WRAPPED_LISTS = (("<|tool_call|>", ""), ("<TOOLCALL>", "</TOOLCALL>"), ("[TOOL_CALLS]", ""))


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
    """One call as Hermes and most others write it."""
    return f"<tool_call>\n{_as_json(function)}\n</tool_call>"


def written_calls(functions: Sequence[dict[str, Any]], template: str) -> str:
    """Calls in the syntax whose marks the template's source shows, else as Hermes writes them."""
    if _PYTHONIC in template or "<|tool_list_start|>" in template:
        return f"{_PYTHONIC}[{', '.join(_pythonic(function) for function in functions)}]<|tool_call_end|>"
    for opening, closing in _WRAPPED_LISTS:
        if opening in template:
            return f"{opening}[{', '.join(_as_json(function) for function in functions)}]{closing}"
    return "\n".join(call_as_text(function) for function in functions)


def _as_json(function: dict[str, Any]) -> str:
    call = {"name": function.get("name"), "arguments": function.get("arguments")}
    return json.dumps(call, ensure_ascii=False)


def _pythonic(function: dict[str, Any]) -> str:
    arguments = function.get("arguments")
    given = arguments if isinstance(arguments, dict) else {"arguments": arguments}
    return f"{function['name']}({', '.join(f'{key}={_literal(value)}' for key, value in given.items())})"


def _literal(value: Any) -> str:
    return json.dumps(value, ensure_ascii=False) if isinstance(value, str) else repr(value)
