"""Constraints in every spelling, and the last look at an answer under a schema."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.loop.requests import Delta, Finished, Output, Rejected
from stepwell.server.backends.enforced import Judge, what_is_wrong
from stepwell.server.errors import ApiError
from stepwell.server.generation.constraints import ANY_OBJECT, FREE, Constraint, constraint_of, one_of
from stepwell.server.settings import ServerSettings
from stepwell.server.wire.schema import ChatRequest

X = {"type": "object", "properties": {"x": {"type": "integer"}}, "required": ["x"]}
X_TEXT = json.dumps(X, separators=(",", ":"))


def asked(**fields: Any) -> Constraint:
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **fields}
    wanted = ChatRequest.model_validate(body)
    return constraint_of(wanted.response_format, wanted, ServerSettings())


AS_SCHEMA: list[dict[str, Any]] = [
    {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": X}}},
    {"response_format": {"type": "json_object", "schema": X}},
    {"json_schema": X},
    {"guided_json": X},
    {"guided_json": json.dumps(X)},
    {"structured_outputs": {"json": X}},
]


@pytest.mark.parametrize("fields", AS_SCHEMA)
def test_a_schema_is_heard_in_every_spelling(fields: dict[str, Any]) -> None:
    assert asked(**fields) == Constraint(json_schema=X_TEXT)


def test_other_kinds_are_heard() -> None:
    assert asked() == asked(response_format={"type": "text"}) == FREE
    assert asked(response_format={"type": "json_object"}) == ANY_OBJECT
    assert asked(structured_outputs={"json_object": True}) == ANY_OBJECT
    assert asked(guided_regex="a+") == asked(structured_outputs={"regex": "a+"}) == Constraint(regex="a+")
    grammar = Constraint(grammar='root ::= "a"')
    fields = ({"grammar": grammar.grammar}, {"guided_grammar": grammar.grammar})
    assert all(asked(**one) == grammar for one in (*fields, {"structured_outputs": fields[0]}))
    choice = Constraint(grammar='root ::= "yes" | "no"')
    assert asked(guided_choice=["yes", "no"]) == asked(structured_outputs={"choice": ["yes", "no"]}) == choice


@pytest.mark.parametrize(
    "fields",
    [
        {"grammar": 'root ::= "a"', "guided_regex": "a"},
        {"response_format": {"type": "json_object"}, "json_schema": X},
        {"structured_outputs": {"regex": "a", "choice": ["a"]}},
        {"structured_outputs": {}},
        {"structured_outputs": {"structural_tag": "{}"}},
        {"guided_json": "{"},
        {"guided_json": "[]"},
        {"json_schema": False},
        {"guided_regex": "a" * 300_000},
        {"json_schema": {"$ref": "http://example.org/x"}},
    ],
)
def test_what_cannot_be_honoured_is_refused(fields: dict[str, Any]) -> None:
    with pytest.raises(ApiError) as error:
        asked(**fields)
    assert error.value.status == 400


@given(st.lists(st.text(st.characters(exclude_categories=["Cs"])), min_size=1, max_size=4, unique=True))
def test_choices_are_written_so_that_they_read_the_same(choices: list[str]) -> None:
    pytest.importorskip("llguidance")
    from stepwell.engines.llamacpp.gbnf import Alt, Seq, Text, parse

    root = parse(one_of(choices))["root"]
    items = root.items if isinstance(root, Alt) else (root,)
    assert [item.value for item in items if isinstance(item, Text)] == choices or Seq(()) in items


def ended(text: str, reason: str = "stop", stop_string: str | None = None) -> Output:
    judge = Judge(X_TEXT)
    for letter in text:
        judge.hear(Delta(letter, ()))
    return judge.hear(Finished(reason, stop_string, 1, 1, 0, 0, 0, 0))


def test_no_stop_is_told_that_does_not_obey() -> None:
    assert isinstance(ended('{"x": 1}'), Finished)
    assert isinstance(ended('{"x": "1"}'), Rejected)
    assert isinstance(ended('{"x": '), Rejected)
    cut = ended('{"x": ', stop_string=" ")
    assert isinstance(cut, Finished)
    assert cut.reason == "length"
    assert ended('{"x": ', reason="length") == Finished("length", None, 1, 1, 0, 0, 0, 0)


def test_patterns_are_the_masks_to_keep() -> None:
    """A pattern over which Python's regular expressions would think for years."""
    schema = {"type": "string", "pattern": "^(a+)+$"}
    assert not what_is_wrong(json.dumps(schema), json.dumps("a" * 64 + "b"))
    named = {"patternProperties": {"^(a+)+$": {}}, "additionalProperties": False}
    assert not what_is_wrong(json.dumps(named), json.dumps({"a" * 64 + "b": 1}))


def test_what_is_relaxed_is_not_judged() -> None:
    schema = {
        "properties": {"x": {"$ref": "#/$defs/t"}},
        "$defs": {"t": {"type": "string", "x-stepwell-relaxed": True}},
    }
    assert not what_is_wrong(json.dumps(schema), '{"x": 1}')
    assert not what_is_wrong("{}", "{}")
    assert what_is_wrong("{}", "[]")


MEANT: list[tuple[Any, list[str], list[str]]] = [
    ({"type": "string", "enum": ["a"], "nullable": True}, ["null", '"a"'], ['"b"']),
    ({"properties": {"nullable": True, "$id": {"type": "null"}}}, ['{"nullable":1}'], ['{"$id":1}']),
    ({"items": [{"type": "integer"}], "additionalItems": False}, ["[1]", "[]"], ["[1,2]", '["a"]']),
    ({"items": [{"type": "integer"}], "additionalItems": {"type": "null"}}, ["[1,null]"], ["[1,2]"]),
    ({"minimum": 0, "exclusiveMinimum": True}, ["1"], ["0"]),
    ({"maximum": 3, "exclusiveMaximum": False}, ["3"], ["4"]),
    ({"multipleOf": 0.1}, ["0.6", "1.2", "-0.7"], ["0.65"]),
    ({"multipleOf": 0.01}, ["958.31", "1e3"], ["0.001"]),
    ({"multipleOf": 3}, ["3", "-6", "3" * 200], ["4"]),
    ({"$id": 5, "type": "integer"}, ["5"], ['"a"']),
    ({"$id": "http://x/y", "$defs": {"a": {"type": "null"}}, "$ref": "#/$defs/a"}, ["null"], ["1"]),
    (
        {"const": {"nullable": True, "type": "x", "items": [1]}},
        ['{"nullable":true,"type":"x","items":[1]}'],
        ["1"],
    ),
]


@pytest.mark.parametrize(("schema", "right", "wrong"), MEANT)
def test_the_last_look_reads_a_schema_as_the_mask_does(
    schema: Any, right: list[str], wrong: list[str]
) -> None:
    """Else an answer that the mask has held would be taken back as broken."""
    text = json.dumps(schema)
    assert [what_is_wrong(text, one) for one in right] == [""] * len(right)
    assert all(what_is_wrong(text, one) for one in wrong)


def test_a_keyword_that_the_last_look_cannot_read_takes_no_answer_back() -> None:
    assert not what_is_wrong('{"type": "string", "minLength": "3"}', '"abc"')
