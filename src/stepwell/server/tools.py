"""Function calling: which tools a request offers, how an answer is made to call one, and what it called.

With ``tool_choice`` ``auto`` the model writes a call in its own template's syntax, and
``TextModel.parse_tool_calls`` finds it. When a call is required, the answer is constrained to
``{"name": ..., "arguments": {...}}`` by a JSON schema built from the tools: a model of 135 M
parameters then calls correctly as well. The same is done when tools and a JSON answer format come together:
the schema allows either.
"""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from pydantic_core import from_json

from stepwell.engines.base import RELAXED, TextModel
from stepwell.server.constraints import FREE, Constraint, json_constraint
from stepwell.server.errors import bad_request
from stepwell.server.schema import Function, ToolChoice
from stepwell.server.settings import ServerSettings

NO_PARAMETERS: Mapping[str, Any] = {"type": "object", "properties": {}, "additionalProperties": False}


@dataclass(frozen=True, slots=True)
class Call:
    """One function call the model made. ``arguments`` is JSON text, valid or not."""

    id: str
    name: str
    arguments: str


@dataclass(frozen=True, slots=True)
class Answer:
    """A finished answer: text and the calls in it."""

    content: str
    calls: tuple[Call, ...] = ()


@dataclass(frozen=True, slots=True)
class ToolSet:
    """The tools of one request, ready to render and to parse."""

    rendered: tuple[dict[str, Any], ...] = ()
    """What the chat template sees (OpenAI's chat shape)."""
    names: frozenset[str] = frozenset()
    constraint: Constraint = FREE
    constrained: bool = False
    """The answer is JSON: a call, or what the answer format wants."""
    parallel: bool = True

    def split(self, text: str, text_model: TextModel) -> Answer:
        """Find the calls in a finished answer."""
        if not self.names:
            return Answer(text)
        found = self._constrained_call(text) if self.constrained else self._free_calls(text, text_model)
        return found or Answer(text)

    def _constrained_call(self, text: str) -> Answer | None:
        try:
            value = from_json(text, allow_inf_nan=False)
        except ValueError:
            return None  # cut off by max_tokens, nested without end, or NaN, which no client could read
        if (
            not isinstance(value, dict)
            or set(value) != {"name", "arguments"}
            or not isinstance(value["name"], str)
            or value["name"] not in self.names
        ):
            return None
        arguments = json.dumps(value["arguments"], ensure_ascii=False)
        return Answer("", (Call(new_call_id(), value["name"], arguments),))

    def _free_calls(self, text: str, text_model: TextModel) -> Answer | None:
        content, found = text_model.parse_tool_calls(text)
        calls = [Call(new_call_id(), str(c["name"]), str(c["arguments"])) for c in found]
        if not calls or any(call.name not in self.names for call in calls):
            return None  # a call of something that was not offered is just text
        return Answer(content, tuple(calls if self.parallel else calls[:1]))


NO_TOOLS = ToolSet()


def new_call_id() -> str:
    return "call_" + secrets.token_hex(12)


def build_tools(
    functions: Sequence[Function],
    choice: ToolChoice | None,
    answer: Constraint,
    settings: ServerSettings,
    *,
    parallel: bool = True,
) -> ToolSet:
    """The tools of a request. ``answer`` is what the answer format asks for. Raises ``ApiError``."""
    mode = choice.mode if choice is not None else "auto"
    if len(functions) > settings.max_tools:
        raise bad_request(f"At most {settings.max_tools} tools are allowed.", param="tools")
    if not functions and mode == "required":
        raise bad_request("'tool_choice' needs 'tools'.", param="tool_choice")
    allowed = _allowed(functions, choice)
    if mode == "none" or not allowed:
        return ToolSet(constraint=answer)
    constraint = _constraint(allowed, mode, answer, settings)
    return ToolSet(
        rendered=tuple(_rendered(function) for function in functions),
        names=frozenset(function.name for function in allowed),
        constraint=constraint,
        constrained=constraint.json_schema is not None,
        parallel=parallel,
    )


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


class HeldText:
    """Streams an answer that may turn out to be a tool call.

    Text goes out at once until something appears that a call could begin with; the rest waits for
    the end, when the calls are known. (Templates write calls as ``<tool_call>``, ``<|python_tag|>``, ``[`` or
    ``{``.)
    """

    MARKS = ("<", "{", "[", "`")

    def __init__(self, tools: ToolSet, text_model: TextModel) -> None:
        self._tools = tools
        self._text_model = text_model
        self._text = ""
        self._sent = 0
        self._holding = tools.constrained

    def hold(self) -> None:
        """Keep everything for the end: nobody is listening yet."""
        self._holding = True

    def add(self, text: str) -> str:
        """What may be sent now."""
        self._text += text
        if not self._tools.names:
            return text
        if self._holding:
            return ""
        if not self._text.strip():
            return ""  # clients take the first text for the beginning of an answer
        found = [at for mark in self.MARKS if (at := self._text.find(mark, self._sent)) >= 0]
        end = min(found, default=len(self._text))
        self._holding = bool(found)
        piece, self._sent = self._text[self._sent : end], end
        return piece

    def finish(self) -> Answer:
        """The rest of the text, and the calls."""
        answer = self._tools.split(self._text, self._text_model)
        if not self._tools.names:
            return Answer("")
        sent = self._text[: self._sent]
        rest = answer.content[len(sent) :] if answer.content.startswith(sent) else ""
        return Answer(rest, answer.calls)
