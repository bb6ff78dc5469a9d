"""A body of Gemini's as messages of a chat. Pure: it reads JSON and gives JSON.

Neighbouring turns of one role become one message, so that a question behind a cached document stands in the
same turn, whichever template the model has, and the tokens before it are those that were cached.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from datetime import datetime
from typing import Any

from stepwell.server.callers.hints import ttl_us
from stepwell.server.errors import bad_request, clip, unsupported

Json = Mapping[str, Any]
Messages = list[dict[str, Any]]

ROLES = {"user": "user", "model": "assistant"}
SAMPLING = {
    "temperature": "temperature",
    "topP": "top_p",
    "topK": "top_k",
    "maxOutputTokens": "max_tokens",
    "stopSequences": "stop",
    "seed": "seed",
    "presencePenalty": "presence_penalty",
    "frequencyPenalty": "frequency_penalty",
}
WHOLE = ("top_k", "max_tokens", "seed")
"""Google's clients may write these as 40.0."""
DEFAULT_TTL_S = 3_600.0
MAX_TURNS = 65_536


def field(body: Json, name: str) -> Any:
    """A field by its name in JSON, or as examples for curl write it (``system_instruction``)."""
    snake = "".join(f"_{c.lower()}" if c.isupper() else c for c in name)
    value = body.get(name)
    return body.get(snake) if value is None else value


def messages_of(body: Json, cached: Iterable[dict[str, Any]] = ()) -> Messages:
    """The conversation, behind what is cached. Raises ``ApiError`` for what this server cannot do."""
    for name in ("tools", "toolConfig"):
        if field(body, name):
            raise unsupported(
                f"Here '{name}' goes with POST /v1/chat/completions; this route knows texts.", param=name
            )
    said = [*cached, *_system(field(body, "systemInstruction")), *_turns(field(body, "contents"))]
    if not said:
        raise bad_request("Missing required parameter: 'contents'.", param="contents")
    return list(_joined(said))


def chat_body(body: Json, model: str, messages: Messages) -> dict[str, Any]:
    """The chat request that says the same. Raises ``ApiError``."""
    wanted = _mapping(field(body, "generationConfig"), "generationConfig")
    chat: dict[str, Any] = {"model": model, "messages": messages}
    for name, ours in SAMPLING.items():
        if (value := field(wanted, name)) is not None:
            chat[ours] = int(value) if ours in WHOLE and _is_whole(value) else value
    if field(wanted, "candidateCount") not in (None, 1):
        raise unsupported("One candidate is generated at a time.", param="generationConfig.candidateCount")
    schema = field(wanted, "responseJsonSchema")
    if field(wanted, "responseSchema") is not None:
        raise unsupported("Send the schema as 'responseJsonSchema'.", param="generationConfig.responseSchema")
    if schema is not None:
        named = {"name": "answer", "schema": schema}
        chat["response_format"] = {"type": "json_schema", "json_schema": named}
    elif field(wanted, "responseMimeType") == "application/json":
        chat["response_format"] = {"type": "json_object"}
    return chat


def lifetime_s(body: Json, now_s: float) -> float:
    """``ttl`` ("3600s") or ``expireTime`` (RFC 3339), in seconds from now. Raises ``ApiError``."""
    ttl, expires = field(body, "ttl"), field(body, "expireTime")
    if expires is not None:
        try:
            left_s = datetime.fromisoformat(str(expires)).timestamp() - now_s
        except (ValueError, OverflowError):
            raise bad_request(
                "'expireTime' is a time like 2026-01-31T12:00:00Z.", param="expireTime"
            ) from None
        ttl = left_s if left_s > 0 else None
        if ttl is None:
            raise bad_request("'expireTime' has passed.", param="expireTime")
    found = ttl_us(DEFAULT_TTL_S if ttl is None else ttl)
    if found is None:
        raise bad_request("'ttl' is a time like \"3600s\".", param="ttl")
    return found / 1e6


def model_name(text: object) -> str:
    """``models/NAME`` as we call it. Raises ``ApiError``."""
    if not isinstance(text, str) or not text:
        raise bad_request("Missing required parameter: 'model'.", param="model")
    return text.removeprefix("models/")


def _is_whole(value: object) -> bool:
    return isinstance(value, float) and value.is_integer()


def _system(value: object) -> Iterator[dict[str, Any]]:
    if value is not None:
        text = (
            value
            if isinstance(value, str)
            else _text(_mapping(value, "systemInstruction"), "systemInstruction")
        )
        yield {"role": "system", "content": text}


def _turns(value: object) -> Iterator[dict[str, Any]]:
    turns = [] if value is None else [value] if isinstance(value, Mapping) else value
    if not isinstance(turns, list) or len(turns) > MAX_TURNS:
        raise bad_request("'contents' is a list of turns.", param="contents")
    for number, turn in enumerate(turns):
        where = f"contents[{number}]"
        one = _mapping(turn, where)
        role = one.get("role") or "user"
        if not isinstance(role, str) or role not in ROLES:
            raise bad_request(
                f"A role is 'user' or 'model', not {clip(repr(role), 32)}.", param=f"{where}.role"
            )
        yield {"role": ROLES[role], "content": _text(one, where)}


def _text(content: Json, where: str) -> str:
    parts = content.get("parts")
    parts = [parts] if isinstance(parts, Mapping) else parts
    if not isinstance(parts, list):
        raise bad_request("A turn has 'parts'.", param=f"{where}.parts")
    texts = []
    for number, part in enumerate(parts):
        one = _mapping(part, f"{where}.parts[{number}]")
        if one.get("thought") is True:
            continue  # what an earlier turn thought
        if not isinstance(one.get("text"), str):
            kind = next((name for name in one if name != "text"), "nothing")
            raise unsupported(
                f"This server reads text, and no '{clip(str(kind), 32)}'.", param=f"{where}.parts[{number}]"
            )
        texts.append(one["text"])
    return "\n".join(texts)


def _joined(said: Iterable[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """System messages first, as one; then turns, neighbours of one role as one."""
    rows = list(said)
    systems = [row["content"] for row in rows if row["role"] == "system"]
    if systems:
        yield {"role": "system", "content": "\n".join(systems)}
    open_turn: dict[str, Any] | None = None
    for row in (row for row in rows if row["role"] != "system"):
        if open_turn is not None and open_turn["role"] == row["role"]:
            open_turn["content"] += "\n" + row["content"]
            continue
        if open_turn is not None:
            yield open_turn
        open_turn = dict(row)
    if open_turn is not None:
        yield open_turn


def _mapping(value: object, where: str) -> Json:
    if value is None:
        return {}
    if not isinstance(value, Mapping):
        raise bad_request(f"'{where}' is an object.", param=where) from None
    return value
