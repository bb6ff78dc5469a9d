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

from stepwell.server.admin_budgets import BudgetChange
from stepwell.server.app import ROUTES as APP_ROUTES
from stepwell.server.file_prewarm import PrewarmRequest
from stepwell.server.file_search import SearchRequest
from stepwell.server.response_schema import ResponseRequest
from stepwell.server.run import BackgroundServer
from stepwell.server.schema import ChatRequest, CompletionRequest
from stepwell.server.sessions import SessionUpdate
from tests.server.fakes import MODEL
from tests.server.libraries import library_node, uploaded
from tests.server.test_fuzz import check
from tests.server.test_identity import FIELDS
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


def test_every_route_that_takes_a_body_is_tried() -> None:
    assert {"/v1/messages", "/v1/files/{file_id}/prewarm", "/admin/budgets"} <= {*WRITES}
    assert {"messages", "input", "prompt", "query", "spend_control", "hard_usd", "agent_hint"} <= {*NAMES}
    assert MODEL == "tiny"
