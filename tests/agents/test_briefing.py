"""What agents are told of their tools and of the roles they may use."""

from __future__ import annotations

import asyncio
import json
from typing import Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.agents import schemas
from stepwell.agents.briefing import briefing, tools_told, what_it_does
from stepwell.agents.crews.definition import Role
from stepwell.agents.crews.files import find_crew, make_role
from stepwell.agents.crews.profile import Profile, apply
from stepwell.agents.crews.roles import SHIPPED
from stepwell.agents.planner import with_writer
from stepwell.agents.tools.base import Tool
from stepwell.agents.tools.functions import from_function
from tests.agents.scripted import Asked, Scripted, answer, crew

CALLER = """
[roles.lead]
instructions = "You lead."
tools = ["stock"]
calls = "schema"
"""
LEADER = """
[roles.lead]
instructions = "You lead."
may_spawn = ["helper", "judge"]
[roles.helper]
instructions = "You measure wells. Then you write them down."
[roles.judge]
"""


def stock(article: str, shop: int = 1) -> str:
    """Says how many of an article a shop has.

    This paragraph is for people.

    Args:
        article: its name, in lower case
    """
    return f"12 of {article} in shop {shop}"


async def _nothing(arguments: Any) -> str:
    return ""


def system_of(asked: Asked) -> str:
    return str(asked.body["messages"][0]["content"])


def test_a_model_that_calls_by_schema_reads_its_tools_and_the_shape_of_a_call() -> None:
    server = Scripted(lambda asked: json.dumps({"action": "answer", "answer": "four"}))
    asyncio.run(answer(server, crew(CALLER), from_function(stock)))
    assert system_of(server.asked[0]) == (
        "You lead.\n\n"
        'When you know the answer, end with it: {"action": "answer", "answer": "..."}\n'
        "Tools:\n"
        "- stock(article: text, shop?: integer): Says how many of an article a shop has.\n"
        "  article: its name, in lower case\n"
        'To use a tool, write its name and arguments: {"action": "stock", "arguments": {"article": "..."}}'
    )


def test_tools_of_the_api_are_not_told_twice() -> None:
    server = Scripted(lambda asked: "four")
    made = crew(CALLER.replace('calls = "schema"', ""))
    asyncio.run(answer(server, made, from_function(stock)))
    assert system_of(server.asked[0]) == "You lead."
    assert "Says how many" in server.asked[0].body["tools"][0]["function"]["description"]


def test_a_role_that_describes_its_tools_itself_is_told_its_instructions_alone() -> None:
    server = Scripted(lambda asked: json.dumps({"action": "answer", "answer": "four"}))
    asyncio.run(answer(server, crew(CALLER + "briefed = false\n"), from_function(stock)))
    assert system_of(server.asked[0]) == "You lead."
    assert '"stock"' in json.dumps(server.asked[0].body["response_format"])  # which it may call all the same
    made = apply(find_crew("code"), Profile("untold", roles={"planner": {"briefed": False}}))
    assert briefing(made.roles["planner"], [], made.roles) == made.roles["planner"].instructions


def test_an_answer_with_a_schema_is_shown_with_its_shape() -> None:
    schema = {"type": "object", "properties": {"count": {"type": "integer"}, "sure": {"type": "boolean"}}}
    told = tools_told([from_function(stock)], schema)
    assert told.startswith(
        'When you know the answer, end with it: {"action": "answer", "answer": {"count": 1, "sure": true}}\n'
    )


@pytest.mark.parametrize("name", ["calculation", "code", "data", "documents"])
def test_the_analyst_and_no_one_else_of_the_crews_that_ship_is_told_of_tools(name: str) -> None:
    made = with_writer(find_crew(name))
    told = {role.name: briefing(role, [from_function(stock)], made.roles) for role in made.roles.values()}
    assert [role for role, text in told.items() if "Tools:" in text] == (
        ["analyst"] if name == "data" else []
    )


def test_a_planner_that_chooses_reads_what_its_roles_do() -> None:
    told = {
        name: briefing(made.roles["planner"], [], made.roles).partition("Roles:\n")[2]
        for name in ("calculation", "code", "data", "documents")
        for made in [with_writer(find_crew(name))]
    }
    assert told == {
        "calculation": "",  # one role and the whole question: there is nothing to choose
        "code": "- coder: writes a small Python program\n- critic: names the worst fault of a piece of work",
        "data": "- analyst: asks the tables in SQL, calculates, and draws charts",
        "documents": "",
    }


def test_an_agent_that_spawns_reads_what_its_roles_do() -> None:
    server = Scripted(lambda asked: "done")
    asyncio.run(answer(server, crew(LEADER)))
    (spawn,) = (
        one["function"] for one in server.asked[0].body["tools"] if one["function"]["name"] == "spawn_agent"
    )
    assert spawn["parameters"]["properties"]["role"]["description"] == (
        "helper: You measure wells.; judge: chooses the best of several answers"
    )


@pytest.mark.parametrize(
    ("instructions", "does"),
    [
        ("You measure wells. Then you write.", "You measure wells."),
        ("It costs 3.5 euros! Say so.", "It costs 3.5 euros!"),
        ("你测量水井。然后写下来。", "你测量水井。"),
        ("No stop", "No stop"),
    ],
)
def test_without_a_description_the_first_sentence_stands_in(instructions: str, does: str) -> None:
    assert what_it_does(Role("surveyor", instructions)) == does


def test_every_role_that_others_are_given_to_says_what_it_does() -> None:
    roles = [make_role(name, {}) for name in SHIPPED]
    assert all(role.description for role in roles if not role.plans)


_PLAIN: st.SearchStrategy[dict[str, Any]] = st.one_of(
    st.sampled_from(
        [{"type": "string"}, {"type": "integer"}, {"type": "boolean"}, {"type": ["null", "string"]}]
    ),
    st.lists(st.text(max_size=5), min_size=1, max_size=3).map(
        lambda names: {"type": "string", "enum": names}
    ),
    st.integers(-5, 5).map(lambda least: {"type": "number", "minimum": least}),
)
_SCHEMAS = st.recursive(
    _PLAIN,
    lambda inner: (
        inner.map(lambda one: {"type": "array", "items": one})
        | st.lists(inner, min_size=1, max_size=2).map(lambda some: {"anyOf": some})
        | st.dictionaries(st.text(max_size=4), inner, max_size=3).map(
            lambda some: {"type": "object", "properties": some, "required": list(some)}
        )
    ),
    max_leaves=4,
)


def fits(value: object, schema: dict[str, Any]) -> bool:
    try:
        schemas.check(value, schema)
    except schemas.Invalid:
        return False
    return True


@given(st.dictionaries(st.text(min_size=1, max_size=6), _SCHEMAS, max_size=3), st.booleans(), _SCHEMAS)
def test_the_shapes_that_are_shown_fit_what_the_grammar_takes(
    properties: dict[str, Any], all_needed: bool, result: dict[str, Any]
) -> None:
    parameters = {
        "type": "object",
        "properties": properties,
        "required": list(properties) if all_needed else [],
    }
    tool = Tool("look", "Looks.", parameters, _nothing)
    end, *_, call = tools_told([tool], result).split("\n")
    for line in (call, end):
        shown = json.loads(line[line.index("{") :])
        taken = schemas.action_schema([tool], result, 100)
        assert fits(shown, taken) and not fits({**shown, "action": "sleep"}, taken)


@pytest.mark.parametrize(
    "odd",
    [
        {"$ref": "#/properties/x"},
        {"anyOf": [{"$ref": "#/properties/x"}]},
        {"type": "array", "items": {"$ref": "#"}},
        {"type": "array", "items": [{"type": "integer"}]},
        {"$ref": "https://elsewhere.example/schema"},
        True,
        {},
    ],
)
def test_a_schema_that_refers_to_itself_or_says_nothing_is_no_trouble(odd: Any) -> None:
    parameters = {"type": "object", "properties": {"x": odd}, "required": ["x"]}
    assert "- look(x: " in tools_told([Tool("look", "Looks. " * 200, parameters, _nothing)], None)


def test_texts_of_tools_that_change_nothing_end_before_the_turn_does() -> None:
    def query(tool: Tool) -> Any:
        (call, _) = schemas.action_schema([tool], None, 256)["anyOf"]
        return call["properties"]["arguments"]["properties"]

    def ask(sql: str, kind: Literal["a", "b"], top: int = 3) -> str:
        """Asks."""
        return sql + kind * top

    reads = query(from_function(ask, idempotent=True))
    assert 0 < reads["sql"]["maxLength"] <= 2 * 256
    assert "maxLength" not in reads["kind"]
    assert "maxLength" not in reads["top"]
    writes = query(from_function(ask))
    assert "maxLength" not in writes["sql"], "half a file would be written all the same"
