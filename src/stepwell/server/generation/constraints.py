"""What a request says its answer must look like, in every spelling that clients of other servers use.

OpenAI: ``response_format`` and ``text.format``. llama.cpp's server: ``grammar``, ``json_schema``, and
``response_format`` of type ``json_object`` with a ``schema``. vLLM: ``guided_*`` and ``structured_outputs``.
A constraint is honoured or refused, never ignored; two at once are refused.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from stepwell.server.errors import bad_request, unsupported
from stepwell.server.settings import ServerSettings
from stepwell.server.wire.schema import ResponseFormat, Sampling


@dataclass(frozen=True, slots=True)
class Constraint:
    """What the answer must look like. At most one of these is set."""

    json_schema: str | None = None
    grammar: str | None = None
    regex: str | None = None
    calls: str | None = None
    """Calls that are demanded, in the model's own syntax; see ``SamplingParams.calls``."""


FREE = Constraint()
ANY_OBJECT = Constraint(json_schema="{}")

_FIELDS = ("grammar", "json_schema", "guided_json", "guided_regex", "guided_choice", "guided_grammar")
_STRUCTURED = ("json_", "regex", "choice", "grammar", "json_object")


def constraint_of(
    response_format: ResponseFormat | None, wanted: Sampling, settings: ServerSettings
) -> Constraint:
    """The constraint that the request asks for. Raises ``ApiError``."""
    given = list(_given(response_format, wanted))
    if not given:
        return FREE
    if len(given) > 1:
        names = " and ".join(f"'{name}'" for name, _, _ in given[:2])
        raise bad_request(f"Give only one of {names}.", param=given[1][0])
    param, kind, value = given[0]
    return _made(param, kind, value, settings)


def _given(response_format: ResponseFormat | None, wanted: Sampling) -> list[tuple[str, str, Any]]:
    """(field, kind, value) of everything that constrains the answer."""
    given: list[tuple[str, str, Any]] = []
    if response_format is not None and response_format.type != "text":
        named = response_format.json_schema
        schema = named.schema_ if named is not None else response_format.schema_
        given.append(("response_format", "json", {} if schema is None else schema))
    given += [
        (name, name.removeprefix("guided_").replace("json_schema", "json"), value)
        for name in _FIELDS
        if (value := getattr(wanted, name)) is not None
    ]
    structured = wanted.structured_outputs
    if structured is not None:
        if structured.structural_tag is not None:
            raise unsupported("Structural tags are not supported; use tools.", param="structured_outputs")
        for name in _STRUCTURED:
            value = getattr(structured, name)
            if value is not None and value is not False:
                kind = "json" if name in ("json_", "json_object") else name
                given.append(("structured_outputs", kind, {} if value is True else value))
        if not any(name == "structured_outputs" for name, _, _ in given):
            raise bad_request("'structured_outputs' holds no constraint.", param="structured_outputs")
    return given


def _made(param: str, kind: str, value: Any, settings: ServerSettings) -> Constraint:
    if kind == "json":
        return json_constraint(_schema(value, param), param, settings)
    if kind == "choice":
        return _short(Constraint(grammar=one_of(value)), param, settings)
    return _short(Constraint(**{kind: value}), param, settings)


def _schema(value: Any, param: str) -> Mapping[str, Any]:
    """A schema may come as text, as vLLM allows."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except (ValueError, RecursionError):
            raise bad_request(f"'{param}' is not a JSON schema: it is not JSON.", param=param) from None
    if value is True:
        return {}
    if not isinstance(value, dict):
        raise bad_request(f"'{param}' is not a JSON schema: it is not an object.", param=param)
    return value


def one_of(choices: Sequence[str]) -> str:
    """A GBNF grammar of exactly these texts."""
    return "root ::= " + " | ".join(_literal(choice) for choice in dict.fromkeys(choices))


def _literal(text: str) -> str:
    return '"' + "".join(c if c.isalnum() or c == " " else f"\\U{ord(c):08X}" for c in text) + '"'


def _short(constraint: Constraint, param: str, settings: ServerSettings) -> Constraint:
    text = constraint.grammar or constraint.regex or ""
    if len(text.encode("utf-8", "replace")) > settings.max_grammar_bytes:
        what = "grammar" if constraint.grammar else "regular expression"
        raise bad_request(f"The {what} is longer than {settings.max_grammar_bytes} bytes.", param=param)
    return constraint


def json_constraint(schema: Mapping[str, Any], param: str, settings: ServerSettings) -> Constraint:
    """A JSON schema as text. Raises ``ApiError`` when it is too long or points elsewhere."""
    require_local_refs(schema, param)
    text = json.dumps(schema, ensure_ascii=True, separators=(",", ":"))
    if len(text) > settings.max_grammar_bytes:
        raise bad_request(f"The JSON schema is longer than {settings.max_grammar_bytes} bytes.", param=param)
    return Constraint(json_schema=text)


def require_local_refs(schema: Any, param: str) -> None:
    """Schema compilers fetch what ``$ref`` names: a client must not make the server call a URL."""
    if isinstance(schema, Mapping):
        ref = schema.get("$ref")
        if isinstance(ref, str) and not ref.startswith("#"):
            raise unsupported("A $ref in a JSON schema must point into the same schema.", param=param)
    children = schema.values() if isinstance(schema, Mapping) else schema if isinstance(schema, list) else ()
    for child in children:
        require_local_refs(child, param)
