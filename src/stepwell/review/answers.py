"""What the roles of the crew answer with: schemas that a server's grammar holds, and how an answer is read.

The grammar of a sentence is an allow-list: letters, a few marks, and the handles of this sentence. No numeral
of any script is in it, and no sign such as %, so that a number cannot be written. A server without grammars
may answer with anything; what it answers is read all the same, and checked.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

Option = TypeVar("Option")
LETTERS_AND_MARKS = "A-Za-z ,;:'()-"
FEWEST_SIGNS = 8
"""Of a sentence: handles and letters count one each."""


def order_schema(letters: str) -> Mapping[str, object]:
    """All letters, in any order."""
    item = {"type": "string", "enum": list(letters)}
    order = {"type": "array", "minItems": len(letters), "maxItems": len(letters), "items": item}
    return {
        "type": "object",
        "required": ["order"],
        "additionalProperties": False,
        "properties": {"order": order},
    }


def order_of(answer: str, letters: str) -> list[str] | None:
    """The letters in the order of the answer, each once; those that it leaves out follow. ``None``: no
    order.
    """
    try:
        given = json.loads(answer)["order"]
    except (ValueError, KeyError, TypeError):
        return None
    if not isinstance(given, list):
        return None
    named = [one for one in dict.fromkeys(map(str, given)) if one in letters and len(one) == 1]
    return [*named, *(letter for letter in letters if letter not in named)] if named else None


def choice_schema(options: Mapping[str, Sequence[str]]) -> Mapping[str, object]:
    """One of the options for each name."""
    return {
        "type": "object",
        "required": list(options),
        "additionalProperties": False,
        "properties": {name: {"type": "string", "enum": list(some)} for name, some in options.items()},
    }


def choice_of(answer: str, name: str, options: Sequence[str]) -> str | None:
    """Which of the options the answer has for a name. ``None``: none of them."""
    try:
        chosen = json.loads(answer)[name]
    except (ValueError, KeyError, TypeError):
        return None
    return chosen if chosen in options else None


def turned(options: Sequence[Option], by: int) -> list[Option]:
    """The same options, beginning with another one."""
    by %= len(options)
    return [*options[by:], *options[:by]]


def sentence_schema(handles: Iterable[str], most: int) -> Mapping[str, object]:
    """One sentence of letters, marks and these handles, as often as they come, of ``most`` signs at most."""
    named = "|".join(rf"\{{{name}\}}" for name in handles)
    pattern = rf"^([{LETTERS_AND_MARKS}]{'|' + named if named else ''}){{{FEWEST_SIGNS},{most}}}\.$"
    return {
        "type": "object",
        "required": ["sentence"],
        "additionalProperties": False,
        "properties": {"sentence": {"type": "string", "pattern": pattern}},
    }


def sentence_of(answer: str) -> str:
    """The sentence of an answer; one of a server that does not write JSON is the sentence itself."""
    try:
        said = json.loads(answer)["sentence"]
    except (ValueError, KeyError, TypeError):
        return answer
    return said if isinstance(said, str) else ""
