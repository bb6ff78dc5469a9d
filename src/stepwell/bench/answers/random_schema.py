"""JSON schemas as people write them, drawn from a seed: nested, bounded, with values hard to quote."""

from __future__ import annotations

from random import Random
from typing import Any

Json = dict[str, Any]

MAX_DEPTH = 3
NAMES = (
    "name",
    "city",
    "días",
    "a b",
    'the "best"',
    "unit_price",
    "x",
    "tags",
    "👍",
    "is_open",
    "$ref",
    "node-id",
)
TEXTS = (
    "red",
    "",
    'say "hi"',
    "back\\slash",
    "two\nlines",
    "tab\there",
    "日本",
    "👩‍👧",
    "</tool_call>",
    "null",
)
PATTERNS = (r"^[A-Z]{2}-\d{4}$", r"^\d{3}$", r"^(red|green) [a-z]{1,6}$", r"^\w{1,8}@[a-z]{2,6}\.com$")
FORMATS = ("date", "date-time", "uuid", "ipv4", "email")


def random_schema(seed: int) -> Json:
    """The same seed gives the same schema everywhere."""
    draw = Random(seed)
    schema = _object(draw, 0)
    if draw.random() < 0.25:
        schema["$defs"] = {"part": _object(draw, MAX_DEPTH - 1)}
        schema["properties"]["part"] = {"$ref": "#/$defs/part"}
        schema["required"] = sorted({*schema["required"], "part"})
    return schema


def _any(draw: Random, depth: int) -> Json:
    kinds = [_string, _string, _integer, _number, _boolean, _enum, _constant]
    if depth < MAX_DEPTH:
        kinds += [_object, _array, _nullable, _either]
    return draw.choice(kinds)(draw, depth)


def _object(draw: Random, depth: int) -> Json:
    names = draw.sample(NAMES, draw.randint(1, 4 - min(depth, 2)))
    required = [name for name in names if draw.random() < 0.7] or names[:1]
    return {
        "type": "object",
        "properties": {name: _any(draw, depth + 1) for name in names},
        "required": required,
        "additionalProperties": False,
    }


def _array(draw: Random, depth: int) -> Json:
    least = draw.randint(0, 2)
    most = least + draw.randint(0, 2)
    return {"type": "array", "items": _any(draw, depth + 1), "minItems": least, "maxItems": most}


def _string(draw: Random, depth: int) -> Json:
    match draw.randrange(4):
        case 0:
            return {"type": "string", "pattern": draw.choice(PATTERNS)}
        case 1:
            return {"type": "string", "format": draw.choice(FORMATS)}
    least = draw.randint(0, 3)
    return {"type": "string", "minLength": least, "maxLength": least + draw.randint(1, 20)}


def _integer(draw: Random, depth: int) -> Json:
    least = draw.randint(-50, 50)
    bounds = draw.choice((("minimum", "maximum"), ("exclusiveMinimum", "exclusiveMaximum")))
    schema: Json = {"type": "integer", bounds[0]: least, bounds[1]: least + draw.randint(12, 500)}
    if draw.random() < 0.3:
        schema["multipleOf"] = draw.choice((2, 5))
    return schema


def _number(draw: Random, depth: int) -> Json:
    least = draw.randint(-9, 9)
    return {"type": "number", "minimum": least, "maximum": least + draw.choice((1, 2.5, 100))}


def _boolean(draw: Random, depth: int) -> Json:
    return {"type": "boolean"}


def _enum(draw: Random, depth: int) -> Json:
    values: list[Any] = draw.sample(TEXTS, draw.randint(1, 4))
    return {"enum": [*values, *draw.sample([None, 7, 2.5, True], draw.randint(0, 2))]}


def _constant(draw: Random, depth: int) -> Json:
    return {"const": draw.choice((*TEXTS, 42, False, None))}


def _nullable(draw: Random, depth: int) -> Json:
    return {"anyOf": [_any(draw, depth + 1), {"type": "null"}]}


def _either(draw: Random, depth: int) -> Json:
    return {"anyOf": [_any(draw, depth + 1), _any(draw, depth + 1)]}
