"""JSON as models write it, made strict while it streams; and values written without quotes."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from typing import Any

from stepwell.engines.llamacpp.chat.source import Source, Wait

Emit = Callable[[str], None]

_PLAIN = re.compile(r'[^"\\\x00-\x1f]+')
_WORDS = {"NaN": "null", "Infinity": "null", "None": "null", "True": "true", "False": "false"}
MAX_DEPTH = 500


def scan_string(source: Source, emit: Emit) -> Wait[bool]:
    """A JSON string with its quotes; raw control characters are escaped. False: it was cut."""
    source.at += 1
    emit('"')
    while True:
        run = _PLAIN.match(source.text, source.at)
        if run:
            emit(run[0])
            source.at = run.end()
        character = yield from source.char()
        if not character:
            return False
        if character == "\\":
            source.at += 1
            following = yield from source.char()
            if not following:
                return False
            emit("\\" + following)
            source.at += 1
        elif character == '"':
            emit('"')
            source.at += 1
            return True
        elif character < " ":
            emit(json.dumps(character)[1:-1])
            source.at += 1


def scan_value(source: Source, emit: Emit) -> Wait[bool]:
    """Any JSON value. False: it was cut, or is none."""
    depth = 0
    while True:
        character = yield from source.char()
        if not character or (depth == 0 and (character in ",:}]" or character.isspace())):
            return False
        if character == '"':
            whole = yield from scan_string(source, emit)
        elif character in "{[}],:" or character.isspace():
            depth += (character in "{[") - (character in "}]")
            emit(character)
            source.at += 1
            whole = depth <= MAX_DEPTH
        else:
            whole = yield from _word(source, emit)
        if not whole or depth == 0:
            return whole


def _word(source: Source, emit: Emit) -> Wait[bool]:
    """A number, or a name such as ``true``; what JSON does not know becomes null."""
    start = source.at
    while True:
        character = yield from source.char()
        if not character or not (character.isalnum() or character in "+-._"):
            break
        source.at += 1
    word = source.text[start : source.at]
    emit(_WORDS.get(word.lstrip("+-"), word))
    return bool(word)


def whole_value(source: Source) -> Wait[str | None]:
    """A value as strict JSON text, once it is complete; None if it is none."""
    pieces: list[str] = []
    if (yield from scan_value(source, pieces.append)):
        return "".join(pieces)
    return None


def whole_string(source: Source) -> Wait[str | None]:
    if (yield from source.char()) != '"':
        return None
    pieces: list[str] = []
    if not (yield from scan_string(source, pieces.append)):
        return None
    try:
        value = json.loads("".join(pieces))
    except ValueError:
        return None
    return value if isinstance(value, str) else None


def as_object(written: str) -> str:
    """A complete JSON value as the text of an object: null is none, everything else is wrapped."""
    try:
        value = json.loads(written)
        if isinstance(value, str) and isinstance(json.loads(value), dict):
            return value
    except (ValueError, RecursionError):
        return json.dumps({"arguments": written}, ensure_ascii=False)
    if value is None:
        return "{}"
    return written if isinstance(value, dict) else json.dumps({"arguments": value}, ensure_ascii=False)


def from_text(text: str, schema: Mapping[str, Any] | None) -> str:
    """A value that was written without quotes, as JSON, by what its schema says it is."""
    if is_text(schema):
        return json.dumps(text, ensure_ascii=False)
    try:
        value = json.loads(_WORDS.get(text.strip(), text), parse_constant=lambda name: None)
    except (ValueError, RecursionError):
        value = text
    if isinstance(value, str) or (value is not None and "string" in _types(schema)):
        value = text
    return json.dumps(value, ensure_ascii=False)


def is_text(schema: Mapping[str, Any] | None) -> bool:
    """Whether only text is allowed."""
    return _types(schema) == ["string"]


def _types(schema: Mapping[str, Any] | None) -> list[str]:
    if not isinstance(schema, Mapping):
        return []
    named = schema.get("type")
    if isinstance(named, str):
        return [named]
    if isinstance(named, list):
        return [kind for kind in named if isinstance(kind, str)]
    values = schema.get("enum")
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return ["string"]
    choices = schema.get("anyOf", schema.get("oneOf"))
    return [kind for choice in choices for kind in _types(choice)] if isinstance(choices, list) else []
