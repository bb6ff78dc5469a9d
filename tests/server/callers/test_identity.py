"""One golden test per convention, and properties that hold whatever a client sends."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from stepwell.server.callers.identity import CONVENTIONS, MAX_ID_CHARS, Identity, clean, identify
from stepwell.server.callers.keys import ApiKey

KEY = ApiKey("acme", projects=("search",))
TRACE = "4bf92f3577b34da6a3ce929d0e0e4736"
BAGGAGE = "gen_ai.agent.name=Worker%20one,gen_ai.agent.call.id=call-7,gen_ai.conversation.id=conv-1;ttl=1"

GOLDEN: list[tuple[str, dict[str, str], dict[str, Any], tuple[str, str, str | None, str | None], str]] = [
    # who sends it, headers, body, (session, agent, parent, name), source
    ("nobody", {}, {}, ("", "", None, None), "none"),
    ("gateways", {"x-session-id": "a1"}, {}, ("a1", "a1", None, None), "x-session-id"),
    (
        "our own demo",
        {"x-session-id": "c1/reader-2", "x-parent-session-id": "c1/lead", "x-agent-name": "reader"},
        {},
        ("c1/lead", "c1/reader-2", "c1/lead", "reader"),
        "x-session-id",
    ),
    (
        "OPENAI_CUSTOM_HEADERS per process",
        {"x-session-id": "run-42", "x-agent": "planner"},
        {},
        ("run-42", "run-42/planner", None, "planner"),
        "x-agent",
    ),
    (
        "an agent id within a session",
        {"x-session-id": "run", "x-agent-id": "w", "x-parent-agent-id": "p", "x-agent-name": "n"},
        {},
        ("run", "run/w", "run/p", "n"),
        "x-agent-id",
    ),
    (
        "Dynamo",
        {"x-dynamo-session-id": "c", "x-dynamo-parent-session-id": "p", "x-dynamo-session-final": "true"},
        {"nvext": {"agent_hints": {"priority": 9}}},
        ("p", "c", "p", None),
        "dynamo",
    ),
    ("Claude Code's lead", {"x-claude-code-session-id": "s"}, {}, ("s", "s", None, None), "claude-code"),
    (
        "Claude Code's subagent",
        {"x-claude-code-session-id": "s", "x-claude-code-agent-id": "a"},
        {},
        ("s", "s/a", "s", None),
        "claude-code",
    ),
    (
        "Claude Code's subagent of a subagent",
        {
            "x-claude-code-session-id": "s",
            "x-claude-code-agent-id": "b",
            "x-claude-code-parent-agent-id": "a",
        },
        {},
        ("s", "s/b", "s/a", None),
        "claude-code",
    ),
    (
        "Codex",
        {"session-id": "s", "thread-id": "t", "x-openai-subagent": "review"},
        {},
        ("s", "s/t", None, "review"),
        "codex",
    ),
    (
        "OpenCode",
        {"x-session-affinity": "a", "x-parent-session-id": "p"},
        {},
        ("p", "a", "p", None),
        "session-affinity",
    ),
    (
        "LiteLLM with an agent",
        {"x-litellm-session-id": "s", "x-litellm-agent-id": "a"},
        {},
        ("s", "s/a", None, None),
        "litellm",
    ),
    ("LiteLLM", {"x-litellm-session-id": "s"}, {}, ("s", "s", None, None), "litellm"),
    ("LiteLLM trace", {"x-litellm-trace-id": "t"}, {}, ("t", "t", None, None), "litellm"),
    ("some vendor", {"x-cursor-session-id": "v"}, {}, ("v", "v", None, None), "vendor-session-id"),
    ("a parent alone names no agent", {"x-parent-session-id": "p"}, {}, ("", "", None, None), "none"),
    ("vLLM's body field", {}, {"session_id": "b"}, ("b", "b", None, None), "session_id"),
    (
        "metadata",
        {},
        {"metadata": {"session_id": "s", "agent_id": "a", "parent_agent_id": "p", "agent_name": "n"}},
        ("s", "s/a", "s/p", "n"),
        "metadata",
    ),
    ("metadata, agent only", {}, {"metadata": {"agent_id": "a"}}, ("a", "a", None, None), "metadata"),
    (
        "vLLM RFC 52113",
        {},
        {"agent_hint": {"session_id": "c", "parent_session_id": "p"}},
        ("p", "c", "p", None),
        "agent_hint",
    ),
    ("conversation id", {}, {"conversation": "conv_1"}, ("conv_1", "conv_1", None, None), "conversation"),
    (
        "conversation object",
        {},
        {"conversation": {"id": "conv_1"}},
        ("conv_1", "conv_1", None, None),
        "conversation",
    ),
    (
        "pydantic-ai with OpenTelemetry",
        {"baggage": BAGGAGE, "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
        {},
        ("conv-1", "conv-1/call-7", None, "Worker one"),
        "baggage",
    ),
    (
        "baggage with a name only",
        {"baggage": "gen_ai.agent.name=W", "traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
        {},
        (TRACE, f"{TRACE}/W", None, "W"),
        "baggage",
    ),
    (
        "a trace and no more",
        {"traceparent": f"00-{TRACE}-00f067aa0ba902b7-01"},
        {},
        (TRACE, "", None, None),
        "traceparent",
    ),
    (
        "prompt_cache_key",
        {},
        {"prompt_cache_key": "agents-sdk:run:1", "user": "u"},
        ("agents-sdk:run:1", "", None, None),
        "prompt_cache_key",
    ),
    ("safety_identifier", {}, {"safety_identifier": "u1"}, ("u1", "", None, None), "safety_identifier"),
    ("user", {}, {"user": "u1"}, ("u1", "", None, None), "user"),
    (
        "headers before body",
        {"x-session-id": "h"},
        {"session_id": "b", "metadata": {"agent_name": "n"}},
        ("h", "h", None, "n"),
        "x-session-id",
    ),
]


@pytest.mark.parametrize(
    ("headers", "body", "ids", "source"), [g[1:] for g in GOLDEN], ids=[g[0] for g in GOLDEN]
)
def test_golden(headers: dict[str, str], body: dict[str, Any], ids: Any, source: str) -> None:
    found = identify(headers, body, KEY)
    assert (found.session, found.agent, found.parent, found.name) == ids
    assert (found.tenant, found.source) == ("acme", source)


def test_every_convention_has_a_golden_test() -> None:
    tested = {source for *_, source in GOLDEN}
    assert {convention.source for convention in CONVENTIONS} <= tested


HOSTILE = {
    "x-vllm-priority": "0",
    "x-litellm-priority": "high",
    "x-tenant": "rich",
    "x-service-tier": "priority",
    "openai-organization": "rich",
}


def test_nobody_promotes_himself_or_changes_tenant() -> None:
    body = {
        "priority": 0,
        "cache_salt": "of another tenant",
        "kv_transfer_params": {"do_remote_prefill": True},
        "vllm_xargs": {"priority": 0, "session_id": "x"},
        "nvext": {"priority": 0},
        "tenant": "rich",
    }
    assert identify(HOSTILE, body, KEY) == Identity("acme")


def test_a_project_is_a_tenant_of_its_own_where_the_key_allows_it() -> None:
    assert identify({"openai-project": "search"}, {}, KEY).tenant == "acme/search"
    assert identify({"openai-project": "secret"}, {}, KEY).tenant == "acme"
    assert identify({"openai-project": "search"}, {}, ApiKey("other")).tenant == "other"


def test_ids_are_cleaned() -> None:
    assert clean("  a\r\nb\x00\u202ec\t ") == "abc"
    assert clean(17) == "17"
    assert clean(10**5000) == clean(True) == clean(None) == clean([]) == clean(1.5) == ""


def test_long_ids_stay_different() -> None:
    first, second = clean("x" * 1000 + "1"), clean("x" * 1000 + "2")
    assert len(first) == len(second) == MAX_ID_CHARS
    assert first != second


NAMES = sorted({name for _, headers, *_ in GOLDEN for name in headers} | set(HOSTILE))
FIELDS = sorted({name for _, _, body, *_ in GOLDEN for name in body})
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(
    st.dictionaries(st.sampled_from(NAMES), st.text(st.characters(max_codepoint=255), max_size=600)),
    st.dictionaries(st.sampled_from(FIELDS), JSON | st.fixed_dictionaries({"session_id": JSON, "id": JSON})),
)
def test_whatever_arrives_gives_a_sane_identity(headers: dict[str, str], body: dict[str, Any]) -> None:
    found = identify(headers, body, KEY)
    assert found.tenant in ("acme", "acme/search")
    for name, value in asdict(found).items():
        assert value is None or (isinstance(value, str) and value.isprintable()), name
    limit = 2 * MAX_ID_CHARS + 1
    assert len(found.session) <= MAX_ID_CHARS
    assert len(found.agent) <= limit
    assert (found.source == "none") == (not found.agent and not found.session)
