"""What an agent is told before its first task: its instructions, its tools and the roles it may use.

With ``calls = "tools"`` the API carries the tools. With ``calls = "schema"`` they would stand in the grammar
alone, which the model never reads, so the system message lists them. The text depends on the role alone:
all agents of a role share it as their prefix, and the server computes it once.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any

from stepwell.agents.crews.definition import Role
from stepwell.agents.schemas import ANSWER
from stepwell.agents.tools.base import Tool

MAX_ABOUT_CHARS = 400
"""Of the description of a tool, a parameter or a role: MCP servers write pages."""
MAX_DEPTH = 3
"""How deep types are spelled out; a schema may refer to itself."""
MAX_SAMPLE_DEPTH = 8
_WORDS = {"string": "text", "boolean": "true or false", "null": "nothing"}
_SAMPLES: Mapping[str, Any] = {"boolean": True, "null": None}
_SENTENCE_END = re.compile(r"(?<=[.!?\u3002\uff01\uff1f])\s*(?=\s|$)|(?<=[\u3002\uff01\uff1f])")


def briefing(role: Role, tools: Sequence[Tool], roles: Mapping[str, Role]) -> str:
    """The system message of an agent. ``roles`` are all roles of its crew, by name."""
    if not role.briefed:
        return role.instructions
    parts = [role.instructions]
    if role.plans and (role.splits or len(role.may_spawn) > 1):
        parts.append("Roles:\n" + roles_told([roles[name] for name in role.may_spawn]))
    if tools and role.calls == "schema":
        parts.append(tools_told(tools, role.schema))
    return "\n\n".join(parts)


def roles_told(roles: Sequence[Role]) -> str:
    """A line for each role: its name and what it does."""
    return "\n".join(f"- {role.name}: {what_it_does(role)}" for role in roles)


def what_it_does(role: Role) -> str:
    """The role's ``description``; without one, the first sentence of its instructions."""
    return _brief(role.description or _SENTENCE_END.split(role.instructions.strip(), maxsplit=1)[0])


def tools_told(tools: Sequence[Tool], answer: Mapping[str, Any] | None) -> str:
    """Each tool with its parameters, then the shape of a call and of an answer.

    ``answer`` is the JSON schema of the answer; None: it is text.
    """
    first = tools[0]
    call = {"action": first.name, "arguments": _sample(_required(first.parameters), first.parameters)}
    end = {"action": ANSWER, ANSWER: _sample(answer or {"type": "string"}, answer or {})}
    # The call stands last: the smallest models do what they read last, and are to look before they answer.
    return "\n".join(
        [
            f"When you know the answer, end with it: {_json(end)}",
            "Tools:",
            *(line for tool in tools for line in _tool_lines(tool)),
            f"To use a tool, write its name and arguments: {_json(call)}",
        ]
    )


def _tool_lines(tool: Tool) -> list[str]:
    """``- name(query: text, limit?: integer): what it does``, then a line for each parameter with more."""
    properties: Mapping[str, Any] = tool.parameters.get("properties", {})
    required = tool.parameters.get("required", ())
    shown = ", ".join(
        f"{name}{'' if name in required else '?'}: {_kind(schema, tool.parameters)}"
        for name, schema in properties.items()
    )
    more = [
        f"  {name}: {_brief(str(schema['description']))}"
        for name, schema in properties.items()
        if isinstance(schema, Mapping) and schema.get("description")
    ]
    return [f"- {tool.name}({shown}): {_brief(tool.description)}", *more]


def _brief(text: str) -> str:
    """The first paragraph, on one line."""
    line = " ".join(text.strip().partition("\n\n")[0].split())
    return line if len(line) <= MAX_ABOUT_CHARS else f"{line[: MAX_ABOUT_CHARS - 4]} ..."


def _json(value: object) -> str:
    return json.dumps(value, ensure_ascii=False)


def _required(parameters: Mapping[str, Any]) -> dict[str, Any]:
    """The parameters without those that may be left out; all of them where all may be."""
    properties: Mapping[str, Any] = parameters.get("properties", {})
    kept = {name: one for name, one in properties.items() if name in parameters.get("required", ())}
    return {"type": "object", "properties": kept or dict(properties)}


def _resolved(schema: Any, root: Mapping[str, Any]) -> Mapping[str, Any]:
    """The schema behind a ``$ref`` of the same document; of alternatives the first."""
    for _ in range(2 * MAX_DEPTH):
        if not isinstance(schema, Mapping):
            return {}
        reference = str(schema.get("$ref", ""))
        options = schema.get("anyOf") or schema.get("oneOf")
        if reference.startswith("#/"):
            found: Any = root
            for step in reference.removeprefix("#/").split("/"):
                found = found.get(step) if isinstance(found, Mapping) else None
            schema = found
        elif options:
            schema = options[0]
        else:
            return schema
    return {}


def _kind(schema: Any, root: Mapping[str, Any], depth: int = 0) -> str:
    """The type in words: ``text``, ``"bar" or "line"``, ``list of integer``."""
    options = schema.get("anyOf") or schema.get("oneOf") if isinstance(schema, Mapping) else None
    if depth > MAX_DEPTH:
        return "any"
    if options:
        return " or ".join(dict.fromkeys(_kind(one, root, depth + 1) for one in options))
    schema = _resolved(schema, root)
    choices = [schema["const"]] if "const" in schema else schema.get("enum")
    if choices:
        return " or ".join(_json(one) for one in choices)
    kinds = schema.get("type", "any")
    if kinds == "array" and "items" in schema:
        return f"list of {_kind(schema['items'], root, depth + 1)}"
    names = [kinds] if isinstance(kinds, str) else kinds
    return " or ".join(_WORDS.get(name, name) for name in names)


def _sample(schema: Any, root: Mapping[str, Any], depth: int = 0) -> Any:
    """A value of the schema's shape, for the model to see how one is written."""
    schema = _resolved(schema, root)
    if "const" in schema:
        return schema["const"]
    if schema.get("enum"):
        return schema["enum"][0]
    kinds = schema.get("type", "string")
    kind = kinds if isinstance(kinds, str) else next(iter(kinds), "string")
    if kind == "object":
        inner = schema.get("properties", {}) if depth < MAX_SAMPLE_DEPTH else {}
        return {name: _sample(one, root, depth + 1) for name, one in inner.items()}
    if kind == "array":
        return [_sample(schema.get("items", {}), root, depth + 1)] if depth < MAX_SAMPLE_DEPTH else []
    return max(1, schema.get("minimum", 1)) if kind in ("integer", "number") else _SAMPLES.get(kind, "...")
