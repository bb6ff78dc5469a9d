"""Schemas and grammars as masks: what is enforced, what is refused, and that no text does harm."""

from __future__ import annotations

import datetime as dt
import decimal
import enum
import json
import math
import uuid
from collections.abc import Iterator
from typing import Annotated, Any, Literal

import jsonschema
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from pydantic import BaseModel, Field, HttpUrl, TypeAdapter

pytest.importorskip("llguidance")

from llguidance import LLMatcher, LLTokenizer

from stepwell.engines.base import RELAXED, SamplingParams
from stepwell.engines.llamacpp.constraints import Constraints
from stepwell.engines.llamacpp.gbnf import Alt, Chars, Node, Ref, Repeat, Seq, Text, parse
from stepwell.engines.llamacpp.grammar import grammar_of, of_grammar, of_schema, schema_to_gbnf
from stepwell.engines.llamacpp.judge import judge
from stepwell.engines.llamacpp.matching import ConstraintFailed, Matching
from stepwell.engines.llamacpp.schemas import Unenforceable, enforceable
from stepwell.engines.llamacpp.trial import Trial
from stepwell.engines.llamacpp.vocabulary import bytes_tokenizer

TOKENIZER = bytes_tokenizer()
END = 256


def takes(grammar: str, text: str) -> bool:
    """Whether a grammar of llguidance takes exactly this text."""
    matcher = LLMatcher(TOKENIZER, grammar, log_level=0)
    assert not matcher.is_error(), matcher.get_error()
    data = list(text.encode())
    return matcher.try_consume_tokens(data) == len(data) and matcher.is_accepting()


def holds(schema: Any, *texts: str) -> list[bool]:
    grammar = of_schema(json.dumps(schema))
    return [takes(grammar, text) for text in texts]


# --- schemas -----------------------------------------------------------------------------------


class Colour(enum.Enum):
    RED = "red"
    BLUE = "blue"


class Point(BaseModel):
    x: float
    y: float = 0.0


class Tree_Node(BaseModel):
    value: int
    kids: list[Tree_Node] = []


class Cat(BaseModel):
    kind: Literal["cat"]
    lives: int


class Dog(BaseModel):
    kind: Literal["dog"]
    tricks: list[str]


ORDINARY: list[Any] = [
    int, float, str, bool, None, Any, list[int], list[Any], list[str | None], dict[str, int], dict[str, Any],
    dict[Colour, int], dict[Literal["a", "b"], str], dict[uuid.UUID, int], tuple[int, str], tuple[int, ...],
    tuple[int, str, bool], Literal["a", 1, True, None], Literal['q"\\\n😀'], Colour, Point, list[Point],
    Tree_Node,
    dict[str, Point], Point | None, int | str, int | None, Cat | Dog, Annotated[Cat | Dog,
    Field(discriminator="kind")],
    dt.datetime, dt.date, dt.time, dt.timedelta, uuid.UUID, decimal.Decimal, HttpUrl, bytes,
    Annotated[int, Field(ge=1, le=5)], Annotated[int, Field(gt=0)], Annotated[int, Field(multiple_of=5)],
    Annotated[float, Field(ge=0, lt=1)], Annotated[float, Field(multiple_of=0.25)],
    Annotated[str, Field(min_length=3)], Annotated[str, Field(max_length=500)],
    Annotated[str, Field(pattern=r"^\d{5}$")], Annotated[str, Field(pattern=r"^\w+$")],
    Annotated[str, Field(pattern=r"^[A-Z]{2}-\d+$")], Annotated[str, Field(pattern="[A-Z]+")],
    Annotated[str, Field(pattern="^(?:a|b)$")], Annotated[list[int], Field(min_length=1, max_length=3)],
    Annotated[list[str], Field(max_length=500)], list[list[int]], dict[str, list[dict[str, int | None]]],
    list[Colour | None], list[Literal["x", "y"]], list[Tree_Node] | None, Annotated[decimal.Decimal,
    Field(ge=0)],
    list[tuple[str, int]], dict[str, bool | int | str],
]  # fmt: skip


@pytest.mark.parametrize("kind", ORDINARY, ids=str)
def test_ordinary_pydantic_types_are_enforced(kind: Any) -> None:
    schema = TypeAdapter(kind).json_schema()
    wrapped = {
        "type": "object",
        "properties": {"v": schema},
        "required": ["v"],
        "additionalProperties": False,
    }
    if "$defs" in schema:
        wrapped["$defs"] = schema.pop("$defs")
    assert not judge(of_schema(json.dumps(wrapped)))


def test_ordinary_types_are_more_than_56() -> None:
    assert len(ORDINARY) >= 56


TABLE: list[tuple[Any, list[str], list[str]]] = [
    ({"type": ["string", "null"], "enum": ["F", None]}, ['"F"', "null"], ['"C"', '"kelvin"']),
    ({"allOf": [{"$ref": "#/$defs/c"}], "$defs": {"c": {"enum": ["red"]}}}, ['"red"'], ['"blue"', "{}"]),
    ({"type": "integer", "minimum": 1, "maximum": 5}, ["1", "5"], ["0", "6", "97"]),
    ({"type": "integer", "multipleOf": 5}, ["0", "10", "-15"], ["12", "1"]),
    ({"type": "integer"}, ["9007199254740991"], ["9007199254740992", "1.5"]),
    ({"enum": ["a", 1, True, None]}, ['"a"', "1", "true", "null"], ['"b"', "2", "false"]),
    ({"const": 'q"\\\n😀'}, [json.dumps('q"\\\n😀', ensure_ascii=False)], ['"q"']),
    ({"type": "string"}, [r'"a\nb"', '"é😀"'], ['"a\nb"', '"\t"', "a"]),
    ({"type": "string", "pattern": r"^\d+$"}, ['"12"'], ['"٣"', '"a"', '""']),
    ({"type": "object", "properties": {"a": {"type": "integer"}}}, ['{"a":1,"b":"x"}'], ['{"\\u0061":"x"}']),
    ({"prefixItems": [{"type": "integer"}], "items": False, "type": "array"}, ["[1]"], ["[1,2]", '["a"]']),
    ({"type": "object", "propertyNames": {"enum": ["a"]}}, ['{"a":1}', "{}"], ['{"b":1}']),
    ({"type": "object", "properties": {"a": {}}, "unevaluatedProperties": False}, ['{"a":1}'], ['{"b":1}']),
    ({"type": "string", "nullable": True}, ["null", '"a"'], ["1"]),
    (
        {"oneOf": [{"type": "object", "properties": {"k": {"const": n}}, "required": ["k"]} for n in "ab"]},
        ['{"k":"a"}', '{"k":"b"}'],
        ['{"k":"c"}', "{}"],
    ),
    ({"properties": {"not": {"type": "integer"}, "if": {"type": "null"}}, "type": "object"}, ['{"not":1}'],
    ['{"not":""}']),
    ({"const": None}, ["null"], ["0", "{}"]),
    ({"type": "number", "exclusiveMinimum": 0, "maximum": 0.5}, ["0.1", "0.5", "0.00001"], ["0", "0.0"]),
    ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 1e-3}, ["0.0001"], ["0", "-0", "0.001"]),
    ({"type": "number", "exclusiveMaximum": 0, "minimum": -0.5}, ["-0.1", "-0.5"], ["0", "-0", "0.1"]),
    ({"type": "number", "exclusiveMinimum": 1, "maximum": 1.5}, ["1.25"], ["1", "1.0", "2"]),
    ({"type": "number", "exclusiveMinimum": 0}, ["0.1", "7"], ["0", "0.0", "-0", "-1"]),
    ({"type": "object", "properties": {"k": {"$ref": "#"}}, "additionalProperties": False}, ['{"k":{}}'],
    ['{"k":1}']),
    ({"$defs": {"a": {"$anchor": "x", "type": "integer"}}, "$ref": "#x"}, ["1"], ['"a"']),
    ({"$defs": {"a": {"$id": "http://z/", "type": "null"}}, "$ref": "#/$defs/a"}, ["null"], ["1"]),
    ({"enum": [{"not": 1, "if": 2}]}, ['{"not":1,"if":2}'], ["{}"]),
]  # fmt: skip


@pytest.mark.parametrize(("schema", "right", "wrong"), TABLE)
def test_keywords_are_held(schema: Any, right: list[str], wrong: list[str]) -> None:
    assert holds(schema, *right) == [True] * len(right)
    assert holds(schema, *wrong) == [False] * len(wrong)


REFUSED: list[tuple[dict[str, Any], str, str]] = [
    ({"properties": {"a": {"not": {"type": "string"}}}}, "#/properties/a", "not"),
    ({"properties": {"a": {"not": {}}}}, "#/properties/a", "not"),
    ({"items": {"uniqueItems": True}}, "#/items", "uniqueItems"),
    ({"contains": {}}, "#", "contains"),
    ({"if": {}, "then": {}}, "#", "if"),
    ({"oneOf": [{"type": "number"}, {"type": "integer"}]}, "#", "oneOf"),
    ({"anyOf": [{"pattern": "(?!a)b"}]}, "#/anyOf/0", "pattern"),
    ({"patternProperties": {"(?=a)": {}}}, "#/patternProperties", "patternProperties"),
    ({"unevaluatedProperties": False, "allOf": [{}]}, "#", "unevaluatedProperties"),
    ({"$ref": "other.json"}, "#", "$ref"),
    ({"dependentRequired": {"a": ["b"]}}, "#", "dependentRequired"),
    ({"properties": {"a": 3}}, "#/properties/a", "a"),
    ({"pattern": "(a{1000}){1000}"}, "#", "pattern"),
    ({"multipleOf": 1_000_003}, "#", "multipleOf"),
    ({"multipleOf": 0}, "#", "multipleOf"),
    ({"minimum": 10**20}, "#", "minimum"),
    ({"enum": [1, [{"a": 10**30}]]}, "#", "enum"),
    ({"maximum": math.inf}, "#", "maximum"),
    ({"exclusiveMinimum": 1, "maximum": 1 + 2**-50}, "#", "exclusiveMinimum"),
]


LOOPS: list[tuple[dict[str, Any], str]] = [
    ({"$ref": "#"}, "#"),
    ({"allOf": [{"anyOf": [{"$ref": "#"}]}]}, "#/allOf/0/anyOf/0"),
    (
        {"items": {"$ref": "#/$defs/a"}, "$defs": {"a": {"$ref": "#/$defs/b"}, "b": {"$ref": "#/$defs/a"}}},
        "#/items",
    ),
]


@pytest.mark.parametrize(("schema", "path"), LOOPS)
def test_a_reference_that_asks_for_itself_is_refused(schema: Any, path: str) -> None:
    """Its grammar takes the empty text, which is no JSON."""
    with pytest.raises(Unenforceable, match="points to itself") as error:
        enforceable(schema)
    assert error.value.path == path


def test_a_nested_id_moves_the_references_below_it() -> None:
    """``#/$defs/q`` means another place there."""
    inner = {"$id": "http://z/", "$defs": {"q": {"type": "integer"}}, "$ref": "#/$defs/q"}
    with pytest.raises(Unenforceable, match=r"'\$id' at #/\$defs/a changes"):
        enforceable({"$defs": {"a": inner, "q": {"type": "string"}}, "$ref": "#/$defs/a"})


@pytest.mark.parametrize(("schema", "path", "keyword"), REFUSED)
def test_what_cannot_be_enforced_is_refused_by_name(schema: Any, path: str, keyword: str) -> None:
    with pytest.raises(Unenforceable) as error:
        enforceable(schema)
    assert (error.value.path, error.value.keyword) == (path, keyword)
    assert keyword in str(error.value)


@pytest.mark.parametrize(
    "schema", [one for one, _, keyword in REFUSED if keyword not in ("a", "patternProperties")]
)
def test_a_tools_parameters_are_relaxed(schema: dict[str, Any]) -> None:
    wanted = {"properties": {"arguments": {**schema, "type": "object", RELAXED: True}}, "type": "object"}
    assert not judge(of_schema(json.dumps(wanted)))


def test_relaxed_parameters_that_still_do_not_compile_are_any_object() -> None:
    broken = {"type": "object", "properties": {"v": False}, "required": ["v"], RELAXED: True}
    constraints = Constraints(lambda: TOKENIZER, judge)
    matcher = constraints.compiled(SamplingParams(json_schema=json.dumps(broken)))
    assert matcher.try_consume_tokens(list(b'{"w":1}')) == 7
    with pytest.raises(ValueError, match="cannot be used"):
        constraints.compiled(SamplingParams(json_schema=json.dumps({**broken, RELAXED: False})))


SCALARS: st.SearchStrategy[Any] = st.sampled_from(
    [
        {"type": "string", "maxLength": 3}, {"type": "integer", "minimum": -3, "maximum": 40},
        {"type": "boolean"},
        {"type": "null"}, {"enum": ["a", 2, None, "ü\n"]}, {"const": {"a": [1]}}, {"type": ["integer",
        "null"], "maximum": 3},
        {"type": "string", "pattern": "^[ab]{1,3}$"}, {"type": "number", "minimum": 0, "maximum": 1},
        {"type": "string", "format": "date"}, {"type": "integer", "multipleOf": 7, "minimum": 0,
        "maximum": 99},
    ]
)  # fmt: skip
SCHEMAS = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.builds(lambda one, n: {"type": "array", "items": one, "maxItems": n}, inner, st.integers(0, 2)),
        st.builds(lambda *all_: {"anyOf": list(all_)}, inner, inner),
        st.builds(
            lambda names, one, other: {
                "type": "object",
                "properties": {"a": one, "b b": other},
                "required": sorted(names),
                "additionalProperties": False,
            },
            st.sets(st.sampled_from(["a", "b b"])),
            inner,
            inner,
        ),
    ),
    max_leaves=6,
)


@given(SCHEMAS, st.randoms(use_true_random=False))
@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.too_slow])
def test_whatever_the_mask_allows_obeys_the_schema(schema: dict[str, Any], random: Any) -> None:
    """Random walks over the bytes that the mask allows."""
    matcher = LLMatcher(TOKENIZER, of_schema(json.dumps(schema)), log_level=0)
    matching, said = Matching(matcher, [END]), bytearray()
    for step in range(400):
        allowed = matching.allowed(257).nonzero()[0].tolist()
        closing = (
            [token for token in allowed if token == END or chr(token) in '"]},:0123456789']
            if step > 40
            else []
        )
        token = random.choice(closing or allowed)
        assert matching.take(token)
        if token == END:
            jsonschema.validate(json.loads(said), schema)
            return
        said.append(token)


# --- grammars ----------------------------------------------------------------------------------


def recognised(rules: dict[str, Node], text: str) -> bool:
    """A plain recogniser of parsed GBNF: ends of every node at every place, grown until nothing is added."""
    ends: dict[tuple[str, int], set[int]] = {
        (name, at): set() for name in rules for at in range(len(text) + 1)
    }

    def of(node: Node, at: int) -> set[int]:
        match node:
            case Text(value):
                return {at + len(value)} if text.startswith(value, at) else set()
            case Chars(negated, ranges):
                inside = at < len(text) and any(low <= ord(text[at]) <= high for low, high in ranges)
                return {at + 1} if at < len(text) and inside != negated else set()
            case Ref(name):
                return ends[name, at]
            case Seq(items):
                reached = {at}
                for item in items:
                    reached = {end for start in reached for end in of(item, start)}
                return reached
            case Alt(items):
                return {end for item in items for end in of(item, at)}
            case Repeat(item, low, high):
                reached, found = {at}, {at} if low == 0 else set()
                for count in range(1, (high if high is not None else low + len(text) + 1) + 1):
                    reached = {end for start in reached for end in of(item, start)}
                    found |= reached if count >= low else set()
                return found

    grown = True
    while grown:
        grown = False
        for name, at in ends:
            new = of(rules[name], at)
            grown = grown or not new <= ends[name, at]
            ends[name, at] |= new
    return len(text) in ends["root", 0]


PARTS = st.recursive(
    st.sampled_from(['"a"', '"b"', "[ab]", "[^a]", '""', "one", "two", '"ab"']),
    lambda inner: st.one_of(
        st.builds(lambda a, b: f"({a} {b})", inner, inner),
        st.builds(lambda a, b: f"({a} | {b})", inner, inner),
        st.builds(lambda a, times: f"({a}){times}", inner, st.sampled_from(["?", "*", "+", "{0,2}", "{2}"])),
    ),
    max_leaves=5,
)


@given(PARTS, PARTS, PARTS, st.lists(st.text("ab", max_size=5), min_size=1, max_size=6))
@settings(max_examples=80, deadline=None)
@example("one", '"a" one | "b"', '"a"', ["aab", "b", "a"])
def test_what_our_rewriting_takes_the_grammar_takes(root: str, one: str, two: str, texts: list[str]) -> None:
    """Never more than the grammar; and exactly as much where no rule is recursive."""
    grammar = f"root ::= {root}\none ::= {one}\ntwo ::= {two}\n"
    try:
        made = of_grammar(grammar)
    except ValueError:
        return
    if judge(made):
        return
    rules = parse(grammar)
    for text in texts:
        taken = takes(made, text)
        assert not taken or recognised(rules, text)
        if "one" not in one + two and "two" not in one + two:
            assert taken == recognised(rules, text)


@given(st.text(st.sampled_from('root ::=ab"\\[]^-(){}0,9*+?|.#\r\n'), max_size=80))
@settings(max_examples=300, deadline=None)
@example('root ::= "a"\n#\rx ::= ((((')
def test_any_text_is_a_grammar_or_one_sentence(text: str) -> None:
    for whole in (text, f"root ::= {text}"):
        try:
            verdict = judge(of_grammar(whole))
        except ValueError as error:
            verdict = str(error)
        assert "\n" not in verdict
        assert len(verdict) < 400


def test_a_comment_ends_at_every_line_end() -> None:
    for end in ("\n", "\r", "\r\n"):
        assert set(parse(f'root ::= "a" # x{end}b ::= "b"')) == {"root", "b"}


def test_nullable_rules_that_double_are_harmless() -> None:
    rules = "\n".join(f"r{i} ::= r{i + 1} r{i + 1}" for i in range(8))
    grammar = of_grammar(f'root ::= "x" r0\n{rules}\nr8 ::= "a"?')
    assert not judge(grammar)
    assert takes(grammar, "x")
    assert takes(grammar, "xaaa")


# --- compiling and matching --------------------------------------------------------------------


@pytest.fixture(scope="module")
def trial() -> Iterator[Trial]:
    made = Trial()
    yield made
    made.close()


def test_a_text_that_would_end_the_process_ends_the_child(trial: Trial) -> None:
    rules = "\n".join(f"r{i}: r{i + 1}" for i in range(20_000))
    assert "too much" in trial(LLMatcher.grammar_from_lark(f'start: r0\n{rules}\nr20000: "a"'))
    assert trial(of_schema('{"type": "integer"}')) == ""


def test_a_child_that_did_not_start_is_started_again(monkeypatch: pytest.MonkeyPatch) -> None:
    made, text = Trial(), of_schema('{"type": "integer"}')
    with monkeypatch.context() as patched:
        patched.setattr("stepwell.basics.line_child.sys.executable", "/nowhere/python")
        assert "does not start" in made(text)
    assert made(text) == ""
    made.close()


def test_a_text_that_nothing_satisfies_is_refused(trial: Trial) -> None:
    assert trial(of_grammar('root ::= root "a"'))


def test_a_constraint_is_compiled_once() -> None:
    tried: list[str] = []
    constraints = Constraints(lambda: TOKENIZER, lambda grammar: tried.append(grammar) or "")
    wanted = SamplingParams(regex="a|b")
    first, second = constraints.compiled(wanted), constraints.compiled(wanted)
    assert first.consume_token(ord("a"))
    assert second.consume_token(ord("b"))
    assert tried == [grammar_of(wanted)]


def test_a_vocabulary_that_is_prepared_is_not_read_again() -> None:
    made: list[LLTokenizer] = []

    def tokenizer() -> LLTokenizer:
        made.append(TOKENIZER)
        return TOKENIZER

    constraints = Constraints(tokenizer, judge)
    constraints.prepare()
    assert len(made) == 1
    constraints.compiled(SamplingParams(regex="a|b"))
    assert len(made) == 1


def test_too_much_work_at_a_token_fails_the_request_alone() -> None:
    matcher = LLMatcher(TOKENIZER, LLMatcher.grammar_from_regex("(ab{1000}){1000}"), log_level=0)
    with pytest.raises(ConstraintFailed):
        Matching(matcher, [END]).allowed(257)


def test_an_answer_that_is_whole_takes_the_end_alone() -> None:
    matching = Matching(LLMatcher(TOKENIZER, LLMatcher.grammar_from_regex("ab?"), log_level=0), [END])
    assert not matching.take(END)
    assert matching.take(ord("a"))
    assert matching.allowed(257).nonzero()[0].tolist() == [ord("b"), END]
    assert matching.take(ord("b"))
    assert not matching.take(ord("b"))
    assert matching.allowed(257).nonzero()[0].tolist() == [END]
    assert matching.take(END)


@given(SCHEMAS)
@settings(max_examples=40, deadline=None)
def test_a_schema_as_gbnf_takes_what_obeys(schema: dict[str, Any]) -> None:
    assert not judge(of_grammar(schema_to_gbnf(json.dumps(schema))))
