"""JSON Schema 2020-12 as far as a token mask can hold it: rewritten where exact, else refused by name.

llguidance enforces what it takes and says no to the rest; it does not say where. Here every keyword is looked
at in its place: a refusal names path and keyword. Below a schema marked ``RELAXED`` (the parameters of a
tool) a keyword that cannot be enforced is left out instead, which only ever allows more.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from functools import lru_cache
from typing import Any
from urllib.parse import unquote

from llguidance import LLMatcher

from stepwell.engines.base import RELAXED

MAX_NESTING = 100
MAX_TIMES = 20_000
"""Of a pattern's repetitions, multiplied."""
MAX_INTEGER = 2**53 - 1
"""Of an integer without bounds: what readers of JSON hold. An undecided model writes digits for ever."""
_MOST_NUMBER = 2**63 - 1
MAX_MULTIPLE = 10_000
"""Of ``multipleOf`` without its decimal point: an automaton with that many states holds it."""

Schema = Any
"""A schema is an object or a boolean."""

_AS_THEY_ARE = frozenset(
    (
        "type", "enum", "const", "required", "minItems", "maxItems", "minLength", "maxLength", "minimum",
        "maximum", "exclusiveMinimum", "exclusiveMaximum", "minProperties", "maxProperties", "$anchor",
        "$schema",
    )
)  # fmt: skip
_ONE = frozenset({"additionalProperties", "additionalItems"})
_MANY = frozenset({"anyOf", "allOf", "prefixItems"})
_NAMED = frozenset({"properties", "patternProperties", "$defs", "definitions"})
_REFUSED = frozenset(
    (
        "not", "if", "dependentSchemas", "dependentRequired", "dependencies", "contains",
        "propertyNames", "uniqueItems", "unevaluatedItems", "unevaluatedProperties", "$dynamicRef",
        "$recursiveRef", "oneOf",
    )
)  # fmt: skip
_SAYS_NOTHING = {"uniqueItems": False, "unevaluatedProperties": True, "unevaluatedItems": True, "not": False}
_FORMATS = frozenset(
    (
        "date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uri", "uuid",
    )
)  # fmt: skip
"""Those that are enforced. Any other ``format`` is an annotation, as the standard has it."""
_NAME_PATTERNS = {"uuid": "^[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}$"}


class Unenforceable(ValueError):
    """A keyword in its place that no mask can hold."""

    def __init__(self, path: str, keyword: str, why: str = "cannot be enforced") -> None:
        super().__init__(f"'{keyword}' at {path[:200]} {why}"[:350])
        self.path, self.keyword = path, keyword


def enforceable(schema: Mapping[str, Any]) -> dict[str, Any]:
    """An equal schema (below ``RELAXED``: a wider one) of enforceable keywords. Raises ``Unenforceable``."""
    result = _Rewriter(schema).schema(schema, "#", relaxed=False, depth=0)
    assert isinstance(result, dict)
    return result


class _Rewriter:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root

    def schema(self, schema: Schema, path: str, *, relaxed: bool, depth: int) -> Schema:
        if isinstance(schema, bool):
            return schema
        if not isinstance(schema, dict):
            raise Unenforceable(path, path.rpartition("/")[2], "is not a schema")
        if depth > MAX_NESTING:
            raise Unenforceable(path, "schema", f"is nested more than {MAX_NESTING} deep")
        relaxed = relaxed or schema.get(RELAXED) is True
        if depth and not relaxed and _moves(schema):
            raise Unenforceable(path, "$id", "changes what references point to: leave it out")
        schema = _said_otherwise(schema, self.resolved)
        result: dict[str, Any] = {}
        for key, value in schema.items():
            try:
                if key in _AS_THEY_ARE:
                    _require_readable(value, path, key)
                    result[key] = value
                    continue
                kept = self._keyword(key, value, schema, path, relaxed=relaxed, depth=depth)
            except Unenforceable as problem:
                # What is wrong further down has been left out there, if it could be.
                if not relaxed or problem.path != path:
                    raise
                continue
            if kept is not None:
                result[key if key != "oneOf" else "anyOf"] = kept
        _keep_apart(result, path, relaxed=relaxed)
        if _is_open_integer(result):
            result.update(minimum=-MAX_INTEGER, maximum=MAX_INTEGER)
        if schema.get("nullable") is True and "type" in result:
            result = {"anyOf": [result, {"type": "null"}]}
        return result

    def _keyword(
        self, key: str, value: Any, schema: Schema, path: str, *, relaxed: bool, depth: int
    ) -> Any | None:
        """What becomes of one keyword; None: it is left out because it says nothing."""

        def below(child: Schema, *steps: str | int) -> Schema:
            where = "/".join([path, *map(str, steps)])
            return self.schema(child, where, relaxed=relaxed, depth=depth + 1)

        if key in _ONE or (key == "items" and not isinstance(value, list)):
            return below(value, key)
        if key in _MANY or key == "items":
            return [below(one, key, number) for number, one in enumerate(_list(value, key, path))]
        if key in _NAMED:
            if key == "patternProperties":
                for pattern in _object(value, key, path):
                    require_pattern(pattern, f"{path}/{key}", key)
            return {name: below(one, key, name) for name, one in _object(value, key, path).items()}
        if key == "oneOf":
            return self._one_of(_list(value, key, path), schema, path, below, relaxed=relaxed)
        if key in _REFUSED:
            raise Unenforceable(path, key)
        if key == "$ref" and self._is_loop(schema, ()):
            raise Unenforceable(path, key, "points to itself")
        return _checked(key, value, path)

    def _is_loop(self, schema: Schema, seen: tuple[str, ...]) -> bool:
        """Whether what has to hold for the schema is the schema itself, with nothing written in between."""
        if not isinstance(schema, dict):
            return False
        ref = schema.get("$ref")
        if isinstance(ref, str) and ref.startswith("#"):
            return ref in seen or self._is_loop(self._at(ref), (*seen, ref))
        inside = list(_list_of(schema.get("allOf")))
        for key in ("anyOf", "oneOf"):
            options = _list_of(schema.get(key))
            inside += options if len(options) == 1 else []
        return any(self._is_loop(one, seen) for one in inside)

    def _one_of(
        self, options: list[Any], schema: Schema, path: str, below: Callable[..., Schema], *, relaxed: bool
    ) -> list[Schema]:
        pairs = ((a, b) for i, a in enumerate(options) for b in options[i + 1 :])
        if "anyOf" in schema or not (relaxed or all(self._apart(a, b) for a, b in pairs)):
            raise Unenforceable(path, "oneOf", "cannot be enforced: its schemas may hold at once; use anyOf")
        return [below(option, "oneOf", number) for number, option in enumerate(options)]

    def resolved(self, schema: Schema) -> Schema:
        """What a plain ``$ref`` points to, or the schema itself."""
        for _ in range(8):
            ref = schema.get("$ref") if isinstance(schema, dict) else None
            if not isinstance(ref, str) or not ref.startswith("#"):
                return schema
            found = self._at(ref)
            if found is None:
                return schema
            schema = found
        return schema

    def _at(self, ref: str) -> Any:
        """What a path into the schema itself points to; None: nothing, or it is no path."""
        found: Any = self._root if ref == "#" or ref.startswith("#/") else None
        for step in ref[1:].split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(found, list) and name.isdecimal() and int(name) < len(found):
                found = found[int(name)]
            else:
                found = found.get(name) if isinstance(found, dict) else None
        return found

    def _apart(self, one: Schema, other: Schema, depth: int = 0) -> bool:
        """Whether surely no value obeys both."""
        one, other = self.resolved(one), self.resolved(other)
        if one is False or other is False:
            return True
        if not isinstance(one, dict) or not isinstance(other, dict) or depth > 3:
            return False
        values, others = _values(one), _values(other)
        if values is not None and others is not None:
            return not any(_equal(a, b) for a in values for b in others)
        types, other_types = _types(one), _types(other)
        if types and other_types and not types & other_types:
            return True
        if types != {"object"} or other_types != {"object"}:
            return False
        both = set(_as_list(one.get("required"))) & set(_as_list(other.get("required")))
        mine, theirs = one.get("properties"), other.get("properties")
        if not isinstance(mine, dict) or not isinstance(theirs, dict):
            return False
        return any(
            self._apart(mine[name], theirs[name], depth + 1)
            for name in sorted(both & set(mine) & set(theirs))
        )


def _moves(schema: Mapping[str, Any]) -> bool:
    """Whether an ``$id`` is a new base for references below it (older drafts named places by ``#name``)."""
    identifier = schema.get("$id")
    named = isinstance(identifier, str) and identifier.startswith("#")
    return identifier is not None and not named and '"$ref"' in json.dumps(schema)


def _require_readable(value: Any, path: str, keyword: str) -> None:
    """Numbers that the mask's own reader of JSON cannot hold, wherever they stand in a value."""
    values = [value]
    while values:
        one = values.pop()
        if isinstance(one, list):
            values += one
        elif isinstance(one, dict):
            values += one.values()
        elif isinstance(one, int) and abs(one) > _MOST_NUMBER:
            raise Unenforceable(path, keyword, f"has a number of more than {len(str(_MOST_NUMBER))} digits")
        elif isinstance(one, float) and not math.isfinite(one):
            raise Unenforceable(path, keyword, "has a number that no computer's float holds")


def _keep_apart(schema: dict[str, Any], path: str, *, relaxed: bool) -> None:
    """Where a whole number is an excluded bound and the other bound less than one away, llguidance lets the
    bound through (0 for ``exclusiveMinimum: 0`` with ``maximum: 0.5``). It is moved inwards by a millionth of
    the way, which leaves less room and is never wrong."""
    if "multipleOf" in schema or schema.get("type") == "integer":
        return
    lower = _bound(schema, "minimum", "exclusiveMinimum", max)
    upper = _bound(schema, "maximum", "exclusiveMaximum", min)
    if lower is None or upper is None or not 0 < upper - lower < 1:
        return
    for key, kept, at, inwards in (
        ("exclusiveMinimum", "minimum", lower, 1),
        ("exclusiveMaximum", "maximum", upper, -1),
    ):
        if key in schema and schema[key] == at and at == int(at):
            moved = float(at + inwards * (upper - lower) / 1_000_000)
            if moved == float(at) and not relaxed:
                raise Unenforceable(path, key, "is too near to the other bound")
            del schema[key]
            schema[kept] = moved


def _bound(
    schema: Mapping[str, Any], key: str, exclusive: str, stricter: Callable[..., Decimal]
) -> Decimal | None:
    """The bound that holds, of one that is included and one that is not."""
    given = [schema[name] for name in (key, exclusive) if name in schema]
    numbers = [Decimal(repr(one)) for one in given if isinstance(one, int | float) and one is not True]
    return stricter(numbers) if numbers and len(numbers) == len(given) else None


def _is_open_integer(schema: Mapping[str, Any]) -> bool:
    types = schema.get("type")
    bounds = {"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "enum", "const"}
    return (types == "integer" or (isinstance(types, list) and "integer" in types)) and not bounds & set(
        schema
    )


def _said_otherwise(schema: dict[str, Any], resolved: Callable[[Schema], Schema]) -> dict[str, Any]:
    """The same schema without keywords that say nothing, and names of properties as patterns."""
    told = dict(schema)
    for key, nothing in _SAYS_NOTHING.items():
        if told.get(key) is nothing:
            del told[key]
    if told.get("uniqueItems") is True and told.get("maxItems") in (0, 1):
        del told["uniqueItems"]
    if "then" not in told and "else" not in told:
        told.pop("if", None)
    applied = {"allOf", "anyOf", "oneOf", "$ref", "if", "dependentSchemas"}
    if told.get("unevaluatedProperties") is False and not applied & set(told):
        del told["unevaluatedProperties"]
        told.setdefault("additionalProperties", False)
    names = resolved(told.get("propertyNames"))
    if isinstance(names, dict) and not {"properties", "patternProperties", "required"} & set(told):
        told = _with_names(told, names)
    return told


def _with_names(told: dict[str, Any], names: dict[str, Any]) -> dict[str, Any]:
    """``propertyNames``, where it alone says which names there are, as names or patterns."""
    rest = told.get("additionalProperties", True)
    without = {key: value for key, value in told.items() if key != "propertyNames"}
    meant = {
        key: value for key, value in names.items() if key not in ("title", "description", "type", "$comment")
    }
    if not meant:
        return without
    values = _values(meant)
    if values is not None and all(isinstance(value, str) for value in values):
        return {**without, "properties": dict.fromkeys(values, rest), "additionalProperties": False}
    pattern = meant["pattern"] if set(meant) == {"pattern"} else None
    if set(meant) == {"format"}:
        pattern = _NAME_PATTERNS.get(str(meant["format"]))
    if set(meant) <= {"minLength", "maxLength"}:
        pattern = f"^[\\s\\S]{{{meant.get('minLength', 0)},{meant.get('maxLength', '')}}}$"
    if not isinstance(pattern, str):
        return told
    return {**without, "patternProperties": {pattern: rest}, "additionalProperties": False}


def _checked(key: str, value: Any, path: str) -> Any | None:
    if key == "$ref":
        if not isinstance(value, str) or not value.startswith("#"):
            raise Unenforceable(path, key, "does not point into the schema itself")
        return value
    if key == "pattern":
        require_pattern(value, path, key)
        return value
    if key == "format":
        return value if value in _FORMATS else None
    if key == "multipleOf":
        _require_multiple(value, path)
        return value
    return None  # an annotation, or a keyword that is not defined


def _require_multiple(value: Any, path: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
        raise Unenforceable(path, "multipleOf", "is not a positive number")
    digits = f"{value:.12f}".rstrip("0").replace(".", "")
    if int(digits or 0) > MAX_MULTIPLE or not int(digits or 0):
        raise Unenforceable(
            path, "multipleOf", f"has too many digits: at most {MAX_MULTIPLE} without its point"
        )


def require_pattern(pattern: Any, path: str, keyword: str) -> None:
    """Raises ``Unenforceable`` for a regular expression that cannot be held, or repeats too much."""
    if not isinstance(pattern, str):
        raise Unenforceable(path, keyword, "is not text")
    if repeats_too_much(pattern):
        raise Unenforceable(path, keyword, f"repeats too much: {pattern[:60]!r}")
    if wrong := _pattern_problem(pattern):
        raise Unenforceable(path, keyword, f"cannot be enforced: {wrong[:120]} in {pattern[:60]!r}")


def repeats_too_much(pattern: str) -> bool:
    """Counts in one another multiply; whether they are in one another is not asked."""
    counts = [int(count) for count in re.findall(r"(?<=[{,])[0-9]{1,9}(?=[,}])", pattern)]
    return bool(re.search(r"\{[0-9,]*[0-9]{10}", pattern)) or math.prod(max(1, c) for c in counts) > MAX_TIMES


@lru_cache(maxsize=1024)
def _pattern_problem(pattern: str) -> str:
    grammar = LLMatcher.grammar_from_json_schema({"type": "string", "pattern": pattern})
    failed, messages = LLMatcher.validate_grammar_with_warnings(grammar)
    if not failed:
        return ""
    lines = [line.strip() for line in messages[0].splitlines() if line.strip()]
    return next((line for line in lines if line.startswith("error:")), lines[0] if lines else "it is refused")


def _list_of(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _list(value: Any, key: str, path: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unenforceable(path, key, "is not a list")
    return value


def _object(value: Any, key: str, path: str) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise Unenforceable(path, key, "is not an object")
    return value


def _as_list(value: Any) -> list[str]:
    return [one for one in value if isinstance(one, str)] if isinstance(value, list) else []


def _values(schema: Mapping[str, Any]) -> list[Any] | None:
    if "const" in schema:
        return [schema["const"]]
    return list(schema["enum"]) if isinstance(schema.get("enum"), list) else None


def _equal(one: Any, other: Any) -> bool:
    return bool(one == other) and isinstance(one, bool) == isinstance(other, bool)


def _types(schema: Mapping[str, Any]) -> set[str]:
    """The types a value may have; an integer is a number. Empty: not said."""
    said = schema.get("type")
    types = {said} if isinstance(said, str) else set(_as_list(said))
    for value in _values(schema) or [] if not types else []:
        types.add(_type_of(value))
    return {"number" if name == "integer" else name for name in types}


def _type_of(value: Any) -> str:
    for kind, name in (
        (bool, "boolean"),
        (str, "string"),
        (int | float, "number"),
        (list, "array"),
        (dict, "object"),
    ):
        if isinstance(value, kind):
            return name
    return "null"
