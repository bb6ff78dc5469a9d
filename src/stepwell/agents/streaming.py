"""A streamed chat completion, put together as if it had come whole, with the time to its first token."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

import httpx2

STREAMED: dict[str, Any] = {"stream": True, "stream_options": {"include_usage": True}}
"""What a request for a stream has beside the rest."""


class BrokenStream(httpx2.HTTPError):
    """The stream ended before the answer did, or the server said an error in it."""


async def collected(response: httpx2.Response) -> dict[str, Any]:
    """The whole completion, and ``first_token_s``: when its first part came, by ``time.perf_counter``.

    Raises ``BrokenStream``, which a caller that asks again treats as a lost connection.
    """
    made: dict[str, Any] = {"choices": [{"message": {"content": ""}, "finish_reason": None}]}
    async for line in response.aiter_lines():
        if not line.startswith("data:"):
            continue
        payload = line[5:].strip()
        if payload == "[DONE]":
            return made
        if _add(made, _event(payload)):
            made.setdefault("first_token_s", time.perf_counter())
    raise BrokenStream("the stream broke off before its end")


def _event(payload: str) -> Mapping[str, Any]:
    try:
        event = json.loads(payload, parse_float=Decimal)
    except ValueError as error:
        raise BrokenStream("the server sent an event that is not JSON") from error
    if not isinstance(event, dict) or "error" in event:
        said = event.get("error") if isinstance(event, dict) else None
        raise BrokenStream(str(said.get("message") if isinstance(said, dict) else said or "no reason"))
    return event


def _add(made: dict[str, Any], event: Mapping[str, Any]) -> bool:
    """One event to the whole; whether it brought a part of the answer."""
    made |= {key: event[key] for key in ("id", "usage") if event.get(key)}
    brought = False
    whole = made["choices"][0]
    for choice in event.get("choices") or ():
        whole["finish_reason"] = choice.get("finish_reason") or whole["finish_reason"]
        delta = choice.get("delta") or {}
        whole["message"]["content"] += delta.get("content") or ""
        for call in delta.get("tool_calls") or ():
            _add_call(whole["message"].setdefault("tool_calls", []), call)
        brought = brought or bool(delta.get("content") or delta.get("tool_calls"))
    return brought


def _add_call(calls: list[dict[str, Any]], part: Mapping[str, Any]) -> None:
    """Calls come in pieces: the first has id and name, the others more of the arguments."""
    at = int(part.get("index") or 0)
    while len(calls) <= at:
        calls.append({"id": "", "function": {"name": "", "arguments": ""}})
    said, function = part.get("function") or {}, calls[at]["function"]
    calls[at]["id"] = part.get("id") or calls[at]["id"]
    function["name"] += said.get("name") or ""
    function["arguments"] += said.get("arguments") or ""
