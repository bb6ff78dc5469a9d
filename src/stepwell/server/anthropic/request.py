"""A body of ``/v1/messages`` as the body of a chat request. Pure: it reads JSON and gives JSON.

Two habits of coding agents would cost every cached token if they were rendered as they come: the first
system block carries a billing header that changes with each request, and messages of the role ``system``
stand between the turns. The header is dropped. A system message becomes a reminder in the next user turn,
at its place, so that everything before it stays the same prompt.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from stepwell.server.errors import ApiError, bad_request, clip, unsupported

BILLING = "x-anthropic-billing-header:"
REMINDER = "<system-reminder>\n{}\n</system-reminder>"
ERROR_MARK = "Error: "
MAX_BLOCKS = 65_536
PASSED_OVER = frozenset({"thinking", "redacted_thinking", "tool_reference", "server_tool_use"})
"""Blocks that are no words of a turn: reasoning, which goes its own way, and what another server did."""
SAME = ("model", "temperature", "top_p", "top_k", "stream", "service_tier", "metadata")
DEFAULT_TIERS = ("auto", "standard_only")
"""Anthropic's words for the service tier that a key has anyway; any other one is one of ours."""

Json = Mapping[str, Any]


def chat_body(body: Json) -> dict[str, Any]:
    """The chat request that says the same. Raises ``ApiError`` for what this server cannot do."""
    chat = {name: body[name] for name in SAME if body.get(name) is not None}
    if chat.get("service_tier") in DEFAULT_TIERS:
        del chat["service_tier"]
    if (limit := body.get("max_tokens")) is not None:
        chat["max_tokens"] = limit
    if (stops := body.get("stop_sequences")) is not None:
        chat["stop"] = stops
    chat["messages"] = list(_messages(body))
    _thinking(body, chat)
    tools = [_tool(number, tool) for number, tool in enumerate(_list(body.get("tools"), "tools"))]
    if offered := [tool for tool in tools if tool is not None]:
        chat["tools"] = offered
        _tool_choice(body.get("tool_choice"), chat)
    if (wanted := _mapping(_mapping(body.get("output_config")).get("format"))).get("type") == "json_schema":
        schema = {"name": "answer", "schema": wanted.get("schema")}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    return chat


def _thinking(body: Json, chat: dict[str, Any]) -> None:
    """``thinking`` and ``output_config.effort`` as the switches that chat templates know, and its budget."""
    thinking = _mapping(body.get("thinking"))
    kind = thinking.get("type")
    if thinking.get("budget_tokens") is not None and kind != "disabled":
        chat["reasoning_budget"] = thinking["budget_tokens"]
    if kind is not None:
        chat["enable_thinking"] = kind != "disabled"
    if isinstance(effort := _mapping(body.get("output_config")).get("effort"), str):
        chat["reasoning_effort"] = effort


def shows_thinking(body: Json) -> bool:
    """Whether the answer's reasoning is wanted as blocks of their own."""
    thinking = _mapping(body.get("thinking"))
    return thinking.get("type", "disabled") != "disabled" and thinking.get("display") != "omitted"


def marks_cache(body: Json) -> bool:
    """Whether the request asks for anything to be kept, which is what makes its tokens count as written."""
    places = [body, *_blocks(body.get("system")), *_blocks(body.get("tools"))]
    for message in _blocks(body.get("messages")):
        places += _blocks(message.get("content"))
    return any(_mapping(place.get("cache_control")) for place in places)


def _messages(body: Json) -> Iterator[dict[str, Any]]:
    if system := _system(body.get("system")):
        yield {"role": "system", "content": system}
    reminders: list[str] = []
    for number, message in enumerate(_list(body.get("messages"), "messages")):
        where = f"messages[{number}]"
        one = _mapping(message)
        match one.get("role"):
            case "assistant":
                yield from _reminded(reminders)
                yield _assistant(one, where)
            case "user":
                yield from _user(one, where, reminders)
            case "system" | "developer":
                reminders.append(REMINDER.format(_text(one.get("content"), f"{where}.content")))
            case role:
                raise bad_request(
                    f"Invalid value: {clip(repr(role), 64)}. A role is 'user', 'assistant' or 'system'.",
                    param=f"{where}.role",
                )
    yield from _reminded(reminders)


def _reminded(reminders: list[str]) -> Iterator[dict[str, Any]]:
    """Reminders that no user turn follows stand by themselves."""
    if reminders:
        yield {"role": "user", "content": "\n".join(reminders)}
        reminders.clear()


def _system(value: object) -> str:
    if value is None or isinstance(value, str):
        return value or ""
    texts = [_block_text(block, f"system[{number}]") for number, block in enumerate(_list(value, "system"))]
    return "\n\n".join(text for text in texts if text and not text.startswith(BILLING))


def _user(message: Json, where: str, reminders: list[str]) -> Iterator[dict[str, Any]]:
    """Results of tools first, each as its own message, then what was said."""
    said = list(reminders)
    reminders.clear()
    content = message.get("content")
    if isinstance(content, str):
        yield {"role": "user", "content": "\n".join([*said, content])}
        return
    results = False
    for number, block in enumerate(_list(content, f"{where}.content")):
        place = f"{where}.content[{number}]"
        if _mapping(block).get("type") == "tool_result":
            results = True
            yield _result(_mapping(block), place)
        elif text := _block_text(block, place):
            said.append(text)
    if said or not results:
        yield {"role": "user", "content": "\n".join(said)}


def _result(block: Json, where: str) -> dict[str, Any]:
    text = _text(block.get("content") or "", f"{where}.content")
    if block.get("is_error"):
        text = text if text.startswith(ERROR_MARK) else ERROR_MARK + text
    return {"role": "tool", "tool_call_id": block.get("tool_use_id"), "content": text}


def _assistant(message: Json, where: str) -> dict[str, Any]:
    content = message.get("content")
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts, thoughts, calls = [], [], []
    for number, block in enumerate(_list(content, f"{where}.content")):
        one, place = _mapping(block), f"{where}.content[{number}]"
        if one.get("type") == "tool_use":
            calls.append(_call(one, place))
        elif one.get("type") == "thinking" and isinstance(one.get("thinking"), str):
            thoughts.append(one["thinking"])
        elif text := _block_text(block, place):
            texts.append(text)
    said: dict[str, Any] = {"role": "assistant", "content": "\n".join(texts)}
    if thoughts:
        said["reasoning_content"] = "\n".join(thoughts)
    return said | ({"tool_calls": calls} if calls else {})


def _call(block: Json, where: str) -> dict[str, Any]:
    given = block.get("input")
    if given is None:
        given = {}
    if not isinstance(given, Mapping):
        raise bad_request("The input of a tool is a JSON object.", param=f"{where}.input")
    arguments = json.dumps(given, ensure_ascii=False)
    function = {"name": block.get("name"), "arguments": arguments}
    return {"id": block.get("id") or "", "type": "function", "function": function}


def _text(content: object, where: str) -> str:
    if isinstance(content, str):
        return content
    blocks = [_block_text(block, f"{where}[{n}]") for n, block in enumerate(_list(content, where))]
    return "\n".join(text for text in blocks if text)


def _block_text(block: object, where: str) -> str:
    """What a block says in words; empty for those that are passed over. Raises ``ApiError``."""
    one = _mapping(block)
    kind = one.get("type")
    if kind == "text" and isinstance(one.get("text"), str):
        return str(one["text"])
    if isinstance(kind, str) and kind in PASSED_OVER:
        return ""
    if kind == "search_result":
        lines = [one.get("title"), one.get("source"), _text(one.get("content") or "", f"{where}.content")]
        return "\n".join(str(line) for line in lines if line)
    if kind == "document" and (source := _mapping(one.get("source"))).get("type") == "text":
        return "\n".join(str(text) for text in (one.get("title"), source.get("data")) if text)
    if isinstance(kind, str) and kind != "text":
        raise unsupported(f"This server reads text, and not a block of type '{clip(kind, 64)}'.", param=where)
    raise bad_request("A block is an object with a type, and a text block has a text.", param=where)


def _tool(number: int, tool: object) -> dict[str, Any] | None:
    """A function; ``None`` for a tool that Anthropic's own servers carry out."""
    one = _mapping(tool)
    if one.get("type", "custom") != "custom":
        return None
    if not isinstance(one.get("name"), str):
        raise bad_request("A tool has a name.", param=f"tools[{number}].name")
    function = {"name": one["name"], "parameters": one.get("input_schema")}
    if one.get("description") is not None:
        function["description"] = one["description"]
    return {"type": "function", "function": function}


def _tool_choice(value: object, chat: dict[str, Any]) -> None:
    choice = _mapping(value)
    kind = choice.get("type", "auto")
    ways: Mapping[str, Any] = {
        "auto": "auto",
        "any": "required",
        "none": "none",
        "tool": {"type": "function", "function": {"name": choice.get("name")}},
    }
    if kind not in ways:
        raise bad_request("It is of type auto, any, tool or none.", param="tool_choice.type")
    chat["tool_choice"] = ways[kind]
    if choice.get("disable_parallel_tool_use"):
        chat["parallel_tool_calls"] = False


def _list(value: object, where: str) -> Sequence[Any]:
    if value is None and where == "tools":
        return ()
    if not isinstance(value, list):
        raise bad_request("It is a list.", param=where)
    if len(value) > MAX_BLOCKS:
        raise ApiError(400, f"It has more than {MAX_BLOCKS} items.", param=where)
    return value


def _blocks(value: object) -> list[Json]:
    return [_mapping(one) for one in value[:MAX_BLOCKS]] if isinstance(value, list) else []


def _mapping(value: object) -> Json:
    return value if isinstance(value, Mapping) else {}
