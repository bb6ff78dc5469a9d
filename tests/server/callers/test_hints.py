"""What comes next: one golden test per convention, and nothing a client sends is an error."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stepwell.policy.types import NO_HINT, Hint, Wait
from stepwell.server.callers.hints import (
    CONVENTIONS,
    MAX_US,
    MIN_US,
    read_agent_hint,
    read_hint,
    ttl_us,
    wants_prewarm,
)
from stepwell.server.callers.identity import Identity, identify
from stepwell.server.callers.keys import ApiKey

NOBODY = Identity("acme")
MEMBER = Identity("acme", session="run", agent="run/planner")
CHAIN = Identity("acme", session="run/lead", agent="run/reader")
SECOND_US = 1_000_000
MINUTE_US = 60 * SECOND_US
HOUR_US = 60 * MINUTE_US


def part(**marks: Any) -> dict[str, Any]:
    return {"type": "text", "text": "x", **marks}


def messages(*parts: dict[str, Any]) -> dict[str, Any]:
    return {"messages": [{"role": "user", "content": list(parts)}]}


GOLDEN: list[tuple[str, str, dict[str, str], dict[str, Any], Hint]] = [
    # which row, what it is about, headers, body, hint
    ("none", "nobody says anything", {}, {}, NO_HINT),
    (
        "x-agent-next",
        "a tool, for nine seconds",
        {"x-agent-next": "tool; expected_ms=9000"},
        {},
        Hint(Wait.TOOL, 9 * SECOND_US),
    ),
    (
        "x-agent-next",
        "a tool by its name",
        {"x-agent-next": "tool; tool=web%20search"},
        {},
        Hint(Wait.TOOL, tool="web search"),
    ),
    (
        "x-agent-next",
        "a name without a tool",
        {"x-agent-next": "person; tool=crawl"},
        {},
        Hint(Wait.PERSON),
    ),
    (
        "x-agent-next",
        "after another agent",
        {"x-agent-next": "agent;expected_ms=1.5 ; after=The%20Reader"},
        {},
        Hint(Wait.AGENT, 1_500, "The Reader"),
    ),
    (
        "x-agent-next",
        "only what follows",
        {"x-agent-next": "; after=reader"},
        {},
        Hint(Wait.AGENT, None, "reader"),
    ),
    ("x-agent-next", "nonsense", {"x-agent-next": "coffee; expected_ms=soon; =;;"}, {}, NO_HINT),
    ("x-session-final", "ours", {"x-session-final": "true"}, {}, Hint(Wait.DONE)),
    ("x-session-final", "Dynamo's", {"x-dynamo-session-final": "True"}, {}, Hint(Wait.DONE)),
    ("x-session-final", "not final", {"x-session-final": "false"}, {}, NO_HINT),
    (
        "agent_hint",
        "all our keys",
        {},
        {"agent_hint": {"session_id": "a", "next": "child", "expected_ms": 250, "after_agent": "reader"}},
        Hint(Wait.CHILD, 250_000, "reader"),
    ),
    (
        "agent_hint",
        "RFC 52113: protect a context for 300 s",
        {},
        {"agent_hint": {"cache_control": {"type": "ephemeral", "ttl": 300.0}}},
        Hint(retain_us=5 * MINUTE_US),
    ),
    (
        "agent_hint",
        "RFC 52113: evict",
        {},
        {"agent_hint": {"context_management": {"edits": [{"type": "evict"}]}}},
        Hint(Wait.DONE),
    ),
    (
        "agent_hint",
        "RFC 52113: evicting a part is not the end of the agent",
        {},
        {"agent_hint": {"context_management": {"edits": [{"type": "evict", "block_start": 3}]}}},
        NO_HINT,
    ),
    (
        "metadata",
        "texts",
        {},
        {"metadata": {"next": "person", "expected_ms": "60000", "other": "x"}},
        Hint(Wait.PERSON, MINUTE_US),
    ),
    ("metadata", "after an agent", {}, {"metadata": {"after_agent": "w"}}, Hint(Wait.AGENT, None, "w")),
    (
        "prompt_cache_options",
        "OpenAI's time to live",
        {},
        {"prompt_cache_options": {"mode": "explicit", "ttl": "12h"}},
        Hint(retain_us=12 * HOUR_US),
    ),
    ("prompt_cache_retention", "a day", {}, {"prompt_cache_retention": "24h"}, Hint(retain_us=24 * HOUR_US)),
    ("prompt_cache_retention", "no time", {}, {"prompt_cache_retention": "in_memory"}, NO_HINT),
    (
        "prompt_cache_breakpoint",
        "the longest of several",
        {},
        messages(
            part(prompt_cache_breakpoint={"mode": "explicit", "ttl": "12h"}),
            part(prompt_cache_breakpoint={"mode": "explicit", "ttl": "30m"}),
        ),
        Hint(retain_us=12 * HOUR_US),
    ),
    (
        "prompt_cache_breakpoint",
        "in Responses, and its default",
        {},
        {"input": [{"role": "user", "content": [part(prompt_cache_breakpoint={"mode": "explicit"})]}]},
        Hint(retain_us=30 * MINUTE_US),
    ),
    (
        "cache_control",
        "Anthropic's default",
        {},
        messages(part(cache_control={"type": "ephemeral"})),
        Hint(retain_us=5 * MINUTE_US),
    ),
    (
        "cache_control",
        "an hour on a message, five minutes on top",
        {},
        {
            "messages": [
                {"role": "user", "content": "x", "cache_control": {"type": "ephemeral", "ttl": "1h"}}
            ],
            "cache_control": {"type": "ephemeral", "ttl": "5m"},
        },
        Hint(retain_us=HOUR_US),
    ),
    (
        "cache_control",
        "on a tool",
        {},
        {"tools": [{"type": "function", "cache_control": {"type": "ephemeral", "ttl": "1h"}}]},
        Hint(retain_us=HOUR_US),
    ),
    (
        "x-agent-next",
        "headers before the body, field by field, and the longest time to live",
        {"x-agent-next": "tool"},
        {
            "agent_hint": {"next": "done", "expected_ms": 5, "cache_control": {"ttl": 60}},
            "prompt_cache_options": {"ttl": "30m"},
        },
        Hint(Wait.TOOL, 5_000, None, 30 * MINUTE_US),
    ),
]


@pytest.mark.parametrize(
    ("headers", "body", "hint"), [g[2:] for g in GOLDEN], ids=[f"{g[0]}: {g[1]}" for g in GOLDEN]
)
def test_golden(headers: dict[str, str], body: dict[str, Any], hint: Hint) -> None:
    assert read_hint(headers, body, NOBODY) == hint


def test_every_convention_has_a_golden_test() -> None:
    assert {row.source for row in CONVENTIONS} <= {g[0] for g in GOLDEN}


@pytest.mark.parametrize(
    ("value", "us"),
    [
        (0, MIN_US),
        (0.01, MIN_US),
        ("0.5", MIN_US),
        (1, 1_000),
        (86_400_000, MAX_US),
        (86_400_001, MAX_US),
        (7 * 86_400_000, MAX_US),
        (10**12, None),
        (10**400, None),
        (-1, None),
        (float("nan"), None),
        (float("inf"), None),
        (1e308, None),
        (True, None),
        ("-5", None),
        ("1e9", None),
        ("٣", None),
        ("9" * 5_000, None),
        ([9], None),
        ({}, None),
        (None, None),
    ],
)
def test_absurd_times_are_passed_over_and_the_rest_is_bounded(value: Any, us: int | None) -> None:
    assert read_hint({}, {"agent_hint": {"expected_ms": value}}, NOBODY).expected_us == us


@pytest.mark.parametrize(
    ("value", "us"),
    [
        ("5m", 5 * MINUTE_US),
        ("1h", HOUR_US),
        ("90", 90 * SECOND_US),
        (1.5, 1_500_000),
        *((wrong, None) for wrong in ("365d", "-5m", "5 parsecs", "forever", "", None, "9" * 99)),
    ],
)
def test_times_to_live(value: Any, us: int | None) -> None:
    assert ttl_us(value) == us


@pytest.mark.parametrize("value", [3, None, [], {}, "", "TOOLS", "unknown", "x" * 10_000, True])
def test_an_unknown_kind_of_wait_is_passed_over(value: Any) -> None:
    assert read_hint({}, {"agent_hint": {"next": value}}, NOBODY) == NO_HINT
    assert (
        read_hint({}, {"agent_hint": {"next": value}, "metadata": {"next": "TOOL "}}, NOBODY).wait
        is Wait.TOOL
    )


def test_agents_of_one_session_call_each_other_by_name() -> None:
    body = {"agent_hint": {"next": "agent", "after_agent": "reader"}}
    assert read_hint({}, body, MEMBER).after_agent == "run/reader"
    assert read_hint({}, body, CHAIN).after_agent == "reader"
    full = {"agent_hint": {"after_agent": "run/reader"}}
    assert read_hint({}, full, MEMBER).after_agent == read_hint({}, full, CHAIN).after_agent == "run/reader"


def test_who_waits_for_a_tool_does_not_wait_for_an_agent() -> None:
    assert read_hint({}, {"agent_hint": {"next": "tool", "after_agent": "r"}}, NOBODY) == Hint(Wait.TOOL)


def test_between_turns_prefetch_means_now() -> None:
    value = {"context_management": {"edits": [{"type": "prefetch"}]}}
    assert read_agent_hint(value, "", "a") == Hint(expected_us=MIN_US)
    assert read_hint({}, {"agent_hint": value}, NOBODY) == NO_HINT


def test_a_hint_names_no_service_tier_and_no_tenant() -> None:
    """NVIDIA's hints ask for priority; they are not even looked at."""
    body = {"nvext": {"agent_hints": {"priority": 9, "osl": 100, "speculative_prefill": True}}}
    assert read_hint({"x-vllm-priority": "0"}, body, NOBODY) == NO_HINT


@pytest.mark.parametrize(
    ("body", "wanted"),
    [
        ({}, False),
        ({"prompt_cache_options": {"prewarm": True}}, True),
        ({"prompt_cache_options": {"prewarm": "yes"}}, False),
        ({"prompt_cache_options": [True]}, False),
        ({"generate": False}, True),
        ({"generate": True}, False),
        ({"generate": None}, False),
    ],
)
def test_prewarming_must_be_asked_for(body: dict[str, Any], wanted: bool) -> None:
    assert wants_prewarm(body) is wanted


HEADERS = ["x-agent-next", "x-session-final", "x-dynamo-session-final", "x-session-id"]
KEYS = [
    "agent_hint", "metadata", "prompt_cache_options", "prompt_cache_retention", "messages", "input",
    "system", "tools", "content", "cache_control", "prompt_cache_breakpoint", "ttl", "next",
    "expected_ms", "after_agent", "tool", "context_management", "edits", "type", "prewarm", "generate",
]  # fmt: skip
VALUES = st.sampled_from(["ephemeral", "tool", "done", "evict", "1h", "5m", "9000", "-1", "nan", "reader"])
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=9) | VALUES,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(KEYS), inner, max_size=4),
    max_leaves=12,
)
HINTS = st.dictionaries(st.sampled_from(KEYS), JSON, max_size=6)
"""Fields of bodies that hints are read from; the other random tests use them as well."""


@settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    st.dictionaries(
        st.sampled_from(HEADERS), st.text(st.characters(max_codepoint=255), max_size=99) | VALUES
    ),
    HINTS,
)
def test_whatever_arrives_gives_a_sane_hint(headers: dict[str, str], body: dict[str, Any]) -> None:
    identity = identify(headers, body, ApiKey("acme"))
    for hint in (read_hint(headers, body, identity), read_agent_hint(body, "run", "run/a")):
        assert isinstance(hint.wait, Wait)
        for time_us in (hint.expected_us, hint.retain_us):
            assert time_us is None or (type(time_us) is int and MIN_US <= time_us <= MAX_US)
        assert hint.after_agent is None or 0 < len(hint.after_agent) <= 2 * 255 + 1
        assert hint.after_agent is None or hint.wait in (Wait.AGENT, Wait.CHILD)
    assert wants_prewarm(body) in (True, False)
