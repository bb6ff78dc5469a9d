"""Every route is sent fields of every other route, of every type, as text that no JSON library would write.

``test_fuzz.py`` mutates valid requests; here nothing is valid but by chance. Never a 5xx: no field of another
route, no depth, no number and no missing piece is more than a 4xx.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote

import httpx2
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from stepwell.server.admin.budgets import BudgetChange
from stepwell.server.agents.sessions import SessionUpdate
from stepwell.server.app import ROUTES as APP_ROUTES
from stepwell.server.files.prewarm import PrewarmRequest
from stepwell.server.files.search import SearchRequest
from stepwell.server.responses.request import ResponseRequest
from stepwell.server.run import BackgroundServer
from stepwell.server.wire.schema import ChatRequest, CompletionRequest
from tests.server.callers.test_identity import FIELDS
from tests.server.fakes import MODEL
from tests.server.libraries import library_node, uploaded
from tests.server.test_fuzz import check
from tests.server.wire import http

SCHEMAS = (
    BudgetChange, ChatRequest, CompletionRequest, PrewarmRequest, ResponseRequest, SearchRequest,
    SessionUpdate,
)  # fmt: skip
ELSEWHERE = (
    "system",
    "agent_hint",
    "prompt_cache_options",
    "cache_control",
    "generate",
    "data",
    "file",
    "zzz",
)
NAMES = sorted({*(name for one in SCHEMAS for name in one.model_fields), *FIELDS, *ELSEWHERE})
WRITES = sorted({route.path for route in APP_ROUTES if "POST" in (route.methods or ())})

ODD = (
    "NaN", "-Infinity", "1e999", "-0", "1" * 5_000, "-" + "9" * 400, "0.1e-400", '"\\ud800"', '"\\u0000"',
    "nul", "[" * 150 + "]" * 150, "[" * 5_000 + "]" * 5_000,
    '{"a":' * 180 + "1" + "}" * 180, '{"a":' * 4_000,
)  # fmt: skip
INNER = (
    "type",
    "role",
    "content",
    "text",
    "file",
    "file_id",
    "function",
    "name",
    "arguments",
    "schema",
    "url",
)


def parts(file_id: str) -> tuple[Any, ...]:
    """What names a document, in the words of each route."""
    return (
        {"type": "file", "file": {"file_id": file_id}},
        {"type": "input_file", "file_id": file_id},
        {"role": "user", "content": [{"type": "file", "file": {"file_id": file_id}}, 0, None]},
        {"role": "user", "content": [{"type": "input_file", "file_id": file_id}]},
        {"role": "user", "content": "x"},
        {"type": "function", "function": {"name": "f", "parameters": {"type": "object"}}},
    )


@dataclass
class Target:
    server: BackgroundServer
    client: httpx2.Client
    file_id: str


@pytest.fixture(scope="module")
def target(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Target]:
    with library_node(tmp_path_factory.mktemp("library")) as server, http(server) as client:
        yield Target(server, client, uploaded(server, "d.txt", "a document")["id"])


PLAIN = st.one_of(
    st.none(), st.booleans(), st.integers(), st.floats(allow_nan=False, allow_infinity=False),
    st.text(max_size=5), st.sampled_from(parts("FILE")),
)  # fmt: skip
NESTED = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(INNER), inner, max_size=3),
    max_leaves=6,
)
VALUE = NESTED.map(json.dumps) | st.sampled_from(ODD)
ANYTHING = st.dictionaries(st.sampled_from(NAMES), VALUE, max_size=5)
START = st.sampled_from(
    ["{}", '{"model":"tiny"}', '{"model":"tiny","max_tokens":1}', '{"model":"tiny","input":"x"}']
)


@settings(
    max_examples=120, deadline=None, suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large]
)
@example(
    "/v1/chat/completions", '{"model":"tiny"}', {"messages": '["FILE"]', "input": '[0,{"content":["FILE"]}]'}
)
@example("/v1/files/search", "{}", {"query": '"x"', "file_ids": "[" * 180 + "]" * 180})
@given(st.sampled_from(WRITES), START, ANYTHING)
def test_no_field_of_any_route_is_a_failure_of_ours(
    target: Target, path: str, start: str, fields: dict[str, str]
) -> None:
    given_fields = ",".join(f"{json.dumps(name)}:{value}" for name, value in fields.items())
    body = start[:-1] + ("," if len(start) > 2 and given_fields else "") + given_fields + "}"
    for name in ("{file_id}", "{agent_id:path}", "{session_id:path}", "{response_id}"):
        path = path.replace(name, quote(target.file_id))
    answer = target.client.post(path, content=body.replace("FILE", target.file_id))
    check(answer)
    assert "RecursionError" not in answer.text


CALL = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}
TOOL = {"type": "function", "function": {"name": "f", "description": "d", "parameters": {"type": "object"}}}
SCHEMA = {"type": "json_schema", "json_schema": {"name": "n", "strict": True, "schema": {"type": "object"}}}
FILTER = {"type": "and", "filters": [{"type": "eq", "key": "k", "value": "v"}]}
BODIES: dict[str, dict[str, Any]] = {
    "/v1/chat/completions": {
        "model": MODEL,
        "max_tokens": 1,
        "messages": [
            {"role": "system", "content": "s", "name": "n"},
            {"role": "user", "content": [{"type": "text", "text": "x"}, *parts("FILE")[:1]]},
            {"role": "assistant", "content": None, "tool_calls": [CALL]},
            {"role": "tool", "tool_call_id": "c1", "content": [{"type": "text", "text": "y"}]},
            {"role": "user", "content": "z"},
        ],
        "tools": [TOOL],
        "tool_choice": {"type": "function", "function": {"name": "f"}},
        "stream_options": {"include_usage": True},
        "logit_bias": {"1": 1},
        "stop": ["q"],
        "metadata": {"a": "b"},
        "structured_outputs": {"regex": "a"},
        "agent_hint": {"expected_wait_ms": 5},
    },
    "/v1/completions": {"model": MODEL, "max_tokens": 1, "prompt": ["a", "b"], "logprobs": 1, "stop": ["q"]},
    "/v1/responses": {
        "model": MODEL,
        "max_output_tokens": 1,
        "instructions": "i",
        "input": [
            {"role": "user", "content": [{"type": "input_text", "text": "x"}, *parts("FILE")[1:2]]},
            {"type": "reasoning", "id": "r", "summary": [{"type": "summary_text", "text": "t"}]},
            {"type": "function_call", "call_id": "c", "name": "f", "arguments": "{}"},
            {"type": "function_call_output", "call_id": "c", "output": [{"type": "input_text", "text": "o"}]},
        ],
        "tools": [{"type": "function", "name": "f", "parameters": {"type": "object"}}],
        "text": {"format": {"type": "json_schema", "name": "n", "schema": {"type": "object"}}},
        "reasoning": {"effort": "low"},
        "conversation": {"id": "conv_x"},
    },
    "/v1/messages": {
        "model": MODEL,
        "max_tokens": 1,
        "system": [{"type": "text", "text": "s", "cache_control": {"type": "ephemeral", "ttl": "5m"}}],
        "messages": [
            {
                "role": "user",
                "content": [
                    {"type": "document", "source": {"type": "text", "data": "d"}, "title": "t"},
                    {"type": "search_result", "title": "t", "source": "u", "content": [{"type": "text"}]},
                    {"type": "thinking", "thinking": "h"},
                ],
            },
            {"role": "assistant", "content": [{"type": "tool_use", "id": "u", "name": "f", "input": {}}]},
            {
                "role": "user",
                "content": [
                    {"type": "tool_result", "tool_use_id": "u", "content": [{"type": "text", "text": "o"}]}
                ],
            },
        ],
        "tools": [{"name": "f", "input_schema": {"type": "object"}}],
        "tool_choice": {"type": "tool", "name": "f"},
        "thinking": {"type": "enabled", "budget_tokens": 1024},
        "stop_sequences": ["q"],
        "metadata": {"user_id": "u"},
    },
    "/v1beta/models/tiny:generateContent": {
        "contents": [{"role": "user", "parts": [{"text": "x", "thought": False}]}],
        "systemInstruction": {"parts": [{"text": "s"}]},
        "generationConfig": {"maxOutputTokens": 1, "stopSequences": ["q"], "responseJsonSchema": {}},
        "cachedContent": "cachedContents/x",
    },
    "/v1beta/cachedContents": {
        "model": "models/tiny",
        "contents": [{"role": "user", "parts": [{"text": "x"}]}],
        "ttl": "5s",
        "displayName": "d",
    },
    "/v1/embeddings": {"model": MODEL, "input": ["a", [1]], "dimensions": 8, "encoding_format": "base64"},
    "/v1/rerank": {"model": MODEL, "query": "q", "documents": ["a", {"text": "b"}], "top_n": 1},
    "/v1/batches": {
        "input_file_id": "FILE",
        "endpoint": "/v1/chat/completions",
        "completion_window": "24h",
        "metadata": {"a": "b"},
    },
    "/v1/messages/batches": {
        "requests": [{"custom_id": "a", "params": {"model": MODEL, "max_tokens": 1, "messages": [{}]}}]
    },
    "/v1/vector_stores": {
        "name": "n",
        "file_ids": ["FILE"],
        "metadata": {"a": "b"},
        "expires_after": {"anchor": "last_active_at", "days": 1},
        "chunking_strategy": {"type": "static", "static": {"max_chunk_size_tokens": 100}},
    },
    "/v1/vector_stores/STORE/search": {
        "query": ["q"],
        "filters": FILTER,
        "max_num_results": 1,
        "ranking_options": {"score_threshold": 0.1},
    },
    "/v1/vector_stores/STORE/files": {"file_id": "FILE", "attributes": {"k": "v"}},
    "/v1/vector_stores/STORE/file_batches": {"file_ids": ["FILE"], "attributes": {"k": "v"}},
    "/v1/conversations": {
        "items": [{"type": "message", "role": "user", "content": [{"type": "input_text", "text": "x"}]}],
        "metadata": {"a": "b"},
    },
    "/v1/files/search": {"query": "q", "file_ids": ["FILE"], "filters": FILTER, "max_num_results": 1},
    "/tokenize": {"model": MODEL, "prompt": "x", "messages": [{"role": "user", "content": "x"}]},
    "/admin/budgets": {"tenant": "t", "soft_usd": 1, "hard_usd": 2},
}
"""Of everything that a route takes apart."""
ANYTHING_ELSE: tuple[Any, ...] = (None, -1, 10**30, "", [], [[{}]], {"type": []})


def changed(body: Any) -> Iterator[Any]:
    """``body`` with each value in it, however deep, replaced by each of those."""
    yield from ANYTHING_ELSE
    places = body.items() if isinstance(body, dict) else enumerate(body) if isinstance(body, list) else ()
    for key, inner in list(places):
        for one in changed(inner):
            copy = body.copy()
            copy[key] = one
            yield copy


@pytest.mark.parametrize("path", BODIES)
def test_each_value_in_a_body_may_be_anything(target: Target, path: str) -> None:
    store = "vs_x"
    if "STORE" in path:
        store = target.client.post("/v1/vector_stores", json={"file_ids": [target.file_id]}).json()["id"]
    for body in changed(BODIES[path]):
        text = json.dumps(body).replace("FILE", target.file_id)
        answer = target.client.post(path.replace("STORE", store), content=text)
        assert answer.status_code < 500 and "internal_error" not in answer.text, (text, answer.text)


def test_every_route_that_takes_a_body_is_tried() -> None:
    assert {"/v1/messages", "/v1/files/{file_id}/prewarm", "/admin/budgets"} <= {*WRITES}
    assert len(BODIES) >= 18
    assert {"messages", "input", "prompt", "query", "spend_control", "hard_usd", "agent_hint"} <= {*NAMES}
    assert MODEL == "tiny"
