"""A grammar of calls in a family's own syntax: marks as tokens, arguments by the schema of each function.

Its text (``SamplingParams.calls``) is a JSON object: ``syntax`` (``CallSyntax`` as an object), ``tools`` (the
parameters' schema of each function by name) and ``most`` (calls in one answer).
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from llguidance import LLMatcher

from stepwell.engines.base import ID
from stepwell.engines.llamacpp.gbnf import quoted
from stepwell.engines.llamacpp.schemas import enforceable

_ID = "/[a-zA-Z0-9]{9}/"
"""What Mistral's templates take, and no other minds."""


def of_calls(text: str, options: Mapping[str, Any], marks: Mapping[str, int]) -> str:
    """llguidance's grammar. ``marks``: tokens of the vocabulary that are no text, by their name; ``options``:
    of JSON. ``ValueError`` with one sentence when a schema cannot be used."""
    given = json.loads(text)
    syntax, tools = given["syntax"], given["tools"]
    find = _finder(marks)
    before, middle, after = (_row(syntax[part], find, marks) for part in ("before", "middle", "after"))
    rules = []
    for number, (name, schema) in enumerate(tools.items()):
        rules.append(f"call{number}: {quoted(name)} {middle} arguments{number}")
        rules.append(f"arguments{number}: %json {json.dumps(_held(name, schema, options))}")
    more = ""
    if syntax["between"] is not None and given["most"] > 1:
        more = f"({_row(syntax['between'], find, marks)} call){{0,{given['most'] - 1}}}"
    names = " | ".join(f"call{number}" for number in range(len(tools)))
    lines = [f"start: {before} call {more} {after}", f"call: {names}", *rules]
    return str(LLMatcher.grammar_from_lark("\n".join(lines) + "\n"))


def _held(name: str, schema: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    try:
        return {**enforceable(schema), "x-guidance": dict(options)}
    except ValueError as error:
        raise ValueError(f"the JSON schema of the tool '{name}' cannot be used: {error}") from None


def _finder(marks: Mapping[str, int]) -> re.Pattern[str]:
    """The longest mark at a place."""
    names = sorted((name for name in marks if name), key=lambda name: (-len(name), name))
    return re.compile("|".join(map(re.escape, names)) if names else "(?!)")


def _row(parts: Sequence[str], find: re.Pattern[str], marks: Mapping[str, int]) -> str:
    """Texts and places as a row of Lark's."""
    row: list[str] = []
    for part in parts:
        if part == ID:
            row.append(_ID)
            continue
        at = 0
        for match in find.finditer(part):
            row += [quoted(part[at : match.start()])] if match.start() > at else []
            row.append(f"<[{marks[match[0]]}]>")
            at = match.end()
        row += [quoted(part[at:])] if at < len(part) else []
    return " ".join(row)
