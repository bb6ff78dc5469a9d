"""JSON that a model was asked for: read it, check it, and say in one sentence what is wrong with it.

The server holds the schema by a grammar where it can; another server may not, and an answer may be cut at its
``max_tokens``. Only the words of JSON schema that crews use are looked at; others hold nothing.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from stepwell.agents.tools.base import Tool

ANSWER = "answer"
"""The action of a turn under ``calls = "schema"`` that ends the task."""
CHARS_PER_TOKEN = 3
"""Fewer than text has."""
CODE_CHARS_PER_TOKEN = 2
"""The same of SQL and the like."""
CALL_TOKENS = 32
"""What a call has around its text."""
MAX_TEXT_CHARS = 2_000
"""Above it a text has no bound: llama.cpp's grammars take no larger one."""
_TYPES: dict[str, tuple[type, ...]] = {
    "object": (dict,), "array": (list,), "string": (str,), "integer": (int,), "number": (int, float),
    "boolean": (bool,), "null": (type(None),),
}  # fmt: skip


class Invalid(ValueError):
    """The answer is not what was asked for: one sentence for the model."""


def action_schema(tools: Sequence[Tool], answer: Mapping[str, Any] | None, max_tokens: int) -> dict[str, Any]:
    """One object: a tool with its arguments, or the answer (text unless it has a schema of its own)."""
    calls = [_variant(tool.name, "arguments", _arguments(tool, max_tokens)) for tool in tools]
    return {"anyOf": [*calls, _variant(ANSWER, ANSWER, answer or _text(max_tokens))]}


def _text(max_tokens: int) -> dict[str, Any]:
    """One that ends before the turn does: a text that is cut at ``max_tokens`` is no JSON, and the smallest
    models write on until then."""
    return {"type": "string"} | _bound(CHARS_PER_TOKEN * max_tokens)


def _bound(chars: int) -> dict[str, int]:
    return {"maxLength": chars} if 0 < chars <= MAX_TEXT_CHARS else {}


def _arguments(tool: Tool, max_tokens: int) -> Mapping[str, Any]:
    """The tool's parameters. Texts of one that changes nothing are bounded as answers are: half a SELECT is
    an error that the model reads, while a call that is cut at ``max_tokens`` is no call, and ends the task.
    Texts of other tools are theirs: half a file would be written all the same."""
    properties = tool.parameters.get("properties", {})
    if not tool.idempotent:
        return tool.parameters
    bound = _bound(CODE_CHARS_PER_TOKEN * (max_tokens - CALL_TOKENS))
    bounded = {
        name: {**schema, **bound} if _is_free_text(schema) else schema for name, schema in properties.items()
    }
    return {**tool.parameters, "properties": bounded}


def _is_free_text(schema: Any) -> bool:
    return (
        isinstance(schema, Mapping)
        and schema.get("type") == "string"
        and not schema.keys() & {"maxLength", "enum", "const", "pattern", "format"}
    )


def _variant(action: str, key: str, schema: Mapping[str, Any]) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"action": {"type": "string", "enum": [action]}, key: dict(schema)},
        "required": ["action", key],
        "additionalProperties": False,
    }


def schema_in(text: str) -> dict[str, Any] | None:
    """The JSON schema that a text is; None where it is no object, or says nothing."""
    try:
        found = json.loads(text)
    except ValueError:
        return None
    return found if isinstance(found, dict) and found else None


def read_json(text: str, schema: Mapping[str, Any]) -> Any:
    """The value, checked. Raises ``Invalid``."""
    try:
        # Not strict: a line break inside a string is what models write, and what it means is plain.
        value = json.loads(text, strict=False)
    except (ValueError, RecursionError) as error:
        raise Invalid(f"it is not JSON ({error})") from error
    check(value, schema)
    return value


def check(value: Any, schema: Mapping[str, Any], where: str = "it") -> None:
    """Raises ``Invalid`` where ``value`` does not fit."""
    if "anyOf" in schema:
        return _check_any(value, schema["anyOf"], where)
    if "enum" in schema and value not in schema["enum"]:
        raise Invalid(f"{where} is {value!r} and not one of {', '.join(map(str, schema['enum']))}")
    kinds = schema.get("type", [])
    kinds = [kinds] if isinstance(kinds, str) else kinds
    if kinds and not any(_is(value, kind) for kind in kinds):
        raise Invalid(f"{where} is not of type {' or '.join(kinds)}")
    if isinstance(value, dict):
        _check_object(value, schema, where)
    elif isinstance(value, list):
        _check_list(value, schema, where)
    elif isinstance(value, int | float) and not isinstance(value, bool):
        _check_number(value, schema, where)
    return None


def _is(value: Any, kind: str) -> bool:
    if isinstance(value, bool):
        return kind == "boolean"
    return isinstance(value, _TYPES.get(kind, (object,)))


def _check_any(value: Any, schemas: Sequence[Mapping[str, Any]], where: str) -> None:
    """With an action that is named, the complaint is about that one's fields."""
    first: Invalid | None = None
    for schema in schemas:
        try:
            return check(value, schema, where)
        except Invalid as error:
            action = schema.get("properties", {}).get("action", {}).get("enum", [])
            named = isinstance(value, dict) and value.get("action") in action
            first = error if named or first is None else first
    raise first or Invalid(f"{where} fits nothing that may stand there")


def _check_object(value: dict[str, Any], schema: Mapping[str, Any], where: str) -> None:
    properties = schema.get("properties", {})
    for name in schema.get("required", []):
        if name not in value:
            raise Invalid(f"{where} has no {name!r}")
    for name, one in value.items():
        if name in properties:
            check(one, properties[name], name)
        elif schema.get("additionalProperties") is False:
            raise Invalid(
                f"{where} has an unknown {name!r}; it may have {', '.join(properties) or 'nothing'}"
            )


def _check_list(value: list[Any], schema: Mapping[str, Any], where: str) -> None:
    if not schema.get("minItems", 0) <= len(value) <= schema.get("maxItems", len(value)):
        raise Invalid(f"{where} has {len(value)} entries")
    for one in value:
        check(one, schema.get("items", {}), where)


def _check_number(value: float, schema: Mapping[str, Any], where: str) -> None:
    if not schema.get("minimum", value) <= value <= schema.get("maximum", value):
        raise Invalid(f"{where} is {value}, out of its bounds")
