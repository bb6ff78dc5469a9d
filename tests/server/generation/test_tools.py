"""Tools: the schema that forces a call, and text that may become one."""

from __future__ import annotations

import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.engines.base import CallSyntax
from stepwell.server.errors import ApiError
from stepwell.server.generation.constraints import ANY_OBJECT, FREE, require_local_refs
from stepwell.server.generation.reading import Reading
from stepwell.server.generation.tools import ToolSet, build_tools, call_schema
from stepwell.server.settings import ServerSettings
from stepwell.server.wire.schema import Function, ToolChoice
from tests.server.fakes import INFO, FakeText, call

LIMITS = ServerSettings()
TEXT_MODEL = FakeText(INFO)
TREE = {
    "type": "object",
    "properties": {"root": {"$ref": "#/$defs/node"}},
    "required": ["root"],
    "$defs": {"node": {"type": "object", "properties": {"child": {"$ref": "#/$defs/node"}}}},
}
F = Function(name="f", parameters=TREE)
G = Function(name="g")


def valid(schema: dict[str, Any], value: Any) -> bool:
    return jsonschema.Draft202012Validator(schema).is_valid(value)


def test_the_schema_of_one_tool() -> None:
    schema = call_schema([F], None)
    assert valid(schema, {"name": "f", "arguments": {"root": {"child": {"child": {}}}}})
    assert not valid(schema, {"name": "f", "arguments": {"root": {"child": 7}}})
    assert not valid(schema, {"name": "g", "arguments": {}})
    assert not valid(schema, {"name": "f"})


def test_the_schema_of_several_tools_or_an_answer() -> None:
    answer = {"$ref": "#/$defs/node", "$defs": {"node": {"type": "object", "required": ["verdict"]}}}
    schema = call_schema([F, G], answer)
    assert valid(schema, {"name": "g", "arguments": {}})
    assert not valid(schema, {"name": "g", "arguments": {"x": 1}})
    assert valid(schema, {"verdict": 1})
    assert not valid(schema, {"something": 1})
    assert valid(call_schema([G], {}), {"any": "object"})


@pytest.mark.parametrize(
    ("choice", "names", "constrained"),
    [
        (None, {"f", "g"}, False),
        (ToolChoice(mode="auto"), {"f", "g"}, False),
        (ToolChoice(mode="none"), set(), False),
        (ToolChoice(mode="required"), {"f", "g"}, True),
        (ToolChoice(mode="required", names=("g",)), {"g"}, True),
        (ToolChoice(mode="auto", names=("g",)), {"g"}, False),
    ],
)
def test_tool_choice(choice: ToolChoice | None, names: set[str], constrained: bool) -> None:
    tools = build_tools([F, G], choice, FREE, LIMITS)
    assert (set(tools.functions), tools.constrained) == (names, constrained)
    # A template shows all tools, whichever may be called now: the prompt stays the same, and cached.
    assert len(tools.rendered) == (2 if names else 0)


def read(tools: ToolSet, *pieces: str) -> Reading:
    reading = Reading(tools, TEXT_MODEL)
    for piece in pieces:
        reading.add(piece)
    reading.finish()
    return reading


def test_an_answer_format_next_to_tools() -> None:
    tools = build_tools([G], None, ANY_OBJECT, LIMITS)
    assert read(tools, '{"name": "g", "arguments": {}}').calls[0].name == "g"
    assert read(tools, '{"steps": 7}').content == '{"steps": 7}'
    quoting = json.dumps({"said": call("g")})
    assert read(tools, quoting).content == quoting


def test_a_call_that_was_cut_off_before_its_arguments_is_text() -> None:
    tools = build_tools([F], ToolChoice(mode="required"), FREE, LIMITS)
    assert read(tools, '{"name": "f", "argu').content == '{"name": "f", "argu'


SYNTAX = CallSyntax(('<tool_call>{"name": "',), ('", "arguments": ',), ("}</tool_call>",), ("}{",))


def test_a_demanded_call_is_written_in_the_models_own_syntax() -> None:
    required = ToolChoice(mode="required")
    tools = build_tools([F, G], required, FREE, LIMITS, syntax=SYNTAX)
    asked = json.loads(tools.constraint.calls or "")
    assert (list(asked["tools"]), asked["most"]) == (["f", "g"], 1)
    assert asked["syntax"]["middle"] == ['", "arguments": ']
    assert asked["tools"]["f"]["x-stepwell-relaxed"] is True
    assert not tools.constrained  # it is read as any other call
    assert not tools.straight
    assert [c.name for c in read(tools, call("g")).calls] == ["g"]
    choice = ToolChoice(mode="required", names=("g",))
    named = build_tools([F, G], choice, FREE, LIMITS, syntax=SYNTAX, several=True)
    asked = json.loads(named.constraint.calls or "")
    assert (list(asked["tools"]), asked["most"]) == (["g"], 8)


def test_a_syntax_changes_nothing_where_no_call_is_demanded() -> None:
    for answer in (FREE, ANY_OBJECT):
        assert build_tools([G], None, answer, LIMITS, syntax=SYNTAX) == build_tools([G], None, answer, LIMITS)


def test_a_demanded_call_fetches_nothing_and_has_a_bound() -> None:
    required = ToolChoice(mode="required")
    away = Function(name="f", parameters={"properties": {"a": {"$ref": "https://example.com/x"}}})
    with pytest.raises(ApiError, match="point into the same schema"):
        build_tools([away], required, FREE, LIMITS, syntax=SYNTAX)
    long = Function(name="f", parameters={"description": "x" * LIMITS.max_grammar_bytes})
    with pytest.raises(ApiError, match="longer than"):
        build_tools([long], required, FREE, LIMITS, syntax=SYNTAX)


def test_parallel_calls() -> None:
    text = call("f", root={}) + call("g")
    assert [c.name for c in read(build_tools([F, G], None, FREE, LIMITS), text).calls] == ["f", "g"]
    one = read(build_tools([F, G], None, FREE, LIMITS, parallel=False), text)
    assert [c.name for c in one.calls] == ["f"]


def test_schemas_that_point_elsewhere_are_refused() -> None:
    for ref in ("https://example.com/x", "other.json", "", "file:///etc/passwd"):
        with pytest.raises(ApiError):
            require_local_refs({"properties": {"a": [{"$ref": ref}]}}, "tools")
    require_local_refs({"$ref": "#/$defs/a", "properties": {"$ref": {"type": "string"}}}, "tools")


PIECES = st.lists(
    st.sampled_from(["Hello ", " ", "\n", "<", "{", "a [b]", call("g"), call("h"), "tail", "é"]), max_size=8
)


@given(PIECES)
def test_what_is_read_in_pieces_is_what_is_read_at_once(pieces: list[str]) -> None:
    for tools in (build_tools([G], None, FREE, LIMITS), build_tools([G], None, ANY_OBJECT, LIMITS)):
        streamed, whole = read(tools, *pieces), read(tools, "".join(pieces))
        assert streamed.content == whole.content
        assert [(c.name, c.arguments) for c in streamed.calls] == [(c.name, c.arguments) for c in whole.calls]
        if not whole.calls:
            assert whole.content == "".join(pieces)


@given(PIECES)
def test_without_tools_nothing_is_lost(pieces: list[str]) -> None:
    assert read(ToolSet(), *pieces).content == "".join(pieces)


def test_prose_with_tools_streams_at_once() -> None:
    reading = Reading(build_tools([G], None, FREE, LIMITS), TEXT_MODEL)
    said = [reading.add(piece) for piece in ("\n", "So", " it is")]
    assert [[part.text for part in parts] for parts in said] == [[], ["\nSo"], [" it is"]]


def test_arguments_are_json_text() -> None:
    tools = build_tools([F], ToolChoice(mode="required"), FREE, LIMITS)
    (made,) = read(tools, '{"name": "f", "arguments": {"root": {"é": 1}}}').calls
    assert json.loads(made.arguments) == {"root": {"é": 1}}
    assert made.id.startswith("call_")
