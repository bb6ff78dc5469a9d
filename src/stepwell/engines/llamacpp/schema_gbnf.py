"""A JSON schema as GBNF (llama.cpp): it takes all that obeys, and more where GBNF falls short.

Properties come in the order in which the schema names them. Left out, and so allowed to be broken: ``not``,
``if``, ``pattern``, bounds of numbers, ``multipleOf``, ``format``, ``uniqueItems``, ``contains``, counts of
properties, and of ``allOf`` what its parts say about the same thing. ``schemas`` is what the server goes by.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any
from urllib.parse import unquote

from stepwell.engines.llamacpp.gbnf import MAX_COUNT, literal

MAX_RULES = 20_000
MAX_NESTING = 100

_BASE = {
    "space": '| " " | "\\n"{1,2} [ \\t]{0,20}',
    "char": '[^"\\\\\\x7F\\x00-\\x1F] | "\\\\" (["\\\\bfnrt] | "u" [0-9a-fA-F]{4})',
    "text": '"\\"" char* "\\""',
    "integer": '"-"? ("0" | [1-9] [0-9]{0,15})',
    "number": 'integer ("." [0-9]{1,16})? ([eE] [-+]? [0-9]{1,3})?',
    "boolean": '"true" | "false"',
    "null": '"null"',
    "object": '"{" space (pair (space "," space pair)*)? space "}"',
    "pair": 'text space ":" space value',
    "array": '"[" space (value (space "," space value)*)? space "]"',
    "value": "object | array | text | number | boolean | null",
}
_OF_TYPE = {"string": "text", "integer": "integer", "number": "number", "boolean": "boolean", "null": "null"}


def gbnf_of(schema: Mapping[str, Any]) -> str:
    """``ValueError`` with one sentence for what is no schema, points elsewhere, or has no end."""
    writer = _Writer(schema)
    writer.rules["root"] = writer.body(schema, 0)
    lines = [f"{name} ::= {body}" for name, body in {**writer.rules, **_BASE}.items()]
    return "\n".join(lines) + "\n"


class _Writer:
    def __init__(self, root: Mapping[str, Any]) -> None:
        self._root = root
        self.rules: dict[str, str] = {}
        self._refs: dict[str, str] = {"#": "root"}

    def body(self, schema: Any, depth: int) -> str:
        """The right side of a rule for ``schema``."""
        if depth > MAX_NESTING or len(self.rules) > MAX_RULES:
            raise ValueError("the JSON schema is too large or nested too deeply for a grammar")
        if schema is True or schema is False or schema == {}:
            return "value"
        if not isinstance(schema, dict):
            raise ValueError("the JSON schema holds something that is no schema")
        if "$ref" in schema:
            return self._ref(schema["$ref"], depth)
        if "const" in schema or "enum" in schema:
            return self._values(schema)
        for key in ("anyOf", "oneOf"):
            options = [one for one in _list(schema.get(key)) if not _only_requires(one)]
            if options:
                return " | ".join(self._rule(_with(schema, one), depth) for one in options)
        if _list(schema.get("allOf")):
            return self.body(self._merged(schema), depth + 1)
        types = _types_of(schema)
        if len(types) > 1:
            return " | ".join(self._rule({**schema, "type": one}, depth) for one in types)
        return self._typed(types[0] if types else "value", schema, depth)

    def _rule(self, schema: Any, depth: int) -> str:
        """The name of a rule for ``schema``; what is short has one already."""
        body = self.body(schema, depth + 1)
        if body in _BASE or body in self.rules or body in self._refs.values():
            return body
        name = f"s{len(self.rules)}"
        self.rules[name] = body
        return name

    def _typed(self, kind: str, schema: dict[str, Any], depth: int) -> str:
        if kind == "object" and (
            schema.get("properties") or isinstance(schema.get("additionalProperties"), bool | dict)
        ):
            return self._object(schema, depth)
        if kind == "array" and {"items", "prefixItems", "minItems", "maxItems"} & set(schema):
            return self._array(schema, depth)
        if kind == "string" and {"minLength", "maxLength"} & set(schema):
            return f'"\\"" char{_counts(schema.get("minLength"), schema.get("maxLength"))} "\\""'
        if kind in ("object", "array", "value"):
            return kind
        if kind not in _OF_TYPE:
            raise ValueError(f"the JSON schema has the unknown type {kind[:40]!r}")
        return _OF_TYPE[kind]

    def _ref(self, ref: Any, depth: int) -> str:
        if not isinstance(ref, str) or not ref.startswith("#"):
            raise ValueError(f"$ref {str(ref)[:100]!r} does not point into the schema itself")
        if ref in self._refs:
            return self._refs[ref]
        target: Any = self._root
        for step in ref[1:].split("/")[1:]:
            name = unquote(step).replace("~1", "/").replace("~0", "~")
            if isinstance(target, list) and name.isdecimal() and int(name) < len(target):
                target = target[int(name)]
            elif isinstance(target, dict) and name in target:
                target = target[name]
            else:
                raise ValueError(f"$ref {ref[:100]!r} points to nothing")
        name = f"d{len(self._refs)}"
        self._refs[ref] = name
        self.rules[name] = ""
        self.rules[name] = self.body(target, depth + 1)
        if self.rules[name] == name:
            raise ValueError(f"$ref {ref[:100]!r} only points to itself")
        return name

    @staticmethod
    def _values(schema: dict[str, Any]) -> str:
        values = [schema["const"]] if "const" in schema else _list(schema["enum"])
        if not values:
            raise ValueError("the JSON schema has an enum without values")
        return " | ".join(literal(json.dumps(value, ensure_ascii=False)) for value in values)

    def _merged(self, schema: dict[str, Any]) -> dict[str, Any]:
        """``allOf``: properties and required names of all parts; of other keywords the first that says it."""
        merged = {key: value for key, value in schema.items() if key != "allOf"}
        for part in _list(schema.get("allOf")):
            for _ in range(8):
                if isinstance(part, dict) and isinstance(part.get("$ref"), str):
                    part = self._target(part["$ref"])
            for key, value in (part if isinstance(part, dict) else {}).items():
                if key == "properties" and isinstance(merged.get(key), dict) and isinstance(value, dict):
                    merged[key] = {**value, **merged[key]}
                elif key in ("required", "allOf") and isinstance(merged.get(key), list):
                    merged[key] = [*merged[key], *_list(value)]
                else:
                    merged.setdefault(key, value)
        return merged

    def _target(self, ref: str) -> Any:
        target: Any = self._root
        for step in ref[1:].split("/")[1:]:
            target = (
                target.get(unquote(step).replace("~1", "/").replace("~0", "~"))
                if isinstance(target, dict)
                else None
            )
        return target

    def _object(self, schema: dict[str, Any], depth: int) -> str:
        properties = schema.get("properties") or {}
        required = set(map(str, _list(schema.get("required"))))
        parts = [(self._pair(name, one, depth), name in required) for name, one in properties.items()]
        parts += [(self._pair(name, True, depth), True) for name in sorted(required - set(properties))]
        extra = schema.get("additionalProperties", True)
        if extra is not False:
            value = self._rule(extra, depth)
            pair = self._named(f'text space ":" space {value}')
            parts.append((self._named(f'{pair} (space "," space {pair})*'), False))
        return f'"{{" space {self._members(parts)} space "}}"'

    def _named(self, body: str) -> str:
        name = f"s{len(self.rules)}"
        self.rules[name] = body
        return name

    def _pair(self, name: str, schema: Any, depth: int) -> str:
        key = literal(json.dumps(name, ensure_ascii=False))
        return self._named(f'{key} space ":" space {self._rule(schema, depth)}')

    def _members(self, parts: Sequence[tuple[str, bool]]) -> str:
        """Members and the commas between them: rules for what follows something, and for what comes first."""
        after, first = "", ""
        for number in range(len(parts) - 1, -1, -1):
            pair, needed = parts[number]
            with_comma = f'space "," space {pair}'
            alone = f"{pair} {after}".rstrip()
            first = alone if needed else self._named(f"{alone} | {first}") if first else f"({alone})?"
            rest = f"{with_comma} {after}".rstrip()
            after = self._named(rest if needed else f"({with_comma})? {after}".rstrip())
        return first

    def _array(self, schema: dict[str, Any], depth: int) -> str:
        first = _list(schema.get("prefixItems")) or _list(schema.get("items"))
        rest = schema.get("items", True) if not isinstance(schema.get("items"), list) else True
        least, most = _count(schema.get("minItems")) or 0, _count(schema.get("maxItems"))
        items = [self._rule(one, depth) for one in first[: most if most is not None else len(first)]]
        last = self._rule(True if rest is False else rest, depth)
        more = rest is not False and (most is None or most > len(items))
        said = max(1, len(items))
        left = None if most is None else max(0, most - said)
        tail = f'(space "," space {last}){_counts(max(0, least - said), left)}'
        if not items:
            whole = f"{last} {tail}" if more else ""
            whole = whole if least or not whole else f"({whole})?"
        else:
            whole = tail if more else ""
            for number in range(len(items) - 1, -1, -1):
                comma = 'space "," space ' if number else ""
                whole = f"{comma}{items[number]} {whole}".rstrip()
                whole = whole if number < least else f"({whole})?"
        return f'"[" space {whole} space "]"'


def _only_requires(schema: Any) -> bool:
    return (
        isinstance(schema, dict) and set(schema) <= {"required", "not", "properties"} and "required" in schema
    )


def _with(schema: dict[str, Any], option: Any) -> Any:
    """One option of ``anyOf`` together with what stands beside it, as far as both are plain."""
    if not isinstance(option, dict) or "$ref" in option:
        return option
    beside = {
        key: value for key, value in schema.items() if key not in ("anyOf", "oneOf", "$defs", "definitions")
    }
    if isinstance(beside.get("properties"), dict) and isinstance(option.get("properties"), dict):
        option = {**option, "properties": {**beside["properties"], **option["properties"]}}
    return {**beside, **option}


def _types_of(schema: dict[str, Any]) -> list[str]:
    said = schema.get("type")
    if isinstance(said, str):
        return [said]
    if isinstance(said, list) and said:
        return [str(one) for one in said]
    if schema.get("properties") or "additionalProperties" in schema or "required" in schema:
        return ["object"]
    if {"items", "prefixItems"} & set(schema):
        return ["array"]
    return ["string"] if {"minLength", "maxLength", "pattern"} & set(schema) else []


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _count(value: Any) -> int | None:
    return (
        int(value) if isinstance(value, int | float) and not isinstance(value, bool) and value >= 0 else None
    )


def _counts(least: Any, most: Any) -> str:
    """``{m,n}``; what llama.cpp is too small for has no bound."""
    low, high = min(_count(least) or 0, MAX_COUNT), _count(most)
    return f"{{{low},{'' if high is None or high > MAX_COUNT else max(low, high)}}}"
