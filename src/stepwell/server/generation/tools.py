"""Function calling: which tools a request offers, how an answer is made to call one, and what it called.

With ``tool_choice`` ``auto`` the model writes a call in its own template's syntax, and the model's reader
finds it (see ``reading``). When a call is required, a grammar holds the answer to that same syntax, with the
arguments of each function by its schema: a model of 135 M parameters then calls correctly as well. Where a
template's syntax cannot be demanded, and where tools and a JSON answer format come together, the answer is
``{"name": ..., "arguments": {...}}`` by a JSON schema built from the tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from stepwell.engines.base import RELAXED, CallSyntax
from stepwell.server.errors import bad_request
from stepwell.server.generation.constraints import FREE, Constraint, json_constraint, require_local_refs
from stepwell.server.settings import ServerSettings
from stepwell.server.wire.schema import Function, ToolChoice

MOST_DEMANDED = 8
"""Calls in one answer, where several may come: small models find no end."""
NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class ToolSet:
    """The tools of one request, ready to render and to parse."""

    rendered: tuple[dict[str, Any], ...] = ()
    """What the chat template sees (OpenAI's chat shape)."""
    functions: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    """The parameters' schema of each function that may be called, by name."""
    constraint: Constraint = FREE
    parallel: bool = True
    straight: bool = False
    """The answer is demanded behind the prompt's place for reasoning."""

    @property
    def constrained(self) -> bool:
        """The answer is what its constraint says, be it a call, and holds no marks."""
        return self.constraint != FREE and self.constraint.calls is None


def build_tools(
    functions: Sequence[Function],
    choice: ToolChoice | None,
    answer: Constraint,
    settings: ServerSettings,
    *,
    parallel: bool = True,
    several: bool = False,
    syntax: CallSyntax | None = None,
) -> ToolSet:
    """The tools of a request. ``answer`` is what the answer format asks for; ``several``: where a call is
    demanded, more than one may come; ``syntax``: how the model writes it (None: as bare JSON). Raises
    ``ApiError``."""
    mode = choice.mode if choice is not None else "auto"
    if len(functions) > settings.max_tools:
        raise bad_request(f"At most {settings.max_tools} tools are allowed.", param="tools")
    if not functions and mode == "required":
        raise bad_request("'tool_choice' needs 'tools'.", param="tool_choice")
    allowed = _allowed(functions, choice)
    if mode == "none" or not allowed:
        return ToolSet(constraint=answer, straight=answer != FREE)
    constraint = _constraint(allowed, mode, answer, settings)
    straight = constraint != FREE
    if mode == "required" and syntax is not None:
        constraint, straight = _demanded(allowed, syntax, settings, several=several), syntax.straight
    return ToolSet(
        rendered=tuple(_rendered(function) for function in functions),
        functions={function.name: _parameters(function) for function in allowed},
        constraint=constraint,
        parallel=parallel,
        straight=straight,
    )


def _demanded(
    allowed: Sequence[Function], syntax: CallSyntax, settings: ServerSettings, *, several: bool
) -> Constraint:
    """Calls of these functions and nothing else, as the model writes them."""
    tools = {f.name: {**_parameters(f), RELAXED: not f.strict} for f in allowed}
    for schema in tools.values():
        require_local_refs(schema, "tools")
    most = MOST_DEMANDED if several else 1
    text = json.dumps({"syntax": asdict(syntax), "tools": tools, "most": most}, separators=(",", ":"))
    if len(text) > settings.max_grammar_bytes:
        raise bad_request(f"The tools are longer than {settings.max_grammar_bytes} bytes.", param="tools")
    return Constraint(calls=text)


def _allowed(functions: Sequence[Function], choice: ToolChoice | None) -> list[Function]:
    names = [function.name for function in functions]
    if twice := next((name for name in names if names.count(name) > 1), None):
        raise bad_request(f"The tool '{twice}' is there twice.", param="tools")
    if choice is None or choice.names is None:
        return list(functions)
    if missing := next((name for name in choice.names if name not in names), None):
        raise bad_request(
            f"'tool_choice' names '{missing[:64]}', which is not in 'tools'.", param="tool_choice"
        )
    return [function for function in functions if function.name in choice.names]


def _rendered(function: Function) -> dict[str, Any]:
    return {
        "type": "function",
        "function": {
            "name": function.name,
            "description": function.description or "",
            "parameters": function.parameters or dict(NO_PARAMETERS),
        },
    }


def _constraint(
    allowed: Sequence[Function], mode: str, answer: Constraint, settings: ServerSettings
) -> Constraint:
    if answer.grammar is not None or answer.regex is not None:
        raise bad_request("A grammar or regular expression cannot be combined with tools.", param="grammar")
    if mode == "required":
        return json_constraint(call_schema(allowed, None), "tools", settings)
    if answer.json_schema is not None:
        return json_constraint(call_schema(allowed, json.loads(answer.json_schema)), "tools", settings)
    return FREE


def call_schema(functions: Sequence[Function], otherwise: Mapping[str, Any] | None) -> dict[str, Any]:
    """A schema that one call of one of the functions obeys, or a value that obeys ``otherwise``.

    Every tool's schema keeps its own ``#/...`` references: it is moved below ``$defs`` as a whole and
    its references are rewritten to follow.
    """
    definitions: dict[str, Any] = {
        f.name: {**_moved(_parameters(f), f.name), RELAXED: not f.strict} for f in functions
    }
    shapes: list[dict[str, Any]] = [_one_call(function.name) for function in functions]
    if otherwise is not None:
        # A name no tool can have, so that nothing collides.
        definitions["(answer)"] = _moved(dict(otherwise) or {"type": "object"}, "(answer)")
        shapes.append({"$ref": "#/$defs/(answer)"})
    root = shapes[0] if len(shapes) == 1 else {"anyOf": shapes}
    return {**root, "$defs": definitions}


def _parameters(function: Function) -> dict[str, Any]:
    """A tool's arguments are an object, whatever its schema leaves unsaid."""
    return {"type": "object", **(function.parameters or NO_PARAMETERS)}


def _one_call(name: str) -> dict[str, Any]:
    return {
        "type": "object",
        "properties": {"name": {"const": name}, "arguments": {"$ref": f"#/$defs/{name}"}},
        "required": ["name", "arguments"],
        "additionalProperties": False,
    }


def _moved(schema: Any, name: str) -> Any:
    if isinstance(schema, list):
        return [_moved(item, name) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    moved = {key: _moved(value, name) for key, value in schema.items()}
    ref = schema.get("$ref")
    if isinstance(ref, str) and (ref == "#" or ref.startswith("#/")):
        moved["$ref"] = f"#/$defs/{name}{ref[1:]}"
    return moved
