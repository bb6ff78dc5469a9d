"""Arguments written as elements within elements (MiniMax M3), each with a mark before it:
``<m><key>text<m></key>``, objects as elements of their members' names, lists as ``<m><item>`` elements."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from stepwell.engines.llamacpp.chat.values import from_text, kinds_of

_MOST_DEEP = 32
_ITEM = "item"


def nested_value(text: str, mark: str, schema: Mapping[str, Any] | None, deep: int = 0) -> str:
    """What stands in an element, as JSON. What is no sound run of elements is text."""
    kinds = kinds_of(schema)
    members = _members(text, mark) if deep < _MOST_DEEP else None
    if not members:
        empty = {"array": "[]", "object": "{}"}.get(kinds[0] if len(kinds) == 1 else "", "")
        return empty if empty and not text.strip() else from_text(text, schema)
    if all(key == _ITEM for key, _ in members) and (kinds != ["object"]):
        items = _within(schema, "items")
        return f"[{', '.join(nested_value(inner, mark, items, deep + 1) for _, inner in members)}]"
    properties = _within(schema, "properties") or {}
    found = {
        key: nested_value(inner, mark, _within(properties, key), deep + 1) for key, inner in members
    }  # of a key that is there twice the last one, as JSON has it
    return (
        "{"
        + ", ".join(f"{json.dumps(key, ensure_ascii=False)}: {value}" for key, value in found.items())
        + "}"
    )


def _within(schema: Mapping[str, Any] | None, key: str) -> Mapping[str, Any] | None:
    found = schema.get(key) if isinstance(schema, Mapping) else None
    return found if isinstance(found, Mapping) else None


def _members(text: str, mark: str) -> list[tuple[str, str]] | None:
    """The elements of which a text consists, but for white space between them; None: it is something else."""
    tag = re.compile(rf"{re.escape(mark)}<(/?)([^<>]{{1,256}})>")
    found: list[tuple[str, str]] = []
    open_key, depth, start, between = "", 0, 0, 0
    for one in tag.finditer(text):
        closes, key = bool(one[1]), one[2]
        if depth == 0:
            if closes or text[between : one.start()].strip():
                return None
            open_key, depth, start = key, 1, one.end()
        elif key == open_key:
            depth += -1 if closes else 1
            if depth == 0:
                found.append((key, text[start : one.start()]))
                between = one.end()
    return None if depth or text[between:].strip() else found
