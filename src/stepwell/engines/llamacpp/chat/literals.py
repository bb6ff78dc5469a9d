"""Arguments that are not JSON: Python's keywords, and Gemma's braces."""

from __future__ import annotations

import ast
import json
import keyword
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stepwell.engines.llamacpp.chat.python_values import parsed, value_of
from stepwell.engines.llamacpp.chat.values import loads

_ATOM = re.compile(r"[^,}\]]*")
_KEY = re.compile(r"([^:,{}\[\]]+):")


def python_calls(
    text: str, functions: Mapping[str, Mapping[str, Any]] | None = None
) -> list[tuple[str, str]]:
    """(name, arguments as JSON) of a list of calls with literal keyword arguments; empty if it is none.
    ``functions``: those that were offered, whose names and parameters need not be Python's."""
    odd = _odd_names(functions or {})
    try:
        tree = parsed(_in_python(text, odd) if odd else text)
        if not isinstance(tree, ast.List):
            return []
        return [_call(item, odd) for item in tree.elts]
    except (ValueError, TypeError, RecursionError):
        return []


def _call(item: ast.expr, odd: Sequence[str]) -> tuple[str, str]:
    if not isinstance(item, ast.Call) or item.args:
        raise ValueError("not a call with keyword arguments")
    meant = {_stand_in(number): name for number, name in enumerate(odd)}
    arguments = {meant.get(word.arg, word.arg): value_of(word.value) for word in item.keywords if word.arg}
    name = ast.unparse(item.func)
    return meant.get(name, name), json.dumps(arguments, ensure_ascii=False, allow_nan=False)


def _odd_names(functions: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of functions and parameters that are none in Python (``get-weather``, ``class``)."""
    names = dict.fromkeys(functions)
    for schema in functions.values():
        properties = schema.get("properties")
        names |= dict.fromkeys(properties if isinstance(properties, Mapping) else ())
    return [name for name in names if name and not _is_pythons(name)]


def _is_pythons(name: str) -> bool:
    return all(part.isidentifier() and not keyword.iskeyword(part) for part in name.split("."))


def _stand_in(number: int) -> str:
    return f"_odd{number}_"


def _in_python(text: str, odd: Sequence[str]) -> str:
    """The text with other names for ``odd`` ones, where a call or a parameter has them: not in quotes."""
    longest = sorted(range(len(odd)), key=lambda number: -len(odd[number]))
    names = re.compile("|".join(f"(?P<{_stand_in(n)}>{re.escape(odd[n])})(?=[(=])" for n in longest))
    pieces: list[str] = []
    quote, before, at = "", "", 0
    while at < len(text):
        found = None if quote or before.isalnum() or before in "_.-" else names.match(text, at)
        if found is not None:
            pieces.append(str(found.lastgroup))
            before, at = found[0][-1], found.end()
            continue
        piece = text[at : at + 2] if quote and text[at] == "\\" else text[at]
        if piece == quote:
            quote = ""
        elif not quote and piece in ("'", '"'):
            quote = piece
        pieces.append(piece)
        before, at = piece, at + len(piece)
    return "".join(pieces)


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
