"""JSON as models write it, made strict while it streams; and values written without quotes."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from typing import Any

from stepwell.engines.llamacpp.chat.python_values import parsed, value_of
from stepwell.engines.llamacpp.chat.source import StreamSource, Wait

Emit = Callable[[str], None]

_PLAIN = re.compile(r"[^\"'\\\x00-\x1f]+")
_NUMBER = re.compile(r"-?(0|[1-9]\d*)(\.\d+)?([eE][+-]?\d+)?", re.ASCII)
_LOOSE_NUMBER = re.compile(r"[+-]?(\d+\.?|\d*\.\d+)", re.ASCII)
_KNOWN = frozenset(("true", "false", "null"))
_WORDS = {"None": "null", "True": "true", "False": "false", "undefined": "null"}
_NO_NUMBER = frozenset(("NaN", "nan", "Infinity", "inf", "-Infinity", "-inf", "+Infinity", "+inf", "-NaN"))
_CLOSES = {"{": "}", "[": "]"}
MAX_DEPTH = 500


def scan_string(source: StreamSource, emit: Emit) -> Wait[bool]:
    """A string with its quotes, which may be single ones; raw control characters are escaped. False: it was
    cut."""
    quote = source.text[source.at]
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
            emit(following if following == "'" else "\\" + following)
            source.at += 1
        elif character == quote:
            emit('"')
            source.at += 1
            return True
        else:
            emit(character if character == "'" else json.dumps(character, ensure_ascii=False)[1:-1])
            source.at += 1


def scan_value(source: StreamSource, emit: Emit) -> Wait[bool]:
    """Any JSON value, with what models do to it mended where one token says how: quotes, names without
    quotes, Python's words, numbers that are none, a comma at an end, the wrong closing bracket. What is
    broken otherwise is passed as it was written. False: it was cut, or is none."""
    opened: list[str] = []
    comma = ""
    while True:
        character = yield from source.char()
        if not character or (not opened and (character in ",:}]" or character.isspace())):
            return False
        if comma and not (character.isspace() or character == ","):
            emit(comma[1:] if character in "}]" else comma)
            comma = ""
        if character in "\"'":
            whole = yield from scan_string(source, emit)
        elif character.isspace() or character == ",":
            source.at += 1
            if comma or character == ",":  # told when it is known whether anything follows
                comma += "" if comma and character == "," else character
            else:
                emit(character)
            whole = True
        elif character in "{[}]:":
            source.at += 1
            emit(_bracket(character, opened))
            whole = len(opened) <= MAX_DEPTH
        else:
            whole = yield from _word(source, emit)
        if not whole or not opened:
            return whole


def _bracket(character: str, opened: list[str]) -> str:
    """What closes is what was opened."""
    if character in "{[":
        opened.append(character)
    elif character in "}]":
        return _CLOSES[opened.pop()]
    return character


def _word(source: StreamSource, emit: Emit) -> Wait[bool]:
    """A number, a name such as ``true``, or any other word."""
    start = source.at
    while True:
        character = yield from source.char()
        if not character or not (character.isalnum() or character in "+-._"):
            break
        source.at += 1
    word = source.text[start : source.at]
    emit(_strict(word))
    return bool(word)


def _strict(word: str) -> str:
    """As JSON has it: what is no number anywhere is null, and what JSON does not know is a text."""
    if not word or word in _KNOWN:
        return word
    if word in _WORDS:
        return _WORDS[word]
    if word in _NO_NUMBER:
        return "null"
    if _NUMBER.fullmatch(word):
        return word if finite(word) is not None else "null"
    if _LOOSE_NUMBER.fullmatch(word):
        sign, digits = ("-" if word[0] == "-" else ""), word.lstrip("+-").rstrip(".")
        number = sign + (f"0{digits}" if digits.startswith(".") else digits)
        if _NUMBER.fullmatch(number):  # 007 is none: it may be a name
            return number
    return json.dumps(word, ensure_ascii=False)


def finite(number: str) -> float | None:
    """What a reader of JSON makes of it; None where that is no number any more, as of ``1e999``."""
    value = float(number)
    return value if math.isfinite(value) or not ("." in number or "e" in number.lower()) else None


def loads(text: str) -> Any:
    """``json.loads`` without numbers that JSON does not have. ``ValueError``, ``RecursionError``."""
    return json.loads(text, parse_constant=lambda name: None, parse_float=finite)


def whole_value(source: StreamSource) -> Wait[str | None]:
    """A value as strict JSON text, once it is complete; None if it is none."""
    pieces: list[str] = []
    if (yield from scan_value(source, pieces.append)):
        return "".join(pieces)
    return None


def whole_string(source: StreamSource) -> Wait[str | None]:
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
        value = loads(written)
        if isinstance(value, str) and isinstance(inner := loads(value), dict):
            return json.dumps(inner, ensure_ascii=False)
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
        value = loads(_WORDS.get(text.strip(), text))
    except (ValueError, RecursionError):
        value = _python(text) if {"object", "array"} & set(kinds_of(schema)) else text
    if isinstance(value, str) or (value is not None and "string" in kinds_of(schema)):
        value = text
    return json.dumps(value, ensure_ascii=False)


def _python(text: str) -> Any:
    """An object or a list in Python's writing; what is neither is text."""
    try:
        value = value_of(parsed(text))
        json.dumps(value, allow_nan=False)
    except (ValueError, TypeError, RecursionError):
        return text
    return value if isinstance(value, dict | list) else text


def is_text(schema: Mapping[str, Any] | None) -> bool:
    """Whether only text is allowed."""
    return kinds_of(schema) == ["string"]


def kinds_of(schema: Mapping[str, Any] | None) -> list[str]:
    """The types that a schema names; none where it does not say."""
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
    return [kind for choice in choices for kind in kinds_of(choice)] if isinstance(choices, list) else []
