"""What is read of a request: never an error, never authority, and the same agent as the node will find."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stepwell.basics.per_tier import NOTHING
from stepwell.fleet.places import Places
from stepwell.fleet.prefixes import CUTS, MAX_PREFIXES, PromptPrefix
from stepwell.gateway.peek import Heard, peek
from stepwell.server.callers.identity import identify
from stepwell.server.callers.keys import ApiKey

KEY = ApiKey("acme", ("default", "flex"))
values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.text(max_size=6),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=6), inner, max_size=3),
    max_leaves=6,
)
fields = st.sampled_from(
    [
        "model",
        "session_id",
        "metadata",
        "agent_hint",
        "user",
        "stream",
        "max_tokens",
        "service_tier",
        "messages",
    ]
)
headers = st.dictionaries(
    st.sampled_from(["x-session-id", "x-agent-id", "session-id", "baggage"]), st.text(max_size=8)
)


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(fields, values, max_size=6), headers)
def test_the_agent_is_the_one_that_the_node_finds(body: dict[str, Any], sent: dict[str, str]) -> None:
    peeked = peek(sent, json.dumps(body).encode(), KEY, Places())
    identity = identify(sent, body, KEY)
    turn = peeked.turn
    assert (turn.tenant, turn.session, turn.agent) == (identity.tenant, identity.session, identity.agent)
    assert turn.prompt_tokens >= 1 and 1 <= turn.max_new_tokens <= 4_096


@settings(max_examples=60, deadline=None)
@given(st.binary(max_size=200))
def test_bytes_that_are_no_json_are_a_turn_of_nobody(body: bytes) -> None:
    turn = peek({}, body, KEY, Places()).turn
    assert (turn.tenant, turn.service_tier) == ("acme", "default")


def test_deep_nesting_is_the_nodes_to_refuse() -> None:
    assert peek({}, b'{"metadata":' + b"[" * 50_000, KEY, Places()).turn.session == ""


def test_a_known_agent_is_as_long_as_it_was() -> None:
    places = Places()
    places.put(("acme", "s/1"), "s", 5_000, "a", NOTHING._replace(device=1))
    sent = {"x-session-id": "s", "x-agent-id": "1"}
    assert peek(sent, b"{}", KEY, places).turn.prompt_tokens == 5_000


@pytest.mark.parametrize(
    ("chunks", "expected"),
    [
        ([b'{"usage":{"prompt_tokens":10,"completion_tokens":3,"cached_tokens": 8}}'], (13, 3, 8)),
        ([b'data: {"usage":{"input_tokens":7,"output_tokens":2}}\n\n'], (9, 2, 0)),
        ([b"data: {}\n\n", b"data: {}\n\n"], (102, 2, 0)),
    ],
)
def test_what_an_answer_says_of_its_tokens(chunks: list[bytes], expected: tuple[int, int, int]) -> None:
    heard = Heard()
    for chunk in chunks:
        heard.hear(chunk)
    turn = peek({}, b"x" * 400, KEY, Places()).turn
    assert heard.tokens(turn) == expected


def test_the_id_of_a_stored_response_is_heard_once() -> None:
    heard = Heard()
    heard.hear(b'data: {"response":{"id":"resp_a"}}\n\n')
    heard.hear(b'data: {"response":{"id":"resp_b"}}\n\n')
    assert heard.response == "resp_a"


def _chain(body: dict[str, Any], tenant: str = "acme") -> tuple[PromptPrefix, ...]:
    return peek({}, json.dumps(body).encode(), ApiKey(tenant, ("default",)), Places()).turn.prefixes


def _common(one: tuple[PromptPrefix, ...], other: tuple[PromptPrefix, ...]) -> int:
    return max((prefix.tokens for prefix in {*one} & {*other}), default=0)


@pytest.mark.parametrize("field", ["prompt", "input", "messages", "system", "instructions"])
def test_prompts_that_begin_alike_have_as_much_of_their_chains_in_common(field: str) -> None:
    def body(text: str, **more: object) -> dict[str, Any]:
        said = [{"role": "user", "content": text}] if field == "messages" else text
        return {**more, "model": "m", field: said}

    long = "".join(f"{n} " for n in range(2_000))
    one, other = _chain(body(long + "a")), _chain(body(long + "bcd", temperature=1, seed=7))
    assert 0.7 * len(long) <= 4 * _common(one, other) <= len(long) + 40
    assert len(one) <= MAX_PREFIXES and one == _chain(body(long + "a", stream=True))
    assert _common(one, _chain(body("x" + long))) == 0
    assert _common(one, _chain(body(long + "a"), "else")) == 0
    assert _common(one, _chain(body(long + "a") | {"model": "n"})) == 0


def test_a_prompt_without_end_has_a_chain_that_ends() -> None:
    endless = _chain({"prompt": "x" * (5 * CUTS[-1])})
    assert len(endless) <= MAX_PREFIXES and endless[-1].tokens == CUTS[-1]
    assert _chain({}) == ()
