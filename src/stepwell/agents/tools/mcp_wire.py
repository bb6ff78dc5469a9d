"""What MCP servers send, put right before the official package looks at it.

The package refuses an answer as a whole for one field that is not as the protocol has it: a server that gives
only ``structuredContent``, a kind of content that is new, a link without a name. What such an answer says
would be lost, and one bad tool in a list would be the end of all the others. So every answer to
``tools/call`` and ``tools/list`` is made anew here of what is understood, and what is not is kept as text.
"""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import replace
from typing import Any

PARTS_MOST = 1_000
"""Of one answer; a model reads no more, and checking each takes time."""
UNKNOWN_CHARS = 2_000
"""Of what is not understood."""
_BYTES = "application/octet-stream"
_DEEPEST = 3
_HINTS = ("readOnlyHint", "idempotentHint", "destructiveHint", "openWorldHint")


@asynccontextmanager
async def mended(transport: AbstractAsyncContextManager[Any]) -> AsyncIterator[tuple[Any, Any]]:
    """The streams of a transport of the package; what comes in is put right on its way."""
    asked: dict[str, str] = {}
    async with transport as (incoming, outgoing):
        yield _Incoming(incoming, asked), _Outgoing(outgoing, asked)


class _Stream:
    """Everything that the package does with a stream but reading and writing."""

    def __init__(self, inner: Any, asked: dict[str, str]) -> None:
        self._inner, self._asked = inner, asked

    async def aclose(self) -> None:
        await self._inner.aclose()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    async def __aenter__(self) -> Any:
        await self._inner.__aenter__()
        return self

    async def __aexit__(self, *given: Any) -> Any:
        return await self._inner.__aexit__(*given)


class _Outgoing(_Stream):
    """Notes which request has which number."""

    async def send(self, item: Any) -> None:
        method, number = getattr(item.message, "method", None), getattr(item.message, "id", None)
        if method in ("tools/call", "tools/list") and number is not None:
            self._asked[str(number)] = method
        await self._inner.send(item)


class _Incoming(_Stream):
    def __aiter__(self) -> _Incoming:
        return self

    async def __anext__(self) -> Any:
        return self._mended(await self._inner.__anext__())

    async def receive(self) -> Any:
        return self._mended(await self._inner.receive())

    def _mended(self, item: Any) -> Any:
        if isinstance(item, Exception):
            item = _read_again(item)
        message = getattr(item, "message", None)
        method = self._asked.pop(str(getattr(message, "id", "")), None)
        given = getattr(message, "result", None)
        if message is None or method is None or not isinstance(given, dict):
            return item
        if given.get("resultType", "complete") != "complete":
            return item  # a question back, which the package answers
        result = mended_answer(given) if method == "tools/call" else mended_list(given)
        return replace(item, message=message.model_copy(update={"result": result}))


def _read_again(error: Exception) -> Any:
    """A line that is JSON to Python alone: strings with half a surrogate pair, which no text can hold."""
    import mcp_types
    from mcp.shared.message import SessionMessage
    from pydantic import ValidationError

    try:
        text = error.errors()[0]["input"] if isinstance(error, ValidationError) else None
        if not isinstance(text, str):
            return error
        said = json.loads(text)
        plain = json.dumps(said, ensure_ascii=False).encode("utf-8", "replace")
        return SessionMessage(mcp_types.jsonrpc_message_adapter.validate_json(plain, by_name=False))
    except (ValueError, RecursionError, LookupError):
        return error


def mended_answer(given: Mapping[str, Any]) -> dict[str, Any]:
    """A ``CallToolResult`` of whatever an answer holds."""
    content = given.get("content", given.get("toolResult"))
    parts = list(_parts(content, 0))
    if len(parts) > PARTS_MOST:
        parts[PARTS_MOST:] = [_text(f"[{len(parts) - PARTS_MOST:,} more parts]")]
    structured = given.get("structuredContent")
    result = _besides(given, "content", "toolResult", "structuredContent", "isError")
    result |= {"content": parts, "isError": given.get("isError") is True}
    if isinstance(structured, dict):
        result["structuredContent"] = structured
    elif structured is not None:
        words = structured if isinstance(structured, str) else json.dumps(structured, ensure_ascii=False)
        if _text(words) not in parts:
            parts.append(_text(words))
    return result


def _parts(content: Any, depth: int) -> Iterator[dict[str, Any]]:
    if content is None:
        return
    if not isinstance(content, list):
        content = [content]
    for part in content:
        if not isinstance(part, dict):
            yield _text(part if isinstance(part, str) else json.dumps(part, ensure_ascii=False))
        else:
            yield from _part(part, depth)


def _part(part: Mapping[str, Any], depth: int) -> Iterator[dict[str, Any]]:
    kind = part.get("type")
    if kind == "text" and isinstance(part.get("text"), str):
        yield _text(part["text"])
    elif kind in ("image", "audio"):
        data = part.get("data")
        yield {
            "type": kind,
            "data": data if isinstance(data, str) else "",
            "mimeType": _string(part, "mimeType") or _BYTES,
        }
    elif kind == "resource" and isinstance(part.get("resource"), dict):
        yield from _resources(part["resource"])
    elif kind == "resource_link" and _string(part, "uri"):
        yield _link(part)
    elif isinstance(part.get("content"), list) and depth < _DEEPEST:
        yield from _parts(part["content"], depth + 1)
    elif not (kind == "text" and part.get("text") is None):
        yield _unknown(part)


def _resources(resource: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """One, or all of those that it lists."""
    listed = resource.get("contents")
    for one in listed if isinstance(listed, list) else [resource]:
        text, blob = (one.get(key) if isinstance(one, dict) else None for key in ("text", "blob"))
        if isinstance(text, str) or isinstance(blob, str):
            kept: dict[str, Any] = {"uri": _string(one, "uri") or "(no address)"}
            kept |= {"text": text} if isinstance(text, str) else {"blob": blob}
            if mime_type := _string(one, "mimeType"):
                kept["mimeType"] = mime_type
            yield {"type": "resource", "resource": kept}
        else:
            yield _unknown({"type": "resource", "resource": one})


def _link(part: Mapping[str, Any]) -> dict[str, Any]:
    uri = part["uri"]
    kept = {"type": "resource_link", "uri": uri, "name": _string(part, "name") or uri.rpartition("/")[2]}
    kept |= {key: part[key] for key in ("title", "description", "mimeType") if _string(part, key)}
    size = part.get("size")
    return kept | ({"size": size} if isinstance(size, int) and size >= 0 else {})


def _unknown(part: Mapping[str, Any]) -> dict[str, Any]:
    words = part.get("text")
    said = words if isinstance(words, str) else json.dumps(part, ensure_ascii=False)[:UNKNOWN_CHARS]
    return _text(f"[{part.get('type')}: a kind of content that is not known here] {said}")


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _string(given: Mapping[str, Any], key: str) -> str:
    value = given.get(key)
    return value if isinstance(value, str) else ""


def _besides(given: Mapping[str, Any], *known: str) -> dict[str, Any]:
    """What versions of the protocol add to an answer, such as how long it may be kept."""
    return {key: value for key, value in given.items() if key not in known}


def mended_list(given: Mapping[str, Any]) -> dict[str, Any]:
    """A ``ListToolsResult`` of the tools that can be called. What they say of their answers is left out: an
    answer that is otherwise is still worth reading."""
    tools = given.get("tools")
    listed = [one for one in tools if isinstance(one, dict)] if isinstance(tools, list) else []
    result = _besides(given, "tools", "nextCursor")
    result["tools"] = [_tool(one) for one in listed if _string(one, "name").strip()]
    if cursor := _string(given, "nextCursor"):
        result["nextCursor"] = cursor
    return result


def _tool(given: Mapping[str, Any]) -> dict[str, Any]:
    schema = given.get("inputSchema")
    kinds = schema.get("type", "object") if isinstance(schema, dict) else None
    if not isinstance(schema, dict) or "object" not in (kinds if isinstance(kinds, list) else [kinds]):
        schema = {"properties": {}}
    kept: dict[str, Any] = {"name": given["name"], "inputSchema": {**schema, "type": "object"}}
    kept |= {key: given[key] for key in ("title", "description") if _string(given, key)}
    hints = given.get("annotations")
    if isinstance(hints, dict):
        kept["annotations"] = {key: hints[key] for key in _HINTS if isinstance(hints.get(key), bool)}
    return kept
