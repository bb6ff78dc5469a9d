"""Tool calls in a finished text of any family: how they are read, and how a model is told to write them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from stepwell.engines.llamacpp.chat.reader import MarkReader
from stepwell.engines.llamacpp.chat.written import call_as_text, instruction

__all__ = ["call_as_text", "instruction", "parse_tool_calls"]

ToolCall = dict[str, Any]


def parse_tool_calls(
    text: str, functions: Mapping[str, Mapping[str, Any]] | None = None
) -> tuple[str, list[ToolCall]]:
    """Split a finished answer into content and calls. What cannot be read as a call stays content.

    ``functions``: the parameters' JSON schema of every function on offer, by name; None: any name will do.
    """
    reader = MarkReader(functions)
    calls: list[ToolCall] = []
    content: list[str] = []
    for part in (*reader.add(text), *reader.finish()):
        if part.kind == "call":
            calls.append({"name": part.text, "arguments": ""})
        elif part.kind == "arguments":
            calls[part.call]["arguments"] += part.text
        elif part.kind == "content":
            content.append(part.text)
    return ("".join(content).strip() if calls else text), calls
