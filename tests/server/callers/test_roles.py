"""Agents of one kind have one role, whoever sends them and however long their conversation is."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.server.callers.identity import Identity
from stepwell.server.callers.roles import DIGEST_CHARS, INFERRED, role_of
from tests.server.callers.test_hints import JSON

NOBODY = Identity("acme")
NAMED = Identity("acme", name="planner")
PLAN = {"role": "system", "content": "You plan."}
READ = {"role": "system", "content": "You read."}
HELLO = {"role": "user", "content": "Hello"}
SEARCH = {"type": "function", "function": {"name": "search"}}
SEND = {"type": "function", "function": {"name": "send"}}


def chat(*messages: Any, **fields: Any) -> dict[str, Any]:
    return {"messages": list(messages), **fields}


def role(body: dict[str, Any]) -> str:
    return role_of(NOBODY, body)


def test_a_name_comes_first() -> None:
    assert role_of(NAMED, chat(PLAN, HELLO)) == "planner"


def test_turns_of_one_kind_of_agent_have_one_role() -> None:
    first = role(chat(PLAN, HELLO, tools=[SEARCH, SEND]))
    assert first.startswith(INFERRED)
    assert first == role(chat(PLAN, {"role": "user", "content": "Other"}, HELLO, tools=[SEND, SEARCH]))
    assert "plan" not in first


@pytest.mark.parametrize(
    "body",
    [
        chat(READ, HELLO, tools=[SEARCH]),
        chat(PLAN, HELLO, tools=[SEND]),
        chat(PLAN, HELLO),
        chat(HELLO, tools=[SEARCH]),
    ],
)
def test_another_prompt_or_other_tools_are_another_role(body: dict[str, Any]) -> None:
    assert role(body) != role(chat(PLAN, HELLO, tools=[SEARCH]))
    assert role(body)


@pytest.mark.parametrize("body", [{}, chat(HELLO), {"prompt": "x"}, {"input": "hi"}, chat(HELLO, PLAN)])
def test_where_nothing_tells_there_is_no_role(body: dict[str, Any]) -> None:
    assert role(body) == ""


def test_what_differs_from_run_to_run_comes_late_in_a_prompt() -> None:
    long = "You plan. " * 40
    today, tomorrow = ({"role": "system", "content": long + day} for day in ("Today is Monday.", "Tuesday."))
    assert role(chat(today, HELLO)) == role(chat(tomorrow, HELLO)) != role(chat(PLAN, HELLO))
    parts = {
        "role": "system",
        "content": [{"type": "text", "text": "You plan."}, {"type": "text", "text": "Now."}],
    }
    assert role(chat(parts, HELLO)) == role(chat(PLAN, HELLO))


def test_responses() -> None:
    tools = [{"type": "function", "name": "search"}]
    flat = role({"input": "hi", "instructions": "You plan.", "tools": tools})
    assert flat == role({"input": [HELLO], "instructions": "You plan.", "tools": tools})
    assert flat == role({"input": [PLAN, HELLO], "tools": tools}) == role(chat(PLAN, HELLO, tools=[SEARCH]))
    # A later turn need not repeat its instructions: then its role is what it was.
    assert role({"input": "more", "previous_response_id": "resp_1", "tools": tools}) == ""


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.dictionaries(st.sampled_from(["messages", "input", "tools", "instructions", "system"]), JSON))
def test_whatever_arrives_gives_a_short_role(body: dict[str, Any]) -> None:
    assert len(role(body)) in (0, len(INFERRED) + DIGEST_CHARS)
    item = [{"role": "system", "content": value, "function": value} for value in body.values()]
    assert len(role({"messages": item, "tools": item})) <= len(INFERRED) + DIGEST_CHARS
