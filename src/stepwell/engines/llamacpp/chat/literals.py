"""Arguments that are not JSON: Python's keywords, and Gemma's braces."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

from stepwell.engines.llamacpp.chat.python_values import parsed, value_of
from stepwell.engines.llamacpp.chat.values import loads

_ATOM = re.compile(r"[^,}\]]*")
_KEY = re.compile(r"([^:,{}\[\]]+):")


def python_calls(text: str) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of a list of calls with literal keyword arguments; empty if it is none."""
    try:
        tree = parsed(text)
        if not isinstance(tree, ast.List):
            return []
        return [_call(item) for item in tree.elts]
    except (ValueError, TypeError, RecursionError):
        return []


def _call(item: ast.expr) -> tuple[str, str]:
    if not isinstance(item, ast.Call) or item.args:
        raise ValueError("not a call with keyword arguments")
    arguments = {str(word.arg): value_of(word.value) for word in item.keywords if word.arg}
    return ast.unparse(item.func), json.dumps(arguments, ensure_ascii=False, allow_nan=False)


def gemma_arguments(text: str, quote: str) -> str:
    """``{key:<quote>text<quote>,n:1}`` as JSON text; what cannot be read is wrapped."""
    try:
        value, _ = _braces(text, 0, quote, 0)
    except (ValueError, IndexError):
        value = {"arguments": text}
    return json.dumps(value, ensure_ascii=False)


def _braces(text: str, at: int, quote: str, depth: int) -> tuple[Any, int]:
    if depth > 100:
        raise ValueError("nested too deeply")
    if text.startswith(quote, at):
        end = text.index(quote, at + len(quote))
        return text[at + len(quote) : end], end + len(quote)
    if text[at] == "{":
        return _members(text, at + 1, quote, depth)
    if text[at] == "[":
        return _items(text, at + 1, quote, depth)
    match = _ATOM.match(text, at)
    assert match is not None
    return _atom(match[0].strip()), match.end()


def _members(text: str, at: int, quote: str, depth: int) -> tuple[dict[str, Any], int]:
    members: dict[str, Any] = {}
    while text[at] != "}":
        key = _KEY.match(text, at)
        if key is None:
            raise ValueError("a member has no name")
        name = key[1].strip().replace(quote, "")
        members[name], at = _braces(text, key.end(), quote, depth + 1)
        at += text[at] == ","
    return members, at + 1


def _items(text: str, at: int, quote: str, depth: int) -> tuple[list[Any], int]:
    items: list[Any] = []
    while text[at] != "]":
        item, at = _braces(text, at, quote, depth + 1)
        items.append(item)
        at += text[at] == ","
    return items, at + 1


def _atom(text: str) -> Any:
    try:
        return loads(text)
    except ValueError:
        return text
