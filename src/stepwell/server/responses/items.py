"""Input items of the Responses API: checked, and turned into chat messages."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from typing import Any

from pydantic_core import PydanticCustomError

from stepwell.server.errors import ApiError, bad_request, clip, unsupported
from stepwell.server.generation.document_frame import document_frame
from stepwell.server.stores.items import Item, new_id
from stepwell.server.wire.schema import join_text, no_arguments

_ROLES = {"user": "user", "assistant": "assistant", "system": "system", "developer": "system"}


def input_items(value: str | list[Item], param: str = "input") -> list[Item]:
    """Items in one shape, each with an id. Raises ``ApiError`` with the item's path below ``param``."""
    if isinstance(value, str):
        return [_message({"role": "user", "content": value}, param)]
    return [
        item for number, raw in enumerate(value) if (item := _item(raw, f"{param}[{number}]")) is not None
    ]


def _item(raw: Item, param: str) -> Item | None:
    kind = raw.get("type", "message" if "role" in raw else None)
    match kind:
        case "message":
            return _message(raw, param)
        case "function_call":
            return _function_call(raw, param)
        case "function_call_output" | "custom_tool_call_output":
            return _output(raw, param, kind)
        case "custom_tool_call":
            return _custom_call(raw, param)
        case "reasoning":
            return _reasoning(raw)
        case "file_search_call":
            return _file_search(raw, param)
    raise unsupported(f"Items of type '{clip(str(kind), 64)}' are not supported here.", param=f"{param}.type")


def _message(raw: Item, param: str) -> Item:
    role = raw.get("role")
    if not isinstance(role, str) or role not in _ROLES:
        raise bad_request(f"Expected one of {', '.join(_ROLES)}.", param=f"{param}.role")
    kind = "output_text" if role == "assistant" else "input_text"
    part: Item = {"type": kind, "text": _text(raw.get("content"), f"{param}.content")}
    if role == "assistant":
        part["annotations"] = []
    return {
        "id": _id(raw, "msg"),
        "type": "message",
        "role": role,
        "status": "completed",
        "content": [part],
    }


def _reasoning(raw: Item) -> Item | None:
    """What an earlier turn thought; None where only a sealed form of it was kept."""
    for name in ("content", "summary"):
        parts = raw.get(name)
        listed = parts if isinstance(parts, list) else []
        texts = [part.get("text") for part in listed if isinstance(part, dict)]
        if text := "\n".join(text for text in texts if isinstance(text, str)):
            part = {"type": "reasoning_text", "text": text}
            return {"id": _id(raw, "rs"), "type": "reasoning", "summary": [], "content": [part]}
    return None


def _file_search(raw: Item, param: str) -> Item:
    """What an earlier turn found; without its results it says nothing."""
    results, queries = raw.get("results"), raw.get("queries")
    found = [one for one in (results if isinstance(results, list) else ()) if isinstance(one, dict)]
    return {
        "id": _id(raw, "fs"),
        "type": "file_search_call",
        "status": "completed",
        "queries": [one for one in (queries if isinstance(queries, list) else ()) if isinstance(one, str)],
        "results": [
            {
                "file_id": _string(one, "file_id", f"{param}.results"),
                "filename": _string(one, "filename", f"{param}.results"),
                "score": one.get("score"),
                "text": _string(one, "text", f"{param}.results"),
                "attributes": one.get("attributes") or {},
            }
            for one in found
        ],
    }


def _function_call(raw: Item, param: str) -> Item:
    return {
        "id": _id(raw, "fc"),
        "type": "function_call",
        "status": "completed",
        "call_id": _string(raw, "call_id", param),
        "name": _string(raw, "name", param),
        "arguments": _string({"arguments": no_arguments(raw.get("arguments"))}, "arguments", param),
    }


def _custom_call(raw: Item, param: str) -> Item:
    """A call whose input is plain text, which another model has made: no tool here takes any."""
    return {
        "id": _id(raw, "ctc"),
        "type": "custom_tool_call",
        "status": "completed",
        "call_id": _string(raw, "call_id", param),
        "name": _string(raw, "name", param),
        "input": _string(raw, "input", param),
    }


def _output(raw: Item, param: str, kind: str) -> Item:
    return {
        "id": _id(raw, "fco" if kind == "function_call_output" else "cto"),
        "type": kind,
        "status": "completed",
        "call_id": _string(raw, "call_id", param),
        "output": _text(raw.get("output"), f"{param}.output"),
    }


def _string(raw: Item, name: str, param: str) -> str:
    value = raw.get(name)
    if not isinstance(value, str):
        raise bad_request(f"'{param}.{name}' must be a string.", param=f"{param}.{name}", code="invalid_type")
    return value


def _text(value: object, param: str) -> str:
    try:
        text = join_text(value)
    except PydanticCustomError as error:
        raise _wrong_content(error, param) from None
    if not isinstance(text, str):
        raise bad_request(f"'{param}' must be a string or a list of parts.", param=param, code="invalid_type")
    return text


def _wrong_content(error: PydanticCustomError, param: str) -> ApiError:
    if error.type == "unsupported_part":
        return unsupported(f"{error.message()}.", param=param)
    return bad_request(f"{error.message()}.", param=param)


def _id(raw: Item, prefix: str) -> str:
    own = raw.get("id")
    return own if isinstance(own, str) and 0 < len(own) <= 256 else new_id(prefix)


def as_messages(items: Iterable[Mapping[str, Any]], instructions: str | None = None) -> list[Item]:
    """Items as a chat conversation. Text and calls of one assistant turn become one message, because
    templates put an end-of-turn token between two."""
    messages: list[Item] = []
    if instructions:
        messages.append({"role": "system", "content": instructions})
    thought: list[str] = []
    for item in items:
        if item["type"] == "reasoning":
            thought += [part["text"] for part in item["content"]]
            continue
        if item["type"] == "file_search_call":
            _add_found(messages, item)
        elif item["type"] in ("function_call", "custom_tool_call"):
            _add_call(messages, item)
        elif item["type"] in ("function_call_output", "custom_tool_call_output"):
            messages.append({"role": "tool", "content": item["output"], "tool_call_id": item["call_id"]})
        else:
            text = "\n".join(part["text"] for part in item["content"])
            messages.append({"role": _ROLES[item["role"]], "content": text})
        if thought and messages and messages[-1]["role"] == "assistant":
            messages[-1].setdefault("reasoning_content", "\n".join(thought))
        thought = []
    return messages


def _add_found(messages: list[Item], item: Mapping[str, Any]) -> None:
    """What was found for a question stands before it, in the same message."""
    frames = [document_frame(one["filename"], one["text"]) for one in item["results"]]
    if not frames:
        return
    if not messages or messages[-1]["role"] != "user":
        messages.append({"role": "user", "content": ""})
    question = messages[-1]["content"]
    messages[-1] = {"role": "user", "content": "\n\n".join([*frames, *([question] if question else [])])}


def _add_call(messages: list[Item], item: Mapping[str, Any]) -> None:
    if not messages or messages[-1]["role"] != "assistant":
        messages.append({"role": "assistant", "content": ""})
    custom = item["type"] == "custom_tool_call"
    arguments = json.dumps({"input": item["input"]}, ensure_ascii=False) if custom else item["arguments"]
    messages[-1].setdefault("tool_calls", []).append(
        {
            "id": item["call_id"],
            "type": "function",
            "function": {"name": item["name"], "arguments": arguments},
        }
    )
